"""docs/conformance.md: what the verdicts of a run of the whole say to a user, and whether the page still holds."""

import importlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.conformance.catalogue import MODES, Entry
from tests.conformance.verdict import Verdict

DOCS = Path(__file__).parents[2] / "docs" / "conformance.md"
_HEAD = """# Does orch train my model as `fit` does?

Written by `make conformance`; do not edit. {count} small tasks of all kinds, each trained for a dozen steps by Keras' own `fit`
in one process and by orch, on the same batches in the same order. Compared are all variables of the model and of the optimizer,
the logs of every epoch, every evaluation, the answers of the exported model, and where callbacks are the matter, each call they
get. A task whose number is another one than `fit`'s is compared with the right one, computed by hand.

| Mode | What runs, and what it is compared with |
| --- | --- |
| one | one worker, compiled as a graph, as `fit` is on a CPU; with `fit` |
| xla | one worker, compiled as orch chooses by itself, for most models by XLA; with `fit` |
| killed | as one, stopped hard in the middle of an epoch and gone on from a checkpoint; with one, bit for bit |
| four | one process with four replicas (MirroredStrategy over four logical CPUs), as on a host of four GPUs; with `fit` |
| two | two worker processes (MultiWorkerMirroredStrategy); with `fit` |
| script | the oracle's own program, with its `model.fit`, as `train.script` in two worker processes; with `fit` |

{versions}
"""

_DRAWS = """Tasks that draw random numbers in layers (Dropout, noise, augmentation) are the same training with other draws when
there are several replicas: each replica draws for its own part of the batch, where one device draws for all of it. They are
compared by size alone there: {ids}. XLA makes other normal numbers of the same
bits than a graph does: what draws these is compared with `fit` compiled by XLA.
"""

_TABLES = """A number is the largest difference of any variable of the model from that of `fit`, relative to the largest value
of that variable; 0 is bit for bit. *identical*: bit for bit as without the kill. *refused*: said before the first step, see
above. *other*: another number than `fit` gives, for the reason above; what follows is the distance from the right one.
"""


def write(path: Path, verdicts: Sequence[Verdict], entries: Iterable[Entry], versions: str) -> None:
    """The page, from all verdicts; of tasks that were not run, the row alone."""
    known = list(entries)
    families = dict.fromkeys(one.family for one in known)
    lines = [_HEAD.format(count=len(known), versions=versions), *_counts(verdicts, families)]
    lines += ["", "## Where a number is not that of fit", "", *_differing(verdicts)]
    drawn = dict.fromkeys(one.entry.id for one in verdicts if one.drawn)
    if drawn:
        lines += ["", _DRAWS.format(ids=", ".join(drawn)).rstrip()]
    lines += ["", "## What is refused", "", *_refused(verdicts)]
    failed = [verdict for verdict in verdicts if verdict.kind == "failed"]
    if failed:
        lines += ["", "## What fails", "", "| Task | Mode | What is wrong |", "| --- | --- | --- |"]
        lines += [f"| {one.entry.id} | {one.mode} | {_cell_text(one.faults[0][:200])} |" for one in failed]
    lines += ["", "## All tasks", "", _TABLES.rstrip()]
    for family in families:
        lines += ["", f"### {family.capitalize()}", "", f"| Task | What it shows | {' | '.join(MODES)} |"]
        lines += ["| --- " * (2 + len(MODES)) + "|"]
        for one in known:
            if one.family == family:
                cells = {verdict.mode: _cell(verdict) for verdict in verdicts if verdict.entry.id == one.id}
                lines.append(f"| {one.id} | {one.shows} | {' | '.join(cells.get(mode, '') for mode in MODES)} |")
    path.write_text("\n".join(lines).rstrip() + "\n")


