"""What must hold of a job that was disturbed, judged from outside: its records, its commits, its log, its final state."""

import itertools
import re
from typing import Any

import numpy as np

from tests.chaos.leg import Leg
from trainer.checkpoint import restore
from trainer.rundir.attempts import AttemptRecord, CommitRef
from trainer.rundir.commits import list_commits
from trainer.rundir.lineage import line

_SAVED = re.compile(r"saved commit=step-(\d+)\.attempt-(\d+) ")


def violations(leg: Leg, result: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What does not hold; empty when all does. `expected`: the undisturbed job's weights_sha256 and final arrays."""
    found = []
    if (result["state"], result["code"]) != ("succeeded", 0):
        return [f"the job ended as {result['state']} with {result['code']}: {result['reason']}"]
    if result["weights_sha256"] != expected["weights_sha256"]:
        found.append("weights_sha256 is another one than the undisturbed job's")
    with leg._directly() as store:
        records, commits = leg.records(), list_commits(store)
        state = restore.load(store, line(records, commits)[0])
    for key, array in expected["arrays"].items():
        if key.startswith("task/") and not np.array_equal(state.arrays[key], array):
            steps = np.flatnonzero((state.arrays[key] != array).any(axis=1))
            found.append(f"other examples than in the undisturbed job, first in step {steps[0]}")
    found += _lost(leg, [record for record in records if isinstance(record, AttemptRecord)])
    if [record.number for record in records] != list(range(1, len(records) + 1)):
        found.append("the records are not consecutive")
    used = max((record.budget_used for record in records if isinstance(record, AttemptRecord)), default=0)
    if used > 200:
        found.append(f"the budget of 200 restarts was overdrawn: {used}")
    found += [f"left behind: {what}" for what in leg.left_behind()]
    return found


def _lost(leg: Leg, attempts: list[AttemptRecord]) -> list[str]:
    """Acknowledged commits that a later attempt did not start from, or from behind."""
    told: dict[int, int] = {}
    for text in leg.log:
        if match := _SAVED.search(text):
            step, attempt = int(match[1]), int(match[2])
            told[attempt] = max(step, told.get(attempt, 0))
    found = []
    for before, after in itertools.pairwise(attempts):
        newest = told.get(before.number, 0)
        restored = after.restore or CommitRef(step=0, attempt=0)
        if restored.step < newest and not any(name.startswith(f"step-{newest}.") for name in after.bad):
            found.append(
                f"attempt {after.number} began at step {restored.step}, after step {newest} had been committed"
            )
    return found


def steps_lost(leg: Leg) -> int:
    """Steps that were done and done again, as the records tell."""
    attempts = [record for record in leg.records() if isinstance(record, AttemptRecord)]
    return sum(
        max(0, after.previous.step - (after.restore.step if after.restore else 0))
        for after in attempts
        if after.previous
    )
