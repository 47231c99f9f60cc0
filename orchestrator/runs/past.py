"""What went on in a run before its present moment, from all that its workers wrote: where the time went, what became of earlier
launches and of saves, and the steps that attempts are known to have reached.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.runs.goodput import SaveProblem, read_ledger, save_troubles
from orchestrator.runs.view import RunView
from trainer.rundir.attempts import AttemptRecord
from trainer.rundir.history import Restart, broken_off
from trainer.rundir.ledger import Ledger
from trainer.rundir.metrics import Sign, told_step

Signs = Mapping[int, Sequence[Sign]]
"""Attempt -> what its chief's agent wrote."""


@dataclass(frozen=True)
class Past:
    """All of it; what was not read is not there."""

    ledger: Ledger | None = None
    broken_off: Sequence[Restart] = ()
    """The launches before the newest one that ended without a word."""
    save_troubles: Sequence[SaveProblem] = ()
    """Of the newest launch."""
    told_steps: Mapping[int, int] = field(default_factory=dict)
    """Attempt -> the last step that its chief told."""


def past_of(view: RunView, signs: Signs, *, running: bool) -> Past:
    """The past, from a run directory and what was read of it. `running`: somebody is known to run it at this moment.

    Raises:
        StoreError: the store does not answer.
    """
    return Past(
        ledger=read_ledger(view, running=running, signs=signs),
        broken_off=broken_off(view.records, signs),
        save_troubles=save_troubles(signs, {record.number for record in newest_launch(view)}),
        told_steps={number: told_step(of_attempt) for number, of_attempt in signs.items()},
    )


def newest_launch(view: RunView) -> list[AttemptRecord]:
    """The attempts of the newest launch."""
    attempts = [record for record in view.records if isinstance(record, AttemptRecord)]
    return [record for record in attempts if record.launch.id == attempts[-1].launch.id]