def check(path: Path, verdicts: Sequence[Verdict], entries: Iterable[Entry]) -> list[str]:
    """What the page says otherwise than these verdicts and the catalogue, digits apart."""
    rows: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 2 + len(MODES) and cells[0] not in ("Task", "---", "Kind"):
            rows[cells[0]] = cells[1:]
    ids = {one.id for one in entries}
    faults = [f"{path.name} lacks {id}" for id in sorted(ids - set(rows))]
    faults += [f"{path.name} has {id}, which is no task any more" for id in sorted(set(rows) - ids)]
    for verdict in verdicts:
        said = rows.get(verdict.entry.id)
        if said and verdict.kind not in ("failed", "missing"):
            cell = said[1 + MODES.index(verdict.mode)]
            if _kind(cell) != _kind(_cell(verdict)):
                faults.append(f"{verdict.entry.id} [{verdict.mode}]: {path.name} says {cell!r}, it is {verdict.kind}")
    return [f"{fault}; run `make conformance`" for fault in faults]


def _counts(verdicts: Sequence[Verdict], families: Iterable[str]) -> list[str]:
    lines = [f"| Kind of task | {' | '.join(MODES)} |", "| --- " * (1 + len(MODES)) + "|"]
    for family in families:
        cells = [_count([one for one in verdicts if one.entry.family == family and one.mode == mode]) for mode in MODES]
        lines.append(f"| {_title(family)} | {' | '.join(cells)} |")
    totals = [_count([one for one in verdicts if one.mode == mode]) for mode in MODES]
    return [*lines, f"| **all** | {' | '.join(totals)} |"]


_NAMES = {
    "equal": "as fit",
    "identical": "identical",
    "differs": "other",
    "refused": "refused",
    "failed": "FAIL",
    "missing": "not run",
}


def _count(verdicts: Sequence[Verdict]) -> str:
    counts = {name: sum(one.kind == kind and not one.drawn for one in verdicts) for kind, name in _NAMES.items()}
    counts["other draws"] = sum(one.drawn and one.kind == "differs" for one in verdicts)
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _title(family: str) -> str:
    """What a module of tasks says of itself, up to its colon."""
    text = importlib.import_module(f"tests.conformance.{family}").__doc__ or family
    return text.partition("\n")[0].partition(":")[0].rstrip(".")


def _differing(verdicts: Sequence[Verdict]) -> list[str]:
    lines = [
        "| Task | Modes, and how far it is from the right value | What fit gives, and what orch gives |",
        "| --- | --- | --- |",
    ]
    by_task: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.kind == "differs" and not verdict.drawn:
            by_task.setdefault(verdict.entry.id, []).append(verdict)
    for found in by_task.values():
        figures: dict[str, list[str]] = {}
        for one in found:
            figures.setdefault(_figure(one.figure), []).append(one.mode)
        told = "; ".join(f"{', '.join(modes)}: {figure}" for figure, modes in figures.items())
        lines.append(f"| {found[0].entry.shows} ({found[0].entry.id}) | {told} | {found[0].entry.why} |")
    return lines


def _refused(verdicts: Sequence[Verdict]) -> list[str]:
    lines = ["| Task | Modes | Why | What orch says |", "| --- | --- | --- | --- |"]
    by_task: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.kind == "refused":
            by_task.setdefault(verdict.entry.id, []).append(verdict)
    for found in by_task.values():
        entry, modes = found[0].entry, ", ".join(one.mode for one in found)
        lines.append(f"| {entry.shows} ({entry.id}) | {modes} | {entry.why} | {_cell_text(found[0].said)} |")
    return lines


def _cell(verdict: Verdict) -> str:
    if verdict.kind == "equal":
        return _figure(verdict.figure)
    if verdict.kind == "differs":
        return "other draws" if verdict.drawn else f"other {_figure(verdict.figure)}"
    if verdict.kind == "missing":
        return ""
    return _NAMES[verdict.kind]


def _figure(number: float) -> str:
    return f"{number:.0e}" if number else "0"


def _kind(cell: str) -> str:
    return re.sub(r"[0-9.e+-]*[0-9][0-9.e+-]*", "", cell).strip()


def _cell_text(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")
