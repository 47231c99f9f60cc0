"""`orch accelerators`: the table of GPUs and TPU slices."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.output import output_option, print_json
from orchestrator.text import columns

if TYPE_CHECKING:
    from orchestrator.jobfile.accelerators import Accelerator

_SHOWN = 8
"""So many slices of a generation are shown where no name is given: v4 and v5p have hundreds."""
_GIB = 1024**3


@click.command()
@click.argument("name", required=False)
@output_option
def accelerators(name: str | None, output: str) -> int:
    """List what resources.accelerator of a job file may name: GPUs and TPU slices.

    With a NAME, only what is called so: a generation of TPUs, a slice, a GPU; a single one with what its pods ask for.

    \b
    Examples:
      orch accelerators
      orch accelerators v5p
      orch accelerators v5litepod-16
      orch accelerators nvidia-l4:2 -o json
    """
    from orchestrator.jobfile.accelerators import every, named

    entries = list(every()) if name is None else named(name)
    if output == "json":
        print_json([_to_json(entry) for entry in entries])
    elif len(entries) == 1:
        _print_one(entries[0])
    else:
        _print_table(entries, shorten=name is None)
    return 0


def _to_json(entry: "Accelerator") -> dict[str, Any]:
    fields = {name: value for name, value in vars(entry).items() if name not in ("node_selector", "tolerations")}
    return fields | {"node_selector": dict(entry.node_selector), "tolerations": [dict(it) for it in entry.tolerations]}


def _print_one(entry: "Accelerator") -> None:
    workers = f"{entry.hosts}, one a host" if entry.hosts else "as many as resources.workers says"
    rows = [
        ("workers", workers),
        ("a worker has", f"{entry.chips_per_host} {'chips' if entry.kind == 'tpu' else 'GPUs'}"),
        ("memory of each", _memory(entry)),
        ("topology", entry.topology or "-"),
        ("node labels", ", ".join(f"{key}={value}" for key, value in entry.node_selector.items()) or "none"),
        ("a pod asks for", f"{entry.resource}: {entry.chips_per_host}"),
        ("and tolerates", ", ".join(f"{item['key']}:{item['effect']}" for item in entry.tolerations)),
    ]
    click.echo(entry.name)
    for title, text in [*rows, *([("note", entry.note)] if entry.note else [])]:
        click.echo(f"  {title:<14}  {text}")


def _print_table(entries: Iterable["Accelerator"], *, shorten: bool) -> None:
    rows = [("NAME", "WORKERS", "A WORKER HAS", "TOPOLOGY", "MEMORY OF EACH")]
    kinds: dict[str, list[Accelerator]] = {}
    for entry in entries:
        kinds.setdefault(
            entry.name.partition(":")[0] if entry.kind == "gpu" else entry.name.rpartition("-")[0], []
        ).append(entry)
    more = []
    for kind, members in kinds.items():
        if members[0].kind == "gpu":
            counts = [member.chips_per_host for member in members]
            name = f"{kind}:{counts[0]}" if len(counts) == 1 else f"{kind}:N"
            rows.append((name, "any", f"{counts[0]} to {counts[-1]}", "-", _memory(members[0])))
            continue
        shown = members[:_SHOWN] if shorten else members
        rows += [
            (item.name, str(item.hosts), str(item.chips_per_host), str(item.topology), _memory(item)) for item in shown
        ]
        if len(shown) < len(members):
            more.append(
                f"{kind} has {len(members) - len(shown)} more, up to {members[-1].name}: orch accelerators {kind}"
            )
    any_gpu = ["gpu:N is any NVIDIA GPU of the cluster: no node label is asked for"] if shorten else []
    for line in [*columns(rows), *more, *any_gpu]:
        click.echo(line)


def _memory(entry: "Accelerator") -> str:
    size = entry.memory_per_chip_bytes
    return f"{size // _GIB} GiB" if size is not None else "not known"
