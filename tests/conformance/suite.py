"""From a part of the catalogue to verdicts: which process runs what, and the comparison at the end."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tests.conformance.catalogue import OF_SEVERAL, Entry, Part, load, of_part
from tests.conformance.runner import Job, has, run_lanes
from tests.conformance.verdict import Verdict, judge


def run(
    out: Path,
    part: Part,
    *,
    only: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
    python: str = sys.executable,
    which: Literal["all", "rest", "none"] = "all",
) -> list[Verdict]:
    """Run what is asked for: the verdicts in the catalogue's order.

    Args:
        which: run all of it, what has no outcome in `out` yet, or nothing; the outcomes in `out` are judged.
    """
    chosen = planned(part, only=only, modes=modes)
    lanes = _lanes(chosen) if which != "none" else []
    if which == "rest":
        lanes = [[(kind, [job for job in jobs if not has(out, job)]) for kind, jobs in lane] for lane in lanes]
    run_lanes(lanes, out, python)
    return [judge(one, mode, out) for one, mode in chosen]


def planned(
    part: Part, *, only: Sequence[str] | None = None, modes: Sequence[str] | None = None
) -> list[tuple[Entry, str]]:
    """What `run` would run. `only`: ids, or parts of ids."""
    entries = [
        one for one in of_part(load(), part) if not only or any(word in f"{one.family}/{one.id}" for word in only)
    ]
    entries = [one for one in entries if not one.needs or importlib.util.find_spec(one.needs)]
    return [
        (one, mode) for one in entries for mode in one.modes if (not modes or mode in modes) and _in(one, mode, part)
    ]


def _in(one: Entry, mode: str, part: Part) -> bool:
    """Two workers take what replicas of one process take, and XLA the same program: parts have them of a few tasks. Of replicas
    CI has what replicas could change: another number than fit's, draws, refusals; and the most telling of the rest."""
    if part == "whole" or mode in ("one", "killed") or mode in one.also:
        return True
    if part == "fast":
        return False
    changed = mode == "four" and bool(one.why or one.random or one.refused)
    return changed or one.modes == (mode,) or (mode in ("xla", "four") and one.part == "fast")


_SECONDS = {
    "oracle": 1.7,
    "oracle-xla": 2.8,
    "one": 2.2,
    "killed": 4.2,
    "xla": 3.3,
    "four": 5.9,
    "two": 5.9,
    "script": 5.9,
}
"""What a task takes about, by mode."""


def _lanes(chosen: Sequence[tuple[Entry, str]]) -> list[list[tuple[str, list[Job]]]]:
    """Two of about the same length: the oracle and one worker, by the task; replicas and workers, and the rest of the former."""
    single: list[Job] = []
    for one, mode in chosen:
        needed = {
            "killed": ["oracle", "one", "killed"],
            "xla": ["oracle", *(["oracle-xla"] if one.normal else []), "xla"],
        }
        for job in ((one.id, each) for each in needed.get(mode, ["oracle", mode])):
            if job not in single and not any(job[1] in modes for modes in OF_SEVERAL.values()):
                single.append(job)
    several = [(kind, [(one.id, mode) for one, mode in chosen if mode in modes]) for kind, modes in OF_SEVERAL.items()]
    rest: list[Job] = []
    behind = _length(single) - sum(_length(jobs) for _, jobs in several)
    while single and behind > 0:
        rest.append(single.pop())
        behind -= 2 * _length(rest[-1:])
    return [[("one", single)], [(kind, jobs) for kind, jobs in (*several, ("one", rest[::-1])) if jobs]]


def _length(jobs: Sequence[Job]) -> float:
    return sum(_SECONDS[mode] for _, mode in jobs)
