"""The ends of one attempt, worker by worker, as they are heard: reports, silence, and the chief's result. No I/O.

Which of them was the attempt's end is decided in verdict.py.
"""

from collections.abc import Sequence

from trainer.coordinator.known_records import KnownRecords
from trainer.coordinator.verdict import Loss, end_of_attempt
from trainer.exit_codes import FINAL_CODES, ExitCode
from trainer.rundir.attempts import AttemptEnd, AttemptRecord
from trainer.rundir.attempts import now as time_of_day
from trainer.wire.coordinator import AgentReport, ExitReport
from trainer.wire.process import Phase, Result

REPLACED = "was replaced: its agent or pod had ended"
PEERS_WAIT_S = 60.0
"""How long the strategy may wait for peers after the last member started."""


class Losses:
    """Of the attempt that runs or ran last."""

    def __init__(self) -> None:
        self.by_worker: dict[int, Loss] = {}
        self.result: Result | None = None
        """The chief's, once it is in."""
        self._all_running_s: float | None = None

    def __bool__(self) -> bool:
        return bool(self.by_worker)

    @property
    def all(self) -> list[Loss]:
        """In the order in which they were heard."""
        return list(self.by_worker.values())

    @property
    def all_well(self) -> bool:
        """Whether nothing but good ends was heard."""
        return all(loss.report and loss.report.code == ExitCode.DONE for loss in self.all)

    def is_done(self, workers: int) -> bool:
        """The chief brought its result, or every process is done and nobody brings one: a `command:` job."""
        return self.result is not None or (len(self.by_worker) == workers and self.all_well)

    @property
    def final(self) -> bool:
        """Whether somebody failed for good."""
        return any(loss.report and loss.report.code in FINAL_CODES for loss in self.all)

    def reported(self, report: AgentReport, ended: ExitReport, now: float) -> None:
        """A worker's process has ended, as its agent tells."""
        if report.index == 0 and report.result is not None and ended.code == ExitCode.DONE:
            self.result = report.result
        loss = self.by_worker.get(report.index)
        if loss is None or loss.report is None:
            at_s, why = (loss.at_s, loss.why) if loss else (now, "")
            self.by_worker[report.index] = Loss(report.index, at_s, ended, why=why)

    def lost(self, index: int, now: float, why: str, memory_bytes: int = 0) -> None:
        """A worker has no part in the attempt any more, whatever its process does. What was heard first of it stands."""
        self.by_worker.setdefault(index, Loss(index, now, why=why, memory_bytes=memory_bytes))

    def watch_rendezvous(self, reports: Sequence[AgentReport], workers: int, now: float) -> None:
        """Who does not meet its peers in time is lost: whoever is missing, or the first of those who wait."""
        running = [report for report in reports if report.state == "running"]
        if self.by_worker or len(running) < workers:
            return
        if self._all_running_s is None:
            self._all_running_s = now
        waiting = sorted(report.index for report in running if report.phase is Phase.RENDEZVOUS)
        long = all(report.phase_s > PEERS_WAIT_S for report in running if report.index in waiting)
        if waiting and long and now - self._all_running_s > PEERS_WAIT_S:
            missing = sorted(report.index for report in running if report.index not in waiting)
            who = f"worker {missing[0]} is missing" if missing else "no worker reached the others"
            self.lost((missing or waiting)[0], now, f"did not meet its peers within {PEERS_WAIT_S:.0f} s ({who})")

    def in_all(
        self, known: KnownRecords, attempt: AttemptRecord, replaced_s: float | None, memory_limit: int | None
    ) -> AttemptEnd:
        """All of them as the end of the newest attempt. `replaced_s`: since when this agent has the place of the worker 0 that
        created it, if that was another one: what the peers tell are echoes of that."""
        if not known.is_own(attempt):
            stopped = "the launch before this one stopped here"
            return AttemptEnd(attempt=attempt.number, code=ExitCode.STOPPED, reason=stopped)
        losses = dict(self.by_worker)
        if replaced_s is not None:
            losses.setdefault(0, Loss(0, replaced_s, why=REPLACED))
        return end_of_attempt(attempt.number, list(losses.values()), memory_limit=memory_limit, at=time_of_day())
