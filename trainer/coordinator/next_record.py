"""The record that comes next: an attempt, or the job's end. Pure, but for the nonce and the time of day."""

from collections.abc import Sequence

from trainer.coordinator.job import Job
from trainer.coordinator.known_records import KnownRecords
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptEnd, AttemptRecord, CommitRef, EndRecord, Member, new_nonce
from trainer.rundir.attempts import now as time_of_day
from trainer.wire.coordinator import AgentReport
from trainer.wire.process import Result


def next_attempt(
    job: Job,
    records: KnownRecords,
    workers: Sequence[AgentReport],
    restore: CommitRef | None,
    bad: list[str],
    budget_used: int,
    previous: AttemptEnd | None,
) -> AttemptRecord:
    """All `workers` go on from `restore`."""
    own = records.own_attempts
    return AttemptRecord(
        number=records.number + 1,
        nonce=new_nonce(),
        launch=job.launch,
        created=time_of_day(),
        members=[
            Member(index=report.index, uid=report.uid, address=report.address, port=report.port) for report in workers
        ],
        restore=restore,
        fresh=job.fresh and not own,
        world_size=job.workers,
        command=job.command,
        versions=job.versions,
        cpu_flags=job.cpu_flags,
        bad=bad,
        budget_used=budget_used,
        restarts=len(own),
        previous=previous,
    )


def success(
    job: Job,
    records: KnownRecords,
    chief: AgentReport,
    result: Result | None,
    *,
    bad: list[str],
    previous: AttemptEnd | None,
) -> EndRecord:
    """The chief is done, or every script is."""
    attempt = records.attempt
    end = _end(job, records, bad, previous)
    steps = result.step if result else chief.step
    return end.model_copy(
        update={
            "reason": (result.reason or f"trained {steps} steps") if result else "every worker ended well",
            "step": steps,
            "total_steps": result.total_steps if result else None,
            "commit": chief.last_commit or (attempt.restore if attempt else None),
            "metrics": result.metrics if result else {},
            "weights_sha256": result.weights_sha256 if result else None,
            "export": result.export if result else None,
            "load": result.load if result else "",
        }
    )


def failure(
    job: Job,
    records: KnownRecords,
    code: int,
    reason: str,
    *,
    step: int,
    traceback: str,
    bad: list[str],
    previous: AttemptEnd | None,
) -> EndRecord:
    """No further attempt follows."""
    end = _end(job, records, bad, previous)
    return end.model_copy(
        update={"state": "failed", "code": int(code), "reason": reason, "step": step, "traceback": traceback}
    )


def _end(job: Job, records: KnownRecords, bad: list[str], previous: AttemptEnd | None) -> EndRecord:
    """What all ends have."""
    attempt = records.attempt
    return EndRecord(
        number=records.number + 1,
        nonce=new_nonce(),
        launch=job.launch,
        created=time_of_day(),
        state="succeeded",
        code=int(ExitCode.DONE),
        reason="",
        step=0,
        attempts=attempt.number if attempt else 0,
        restarts=records.restarts,
        command=job.command,
        steps_asked=job.steps_asked,
        epochs_asked=job.epochs_asked,
        bad=bad,
        previous=previous,
    )
