"""`orch checkpoints list|verify|export`: what a run directory holds to go on from."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.output import cluster_options, output_option, print_json, say
from orchestrator.cli.watch import directory_of
from orchestrator.text import columns, size

if TYPE_CHECKING:
    from orchestrator.runs.checkpoints import Checkpoint, Overview

EXIT_DAMAGED = 1
_SPOKEN_EVERY_S = 1.0


@click.group()
def checkpoints() -> None:
    """List, verify and export the checkpoints of a run.

    TARGET is as for `orch status`: a run directory (a path with a slash, or gs://bucket/prefix), or a bare name, which is
    ./runs/NAME where that exists, else a job of the cluster whose run directory is a bucket.

    \b
    Examples:
      orch checkpoints list digits
      orch checkpoints verify gs://acme-train/digits
      orch checkpoints export runs/digits --to digits.safetensors
    """


@checkpoints.command("list")
@click.argument("target")
@cluster_options
@output_option
def list_(target: str, context: str | None, namespace: str | None, output: str) -> int:
    """Show every checkpoint, newest first, and which one a restart would take.

    "on the line" are those that led to the newest attempt. "stale" is what no attempt went on from. "listed as bad" did not
    verify in a restart. Shards are looked for, not read: `orch checkpoints verify` reads them.

    \b
    Examples:
      orch checkpoints list digits
      orch checkpoints list gs://acme-train/digits -o json
    """
    from orchestrator.runs.checkpoints import Run

    overview = Run(directory_of(target, context, namespace)[0]).overview()
    if output == "json":
        print_json(overview.to_json())
    else:
        _print_overview(overview)
    return 0


@checkpoints.command()
@click.argument("target")
@click.argument("which", required=False, metavar="[STEP|NAME]")
@cluster_options
@output_option
def verify(target: str, which: str | None, context: str | None, namespace: str | None, output: str) -> int:
    """Read every shard and compare sizes and checksums. Leaves with 1 where something is damaged, or nothing is left.

    Without STEP or NAME, all checkpoints of the line. Nothing is changed: a restart finds damage by itself, and passes over it.

    \b
    Examples:
      orch checkpoints verify digits
      orch checkpoints verify runs/digits 200
      orch checkpoints verify gs://acme-train/digits step-200.attempt-1 -o json
    """
    from orchestrator.runs.checkpoints import Run

    run = Run(directory_of(target, context, namespace)[0])
    refs = [run.find(which)] if which else run.line()
    verdicts = []
    for ref in refs:
        verdict = run.verify(ref, _Progress(f"reading {ref.name}"))
        verdicts.append(verdict)
        if output == "text":
            told = f"{size(verdict.size_bytes)} in {verdict.seconds:.1f} s"
            click.echo(f"{ref.name}: DAMAGED: {verdict.damage}" if verdict.damage else f"{ref.name}: good, {told}")
    damaged = [verdict.ref for verdict in verdicts if verdict.damage]
    restart = run.restart(damaged)
    if output == "json":
        print_json(
            {
                "run_directory": run.store.url,
                "checkpoints": [verdict.to_json() for verdict in verdicts],
                "restart": restart.to_json(),
            }
        )
    else:
        unread = " (which was not read now)" if restart.ref is not None and restart.ref not in refs else ""
        click.echo(restart.text + unread)
    return EXIT_DAMAGED if damaged or not restart.possible else 0


@checkpoints.command()
@click.argument("target")
@click.argument("which", required=False, metavar="[STEP|NAME]")
@click.option(
    "--to",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE.safetensors|FOLDER",
    help="One file, or a folder for a file a shard.",
)
@click.option("--replicas", is_flag=True, help="Every replica's copy of what differs between them, not the mean.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@cluster_options
@output_option
def export(
    target: str,
    which: str | None,
    to: Path,
    replicas: bool,
    force: bool,
    context: str | None,
    namespace: str | None,
    output: str,
) -> int:
    """Write a checkpoint's tensors as safetensors, for other programs.

    Without STEP or NAME, the checkpoint that a restart would take. Tensors have the names of their Keras variables; where two
    share one, their place: model/3, optimizer/0. A JSON file beside them holds step, seed, versions and the rest.

    \b
    Examples:
      orch checkpoints export digits --to digits.safetensors
      orch checkpoints export runs/digits 200 --to weights/
      orch checkpoints export gs://acme-train/digits step-200.attempt-1 --to digits.safetensors --force
    """
    from orchestrator.runs.checkpoints import Run
    from orchestrator.runs.export import export as write
    from trainer.errors import ConfigError

    run = Run(directory_of(target, context, namespace)[0])
    ref = run.find(which) if which else run.restart().ref
    if ref is None:
        raise ConfigError(
            f"{run.store.url} holds no checkpoint to export",
            remedy=f"`orch checkpoints list {target}` shows what it holds.",
        )
    done = write(run.store, ref, to, replicas=replicas, force=force, progress=_Progress(f"exporting {ref.name}"))
    if output == "json":
        print_json(done.to_json())
    else:
        click.echo(f"{ref.name}: {done.tensors} tensors, {size(done.size_bytes)}")
        click.echo("\n".join(done.files))
    return 0


class _Progress:
    """Says how far it is, once a second, and nothing where all is done in the first."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._next = time.monotonic() + _SPOKEN_EVERY_S

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next and done < total:
            say(f"{self._what}: {size(done)} of {size(total)}")
            self._next = now + _SPOKEN_EVERY_S


def _print_overview(overview: "Overview") -> None:
    if overview.checkpoints:
        titles = ("", "step", "attempt", "created", "size", "shards", "state", "")
        rows = [titles] + [_row(item, chosen=item.ref == overview.restart.ref) for item in overview.checkpoints]
        click.echo("\n".join(columns(rows)))
    click.echo(overview.restart.text)


def _row(item: "Checkpoint", *, chosen: bool) -> tuple[str, ...]:
    commit = item.commit
    return (
        "*" if chosen else "",
        str(item.ref.step),
        str(item.ref.attempt),
        f"{commit.created.astimezone():%Y-%m-%d %H:%M:%S}" if commit else "?",
        size(commit.size_bytes) if commit else "?",
        str(len(commit.shards)) if commit else "?",
        item.state.value,
        item.why,
    )
