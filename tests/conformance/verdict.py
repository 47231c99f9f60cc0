"""What two outcomes say of a task in a mode: as the oracle, refused as it should be, or not."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.catalogue import OF_SEVERAL, Entry
from tests.conformance.outcome import Outcome, distance, largest, of_logs

ROUNDING = {"one": 1e-6, "xla": 1e-5, "four": 1e-5, "two": 1e-5, "script": 1e-5}
"""float32, at most 20 steps: how far weights may be, relative to the largest of each variable. Logs: ten times that."""
_LOGS = 10.0
_FLOORS = {"weights": 1e-2, "optimizer": 1e-6, "predictions": 1e-2}
"""Smaller values are rounding themselves: the bias of a key in attention, whose gradient is zero but for it."""
_DRAWN = 1.0
"""Where random numbers are others: the same training all the same. Relative to the largest of all weights; logs as much."""


@dataclass
class Verdict:
    """One cell of the table."""

    entry: Entry
    mode: str
    kind: str
    """equal, identical, refused, differs (with the entry's reason), failed, missing."""
    figure: float = 0.0
    """The largest distance of weights from the oracle."""
    faults: list[str] = field(default_factory=list)
    drawn: bool = False
    """Whether random numbers are others than the oracle's, so that only sizes are compared."""
    said: str = ""
    """What a refusal says."""


def judge(entry: Entry, mode: str, out: Path) -> Verdict:
    """From the files in `out`."""
    try:
        ours = Outcome.load(out / entry.id / mode)
        by_xla = ours.compiled == "xla" and entry.normal
        compared = "one" if mode == "killed" else "oracle-xla" if by_xla else "oracle"
        theirs = None if entry.refuses(mode) else Outcome.load(out / entry.id / compared)
    except OSError as error:
        return Verdict(entry, mode, "missing", faults=[f"there is no outcome: {error}"])
    if refusal := entry.refuses(mode):
        if ours.config_error and re.search(refusal, ours.error):
            return Verdict(entry, mode, "refused", said=ours.error.partition(": ")[2])
        return Verdict(entry, mode, "failed", faults=[f"is not refused by /{refusal}/: {ours.error or 'it trained'}"])
    assert theirs is not None
    if theirs.error:
        return Verdict(entry, mode, "failed", faults=[f"the {compared} failed: {theirs.error}"])
    if entry.ends:
        return _ended(entry, mode, ours, theirs)
    if ours.error:
        return Verdict(entry, mode, "failed", faults=[ours.error])
    drawn = entry.random == "layer" and any(mode in modes for modes in OF_SEVERAL.values())
    floor = max(_FLOORS["weights"], largest(theirs.weights) if drawn else 0.0)
    figure = distance(ours.weights, theirs.weights, floor)
    if mode == "killed":
        faults = _faults(entry, ours, theirs, 0.0, 0.0, 0.0)
        return Verdict(entry, mode, "failed" if faults else "identical", figure, faults)
    allowed = entry.allows(mode)
    limit = _DRAWN if drawn else ROUNDING[mode] if allowed is None else allowed
    faults = _faults(entry, ours, theirs, limit, limit * (1.0 if drawn else _LOGS), floor)
    if mode in OF_SEVERAL["two"]:
        other = Outcome.load(out / entry.id / f"{mode}.worker-1")
        for name in ("weights", "optimizer"):
            if distance(getattr(other, name), getattr(ours, name)):
                faults.append(f"the workers' {name} differ")
    kind = (
        "failed"
        if faults
        else "differs"
        if drawn or (entry.why and (allowed is not None or entry.other_logs or entry.other))
        else "equal"
    )
    return Verdict(entry, mode, kind, figure, faults, drawn)


def _ended(entry: Entry, mode: str, ours: Outcome, theirs: Outcome) -> Verdict:
    """Of a task that is to end with an error in training, after the calls that fit makes."""
    if ours.config_error or not re.search(entry.ends, ours.error):
        faults = [f"does not end in training with /{entry.ends}/: {ours.error or 'it trained'}"]
    else:
        faults = _call_faults(ours.calls, theirs.calls, ROUNDING[mode] * _LOGS)
    return Verdict(entry, mode, "failed" if faults else "differs", faults=faults)


def _faults(entry: Entry, ours: Outcome, theirs: Outcome, limit: float, logs_limit: float, floor: float) -> list[str]:
    """What is not as far as it may be; in figures. After a kill, epochs before it are not told again.

    Args:
        floor: of weights: how large the largest of a variable is taken for at least.
    """
    faults = []
    floors = {**_FLOORS, "weights": floor}
    for name, most in (("weights", limit), ("optimizer", logs_limit), ("predictions", logs_limit)):
        apart = distance(getattr(ours, name), getattr(theirs, name), floors[name] if limit else 0.0)
        if apart > most:
            faults.append(f"{name} {apart:.1e} away")
    killed = not limit
    if not killed and sorted(ours.epochs) != sorted(theirs.epochs) and ours.epochs:
        faults.append(f"epochs {sorted(ours.epochs)} for {sorted(theirs.epochs)}")
    pairs = [(f"epoch {epoch}", logs, theirs.epochs.get(epoch, {})) for epoch, logs in sorted(ours.epochs.items())]
    pairs.append(("at the end", ours.last, theirs.last))
    told = theirs.evaluations[-len(ours.evaluations) :] if killed else theirs.evaluations
    if len(told) != len(ours.evaluations):
        faults.append(f"{len(ours.evaluations)} evaluations for {len(told)}")
    pairs += [(f"evaluation {n}", a, b) for n, (a, b) in enumerate(zip(ours.evaluations, told, strict=False))]
    for where, a, b in pairs:
        apart, which = of_logs(a, b, entry.other_logs if limit else ())
        if apart > logs_limit:
            faults.append(f"{where}: {which}")
    if not killed:
        faults += _call_faults(ours.calls, theirs.calls, logs_limit)
    if ours.facts != theirs.facts:
        faults.append(f"facts {ours.facts} for {theirs.facts}")
    return faults


def _call_faults(ours: list[list], theirs: list[list], limit: float) -> list[str]:  # type: ignore[type-arg]
    names = [(hook, number) for hook, number, _ in ours]
    wanted = [(hook, number) for hook, number, _ in theirs]
    if names != wanted:
        at = next(
            (n for n, (a, b) in enumerate(zip(names, wanted, strict=False)) if a != b), min(len(names), len(wanted))
        )
        return [f"call {at} of {len(wanted)}: {names[at : at + 2]} for {wanted[at : at + 2]}"]
    for (hook, number, a), (_, _, b) in zip(ours, theirs, strict=True):
        apart, which = of_logs(a, b)
        if apart > limit:
            return [f"the logs of {hook} {number}: {which}"]
    return []
