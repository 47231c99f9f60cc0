"""The restarts of a launch as its records tell them: when, who, why, and what had to be done again; and the launches before it
that were killed with all that ran. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, EndRecord, Wire
from trainer.rundir.metrics import Sign, told_step


class Restart(Wire):
    """One attempt that ended and was followed by another one of the same launch."""

    attempt: int
    """The one that ended."""
    at: datetime | None
    """When it ended, by the coordinator's clock."""
    worker: int | None
    """The culprit, where one is known."""
    reason: str
    """One line for a person, naming the worker."""
    code: int
    step: int | None
    """The last step that any worker reported in it; None where nobody was left to tell."""
    resumed_step: int
    """The step that the next attempt went on from."""
    steps_lost: int | None
    """Steps that were done, and done again; None where nobody was left to tell."""
    stacks: bool | None = None
    """As of the AttemptEnd."""
    command: bool = False
    """As of the AttemptRecord: what it had done is not known, and nothing of it is kept by orch."""


def restarts_of(
    records: Sequence[AttemptRecord | EndRecord], launch: str, *, told: Mapping[int, int] | None = None
) -> list[Restart]:
    """The restarts of one launch, oldest first.

    Args:
        launch: its id.
        told: attempt -> the last step that its chief is known to have told. A coordinator that died cannot hand that on.
    """
    own = {record.number for record in records if isinstance(record, AttemptRecord) and record.launch.id == launch}
    return [
        _restart(record, (told or {}).get(record.previous.attempt))
        for record in records
        if isinstance(record, AttemptRecord)
        and record.number in own
        and record.previous is not None
        and record.previous.attempt in own
    ]


def _restart(record: AttemptRecord, told: int | None) -> Restart:
    end = record.previous
    assert end is not None
    resumed = record.restore.step if record.restore else 0
    step: int | None = max(end.step, told or 0)
    # A peer that was lost says no step; that none was done is known only when somebody else was there to tell.
    silent = told is None and end.step == 0 and end.code == ExitCode.LOST_PEER and not end.heard
    if silent or (step is not None and step < resumed):
        step = None
    return Restart(
        attempt=end.attempt,
        at=end.at,
        worker=end.worker,
        reason=end.reason,
        code=end.code,
        step=step,
        resumed_step=resumed,
        steps_lost=None if step is None or record.command else step - resumed,
        stacks=end.stacks,
        command=record.command,
    )


def broken_off(records: Sequence[AttemptRecord | EndRecord], signs: Mapping[int, Sequence[Sign]]) -> list[Restart]:
    """The launches that ended without a word and were followed by another one: of each its last attempt, when it was last heard
    of, and where the next launch went on. Oldest first, since the last end in order or the last fresh start.

    Args:
        records: all of the run directory, in order.
        signs: attempt -> what its chief's agent wrote. Who ends in order writes that the process has ended.
    """
    found: list[Restart] = []
    for before, record in pairwise(records):
        told = signs.get(before.number, ())
        if isinstance(before, EndRecord) or (isinstance(record, AttemptRecord) and record.fresh):
            found = []
        elif before.launch.id == record.launch.id:
            continue
        elif any(sign.type == "ended" for sign in told):
            found = []
        elif isinstance(record, AttemptRecord):
            resumed = record.restore.step if record.restore else 0
            step = told_step(told) if told and told_step(told) >= resumed else None
            found.append(
                Restart(
                    attempt=before.number,
                    at=datetime.fromtimestamp(told[-1].time, UTC) if told else before.created,
                    worker=None,
                    reason="ended without a word",
                    code=ExitCode.KILLED,
                    step=step,
                    resumed_step=resumed,
                    steps_lost=None if step is None or record.command else step - resumed,
                    command=record.command,
                )
            )
    return found


def lost_in_words(restart: Restart, went_on: str = "went on") -> str:
    """`went on from step 300, 50 steps lost`, with other words for `went on` where the sentence wants them.
    A command does what it does at its start: `went on from its start`."""
    if restart.command:
        return f"{went_on} from its start"
    lost = restart.steps_lost
    words = "steps lost unknown" if lost is None else "1 step lost" if lost == 1 else f"{lost or 'no'} steps lost"
    start = f"step {restart.resumed_step}" if restart.resumed_step else "the start"
    return f"{went_on} from {start}, {words}"
