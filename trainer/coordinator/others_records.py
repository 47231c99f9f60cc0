"""Records that this coordinator did not write: those that are there when it begins, and one under the number of its next. Pure.

The rules are in docs/architecture.md, "Old processes".
"""

from collections.abc import Mapping, Sequence

from trainer.coordinator.job import Job, Leave, finished_before
from trainer.coordinator.known_records import KnownRecords, Record
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import EndRecord
from trainer.wire.termination import ANEW, OR_FURTHER

Outcome = EndRecord | Leave | None
"""The job's end, or why this worker leaves, or None: the coordinator goes on behind what is there."""


def of_all_that_are_there(job: Job, known: KnownRecords, changed: Mapping[int, Sequence[str]]) -> Outcome:
    """What follows from the records as they are. `changed`: as of Coordinator."""
    newest = known.newest
    if known.own_end is not None:
        return known.own_end
    if newest is not None and not known.is_own(newest) and known.has_own:
        return _taken_over_by(newest)
    if not isinstance(newest, EndRecord) or not finished_before(job, newest):
        return None
    changes = changed.get(newest.number)
    if not changes:
        return newest
    told = f"{newest.reason}: it is finished, and the job has changed since: {'; '.join(changes)}"
    has_length = job.steps_asked is not None or job.epochs_asked is not None
    return Leave(ExitCode.CONFIGURATION, told, ANEW + (OR_FURTHER if has_length else ""))


def of_the_next_one(job: Job, known: KnownRecords, record: Record) -> Outcome:
    """What follows from a record by somebody else, under the number that this coordinator would have written next."""
    if known.is_own(record):
        if isinstance(record, EndRecord):
            return record
        if known.is_by_an_older_worker_0(record):
            # Worker 0 whose place this one took was a little quicker once more. It finds the next record and leaves.
            return None
        return Leave(ExitCode.STOPPED, f"superseded: attempt {record.number} was created by another coordinator")
    if known.has_own or record.launch.started > job.launch.started:
        return _taken_over_by(record)
    # An earlier launch was a little quicker once more. (Two that begin at the same time go by their clocks: whichever is the
    # later one, one of them goes on and the other ends.)
    return None


def _taken_over_by(record: Record) -> Leave:
    launch = record.launch
    over = f"run directory taken over by launch {launch.id}, started {launch.started:%Y-%m-%d %H:%M:%S} UTC"
    return Leave(ExitCode.CONFIGURATION, over)
