"""What must hold of a job that was disturbed, judged from outside: its records, its commits, its log, its final state."""

import itertools
import re
from typing import Any

import numpy as np

from tests.chaos import remains
from tests.chaos.leg import BUDGET, KEEP, Leg, Undisturbed
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord

_SAVED = re.compile(r"saved commit=step-(\d+)\.attempt-(\d+) ")


def violations(leg: Leg, result: dict[str, Any], expected: Undisturbed) -> list[str]:
    """What does not hold; empty when all does."""
    found = list(leg.troubles)
    if (result["state"], result["code"]) != ("succeeded", 0):
        return [*found, f"the job ended as {result['state']} with {result['code']}: {result['reason']}"]
    if not leg.resized and result["weights_sha256"] != expected.weights_sha256:
        found.append("weights_sha256 is another one than the undisturbed job's")
    states = leg.states()
    if len(states) < KEEP:
        found.append(f"of {KEEP} checkpoints that are kept, {len(states)} verify")
    for key, array in expected.examples.items():
        if not np.array_equal(states[max(states)][key], array):
            steps = np.flatnonzero((states[max(states)][key] != array).any(axis=1))
            found.append(f"other examples than in the undisturbed job, first in step {steps[0]}")
    records = leg.records()
    if [record.number for record in records] != list(range(1, len(records) + 1)):
        found.append("the records are not consecutive")
    if [record.number for record in records if isinstance(record, EndRecord)] != [len(records)]:
        found.append("there is not one end, after all attempts")
    attempts = [record for record in records if isinstance(record, AttemptRecord)]
    told = _acknowledged(leg)
    found += _lost(told, attempts) + _budget(told, attempts)
    bad = {name for record in records for name in record.bad}
    if bad - leg.damaged:
        found.append(f"nobody damaged {', '.join(sorted(bad - leg.damaged))}, which count as damaged")
    found += [f"left behind: {what}" for what in remains.of(leg, attempts, saved=attempts[-1].number in told)]
    return found


def _acknowledged(leg: Leg) -> dict[int, int]:
    """Attempt -> the last step it told it had committed."""
    told: dict[int, int] = {}
    for text in leg.log:
        if match := _SAVED.search(text):
            step, attempt = int(match[1]), int(match[2])
            told[attempt] = max(step, told.get(attempt, 0))
    return told


def _lost(told: dict[int, int], attempts: list[AttemptRecord]) -> list[str]:
    """Acknowledged commits that a later attempt did not start from, or from behind."""
    found = []
    for before, after in itertools.pairwise(attempts):
        newest = told.get(before.number, 0)
        restored = after.restore or CommitRef(step=0, attempt=0)
        if restored.step < newest and not any(name.startswith(f"step-{newest}.") for name in after.bad):
            found.append(
                f"attempt {after.number} began at step {restored.step}, after step {newest} had been committed"
            )
    return found


def _budget(told: dict[int, int], attempts: list[AttemptRecord]) -> list[str]:
    """A restart is free when the attempt before it committed something, and costs one when not; a launch begins anew."""
    found = []
    for before, after in itertools.pairwise(attempts):
        if before.launch.id != after.launch.id:
            due = 0
        else:
            own = f".attempt-{before.number}"
            committed = after.restore is not None and after.restore.attempt == before.number
            committed |= before.number in told or any(name.endswith(own) for name in after.bad)
            due = before.budget_used + (0 if committed else 1)
        if after.budget_used != due:
            found.append(f"attempt {after.number} counts {after.budget_used} of the budget used, and it must be {due}")
        if after.budget_used > BUDGET:
            found.append(f"attempt {after.number} began with the budget of {BUDGET} overdrawn: {after.budget_used}")
    return found


def steps_lost(leg: Leg) -> dict[int, int]:
    """Attempt -> steps that were done before it and had to be done again, as the attempt before it told."""
    signs = leg.signs()
    lost = {}
    for before, after in itertools.pairwise(leg.attempts()):
        known = [sign.step for sign in signs.get(before.number, [])]
        known += [after.previous.step] if after.previous is not None else []
        lost[after.number] = max(0, max(known, default=0) - (after.restore.step if after.restore else 0))
    return lost
