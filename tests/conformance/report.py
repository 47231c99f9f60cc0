"""docs/conformance.md: the table of all tasks, written from the verdicts of a run of the whole, and whether it still holds."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.conformance.catalogue import MODES, Entry
from tests.conformance.verdict import Verdict

_HEAD = """# Trains what Keras trains

Written by `make conformance`; do not edit. Each row is a small task, trained for 12 steps or a few more by Keras' own `fit` in
one process and by the trainer, on the same batches in the same order. Compared are the weights, the optimizer's variables, the
logs of every epoch, every evaluation, the answers of the exported model, and where callbacks are the matter, every call they get.

| Mode | What runs |
| --- | --- |
| one | one worker, compiled as a graph, as `fit` is on a CPU |
| xla | one worker, compiled as orch chooses by itself |
| killed | as one, but stopped hard in the middle of an epoch, and gone on from the last commit; compared with one |
| four | one process with four replicas (MirroredStrategy) |
| two | two worker processes (MultiWorkerMirroredStrategy) |

A number is the largest difference of any variable of the model from Keras', relative to the largest value of that variable; 0 is
bit for bit. *identical*: bit for bit as without the kill. *refused*: said before the first step, with the remedy. *other*: not
the number that Keras gives, and the reason stands below the table.

Tasks that draw random numbers in training (Dropout, noise): XLA draws others than a graph, so xla is compared with `fit` compiled
by XLA. Each replica draws for its own part of the batch, so that four and two draw others than one device does.
"""


def write(path: Path, verdicts: Sequence[Verdict], entries: Iterable[Entry]) -> None:
    """The page, from all verdicts; of tasks that were not run, the row alone."""
    known = list(entries)
    lines = [_HEAD, *_summary(verdicts, len(known)), ""]
    for family in dict.fromkeys(one.family for one in known):
        of_family = [verdict for verdict in verdicts if verdict.entry.family == family]
        lines += [f"## {family.capitalize()}", "", f"| Task | What it shows | {' | '.join(MODES)} |"]
        lines += ["| --- " * (2 + len(MODES)) + "|"]
        of_kind = [one for one in known if one.family == family]
        for one in of_kind:
            cells = {verdict.mode: _cell(verdict) for verdict in of_family if verdict.entry.id == one.id}
            lines.append(f"| {one.id} | {one.shows} | {' | '.join(cells.get(mode, '') for mode in MODES)} |")
        lines.append("")
        reasons = [f"- {one.id}: {one.why}." for one in of_kind if one.why]
        lines += [*reasons, ""] if reasons else []
    path.write_text("\n".join(lines).rstrip() + "\n")


def check(path: Path, verdicts: Sequence[Verdict], entries: Iterable[Entry]) -> list[str]:
    """What the page says otherwise than these verdicts and the catalogue, digits apart."""
    rows: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 2 + len(MODES) and cells[0] not in ("Task", "---"):
            rows[cells[0]] = cells[1:]
    ids = {one.id for one in entries}
    faults = [f"{path.name} lacks {id}" for id in sorted(ids - set(rows))]
    faults += [f"{path.name} has {id}, which is no task any more" for id in sorted(set(rows) - ids)]
    for verdict in verdicts:
        said = rows.get(verdict.entry.id)
        if said and _kind(said[1 + MODES.index(verdict.mode)]) != _kind(_cell(verdict)):
            faults.append(
                f"{verdict.entry.id} [{verdict.mode}]: {path.name} says {said[1 + MODES.index(verdict.mode)]!r}"
            )
    return [f"{fault}; run `make conformance`" for fault in faults]


def _summary(verdicts: Sequence[Verdict], tasks: int) -> list[str]:
    kinds = ("equal", "identical", "refused", "differs", "failed")
    lines = [f"{tasks} tasks.", "", f"| Mode | {' | '.join(_NAMES[kind] for kind in kinds)} |"]
    lines += ["| --- " * (1 + len(kinds)) + "|"]
    for mode in MODES:
        counts = [sum(one.mode == mode and one.kind == kind for one in verdicts) for kind in kinds]
        lines.append(f"| {mode} | {' | '.join(map(str, counts))} |")
    return lines


_NAMES = {"equal": "as Keras", "identical": "identical", "refused": "refused", "differs": "other", "failed": "FAILS"}


def _cell(verdict: Verdict) -> str:
    if verdict.kind == "equal":
        return f"{verdict.figure:.0e}" if verdict.figure else "0"
    return f"other {verdict.figure:.0e}" if verdict.kind == "differs" else _NAMES[verdict.kind]


def _kind(cell: str) -> str:
    return re.sub(r"[0-9.e+-]*[0-9][0-9.e+-]*", "", cell).strip()
