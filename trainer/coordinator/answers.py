"""What the coordinator says, to an agent that polls and to whoever asks for the job's state. Pure: where it stands goes in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.coordinator.job import Job, Leave
from trainer.coordinator.known_records import KnownRecords
from trainer.coordinator.roster import SILENT_S, Roster
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptEnd, AttemptRecord, EndRecord
from trainer.rundir.history import restarts_of
from trainer.wire.coordinator import AgentReport, Directive, JobState
from trainer.wire.process import WITHIN

HISTORY = 10
"""So many restarts are told to whoever asks for the job's state."""
_NAMES_MAX = 10


@dataclass(frozen=True)
class Standing:
    """Where a coordinator stands."""

    job: Job
    known: KnownRecords
    roster: Roster
    runs: bool
    """An attempt does."""
    concludes: bool
    """The record of a success is being written."""
    end: EndRecord | None
    leave: Leave | None
    lost: Callable[[], str]
    """Why the attempt ended, as far as it is known; empty where nobody was lost. Asked for where it is told: it takes a look at
    all workers."""
    outage: str
    """Of the store."""
    ticked_s: float


def answer(standing: Standing, report: AgentReport) -> Directive:
    """What this worker is to do."""
    leave, end = standing.leave, standing.end
    if leave and leave.code == ExitCode.STOPPED and report.uid != standing.job.uid:
        # This worker 0 was superseded; the others were not, and find the new one when they ask again.
        return directive(standing, "wait", reason=leave.reason)
    if leave:
        return directive(standing, "leave", code=leave.code, reason=leave.reason, remedy=leave.remedy)
    if end is not None:
        return directive(standing, "exit", end=end, reason=end.reason)
    if standing.runs:
        return _answer_running(standing, report)
    if report.state == "running" and not standing.concludes:
        return directive(standing, "end", reason=standing.lost() or "the attempt is over")
    return directive(standing, "wait", reason=reason(standing))


def _answer_running(standing: Standing, report: AgentReport) -> Directive:
    record = standing.known.attempt
    if record is None or report.state == "leaving":
        return directive(standing, "wait")
    if report.state == "running":
        if report.attempt != record.number:
            return directive(standing, "end")
        others = (other for other in standing.roster.reports if other.index != report.index)
        return directive(standing, "wait", peers_wait=any(other.phase in WITHIN for other in others))
    # An agent that took the place of one whose process was done already has no part in this attempt.
    if report.attempt < record.number and any(member.uid == report.uid for member in record.members):
        return directive(standing, "run", record=record)
    return directive(standing, "wait", reason="waiting for the other workers to end")


def directive(
    standing: Standing,
    kind: Literal["wait", "run", "end", "leave", "exit"],
    *,
    reason: str = "",
    code: int = ExitCode.STOPPED,
    remedy: str = "",
    record: AttemptRecord | None = None,
    end: EndRecord | None = None,
    peers_wait: bool = False,
) -> Directive:
    """With what every answer has."""
    attempt = standing.known.attempt
    return Directive(
        kind=kind,
        coordinator=standing.job.uid,
        attempt=attempt.number if attempt else 0,
        poll_after_s=max(standing.job.poll_s, standing.job.workers / 200),
        reason=reason,
        code=int(code),
        remedy=remedy,
        record=record,
        end=end,
        peers_wait=peers_wait,
    )


def reason(standing: Standing) -> str:
    """What the job is doing or waiting for, in one line."""
    if standing.end is not None:
        return standing.end.reason
    if standing.leave:
        return standing.leave.reason
    if standing.outage or standing.runs:
        return standing.outage
    absent = standing.roster.absent()
    if absent:
        return f"waiting for worker {_in_words(absent)}"
    silent = sorted(standing.roster.silent(standing.ticked_s))
    parts = [f"waiting for worker {_in_words(silent)}, silent for over {SILENT_S:.0f} s"] if silent else []
    return "; ".join(part for part in (*parts, standing.lost()) if part) or "starting"


def state_of_job(standing: Standing, previous: AttemptEnd | None, since_s: float) -> JobState:
    """What `orch status` shows."""
    job, known, reports = standing.job, standing.known, standing.roster.reports
    attempt = known.attempt
    chief = next((report for report in reports if report.index == 0), None)
    state: Literal["waiting", "running", "restarting", "succeeded", "failed"]
    state = "restarting" if known.own_attempts else "waiting"
    if standing.end is not None:
        state = standing.end.state
    elif standing.runs:
        state = "running"
    return JobState(
        name=job.name,
        launch=job.launch.id,
        state=state,
        reason=reason(standing),
        attempt=attempt.number if attempt else 0,
        restarts=known.restarts,
        budget_used=known.budget_used,
        budget_max=job.restarts_max,
        step=max((report.step for report in reports), default=0),
        total_steps=chief.total_steps if chief else None,
        rate=chief.rate if chief else 0.0,
        metrics=chief.metrics if chief else {},
        workers=reports,
        last_end=previous or (attempt.previous if attempt else None),
        history=restarts_of(known.all, job.launch.id)[-HISTORY:],
        end=standing.end,
        since_s=since_s,
    )


def _in_words(indexes: Sequence[int]) -> str:
    return ", ".join(str(index) for index in indexes[:_NAMES_MAX])
