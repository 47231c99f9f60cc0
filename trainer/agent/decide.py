"""What an agent does next: directives, signals, ends and time go in, orders come out. Pure; main.py carries the orders out.

tests/trainer/test_protocol_model.py drives it against the coordinator, with processes that it plays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trainer.agent.grace import reserve_s
from trainer.exit_codes import FINAL_CODES, ExitCode
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord
from trainer.wire.coordinator import Directive, ExitReport
from trainer.wire.process import Result

DONE_S = 5.0
"""After the end record of a success, how long a process may take to exit by itself."""
HOLD_S = 15.0
"""How long worker 0 stays so that the others learn of the end from it."""
BY_SIGTERM = "stopped by SIGTERM"


@dataclass(frozen=True)
class Begin:
    """Start the process of this attempt."""

    record: AttemptRecord


@dataclass(frozen=True)
class SayStopping:
    """SIGTERM came, and so much of the grace period is left."""

    left_s: float


@dataclass(frozen=True)
class AskToStop:
    """Ask the process for an orderly end with a save. Once asked, it stays so."""


@dataclass(frozen=True)
class Kill:
    """End the process: the attempt is over."""


@dataclass(frozen=True)
class LimitWriter:
    """The writer may go on until then, and no longer."""

    until_s: float


@dataclass(frozen=True)
class AskWhoTookOver:
    """The coordinator of this agent is to look for a record by another one."""


Order = Begin | SayStopping | AskToStop | Kill | LimitWriter | AskWhoTookOver


class Leaving(NamedTuple):
    """With what this agent leaves, once nothing runs here any more."""

    code: int
    reason: str
    remedy: str = ""


class Decisions:
    """One agent's part in the job: what it was told, how its last attempt ended, and whether it is to leave."""

    def __init__(self, grace_s: float) -> None:
        """`grace_s`: preemption.grace, the time from SIGTERM to SIGKILL."""
        self._grace_s = grace_s
        self.last_attempt = 0
        """The one that runs, or ran last; 0 before the first."""
        self.last_exit: ExitReport | None = None
        """How it ended; None while it runs."""
        self.result: Result | None = None
        self.last_commit: CommitRef | None = None
        self.leaving: Leaving | None = None
        self.end: EndRecord | None = None
        self.terminating_until_s: float | None = None
        """When the grace period ends, once SIGTERM came."""
        self._end_since_s = 0.0
        self._held_since_s: float | None = None

    # --- what happens

    def sigterm(self, now: float) -> None:
        """The first one counts."""
        if self.terminating_until_s is None:
            self.terminating_until_s = now + self._grace_s

    def obey(self, directive: Directive, now: float, *, runs: bool) -> list[Order]:
        """The coordinator's answer, or what the records tell instead. `runs`: whether an attempt does, or its writer still."""
        match directive.kind:
            case "run" if directive.record is not None:
                if not runs and self.leaving is None and directive.record.number > self.last_attempt:
                    return [Begin(directive.record)]
            case "end":
                # Who was asked to stop does so by itself, within the grace period.
                if runs and self.terminating_until_s is None:
                    return [Kill()]
            case "exit" if directive.end is not None and self.end is None:
                self.end, self._end_since_s = directive.end, now
            case "leave" if self.leaving is None:
                self.leaving = Leaving(directive.code, directive.reason, directive.remedy)
                return [Kill()] if runs else []
        return []

    def due(self, now: float, *, runs: bool, process_ended: bool) -> list[Order]:
        """What the grace period and the end of the job ask for at this moment, whether or not it was ordered before."""
        orders: list[Order] = []
        if self.terminating_until_s is not None:
            orders += self._terminate(self.terminating_until_s, now, runs=runs, process_ended=process_ended)
        if self.end is not None:
            if runs and (self.end.code != ExitCode.DONE or now - self._end_since_s > DONE_S):
                orders.append(Kill())
            if self.leaving is None:
                code = ExitCode.TASK_ERROR if self.end.code == ExitCode.SCRIPT_FAILED else self.end.code
                self.leaving = Leaving(code, self.end.reason)
        return orders

    def _terminate(self, until_s: float, now: float, *, runs: bool, process_ended: bool) -> list[Order]:
        orders: list[Order] = []
        if self.leaving is None:
            self.leaving = Leaving(ExitCode.STOPPED, BY_SIGTERM)
            orders.append(SayStopping(until_s - now))
        if not runs:
            return orders
        orders.append(AskToStop())
        reserve = reserve_s(self._grace_s)
        late = now > until_s - reserve
        orders += [Kill()] if late else []
        orders += [LimitWriter(until_s - reserve / 2)] if late or process_ended else []
        return orders

    def superseded(self) -> list[Order]:
        """The writer found its attempt closed. Whether to leave, and with which code, the coordinator tells: it finds the record
        of who took over."""
        return [Kill(), AskWhoTookOver()]

    def began(self, attempt: int) -> None:
        """An attempt starts here."""
        self.last_attempt, self.last_exit = attempt, None

    def could_not_begin(self, code: int, message: str, remedy: str) -> None:
        """It did not, after all."""
        self.last_exit = ExitReport(attempt=self.last_attempt, code=code, message=message, remedy=remedy)

    def ended(self, report: ExitReport, result: Result | None, last_commit: CommitRef | None) -> None:
        """The attempt is over here: process and writer are through."""
        self.last_exit = report
        self.result = result if report.code == ExitCode.DONE else None
        self.last_commit = last_commit

    # --- what follows

    def state(self, *, runs: bool) -> Literal["idle", "running", "leaving"]:
        """What the coordinator is told. Who has the end's record is idle: it leaves, but not from an attempt."""
        if runs:
            return "running"
        return "leaving" if self.leaving is not None and self.end is None else "idle"

    def leaves(self, now: float, everybody_told: Callable[[], bool]) -> Leaving | None:
        """With what to leave now that nothing runs, or None: not yet. Worker 0 stays a little: the others learn from it of the
        end, or that the run directory was taken over. `everybody_told`: whether they did; of other workers, always."""
        if self.leaving is None:
            return None
        self._held_since_s = self._held_since_s if self._held_since_s is not None else now
        over = self.end is not None or self.leaving.code in FINAL_CODES
        if not over or everybody_told() or now - self._held_since_s > HOLD_S:
            return self.leaving
        return None
