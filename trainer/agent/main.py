"""The agent: PID 1 of a pod. Starts attempts as the coordinator says, reaps, forwards output, leaves with the right code.

One thread decides, on a selector; output, polls, HTTP and the coordinator have threads of their own and only wake it.
"""

import logging
import os
import signal
import time
from collections.abc import Mapping
from types import FrameType

from trainer import faults
from trainer.agent import compiled, grace
from trainer.agent.attempt import Attempt
from trainer.agent.bucket_notes import say_in_the_background
from trainer.agent.changed import since_the_end
from trainer.agent.decide import (
    BY_SIGTERM,
    AskToStop,
    AskWhoTookOver,
    Begin,
    Decisions,
    Kill,
    Leaving,
    LimitWriter,
    Order,
    SayStopping,
)
from trainer.agent.events import Events
from trainer.agent.job import job_of
from trainer.agent.link import REQUEST_S, CoordinatorClient, Link
from trainer.agent.output import LossyPipe
from trainer.agent.ports import free_port
from trainer.agent.report import TerminationMessage, prometheus
from trainer.agent.run_files import RunFiles
from trainer.agent.server import AgentServer
from trainer.agent.spare import Spare
from trainer.agent.summary import SummaryLines
from trainer.cluster import Identity
from trainer.config import TrainConfig
from trainer.coordinator.driver import Duty
from trainer.errors import OrchError
from trainer.exit_codes import FINAL_CODES, ExitCode, title_of
from trainer.lifeline import PARENT_VARIABLE, adopt_orphans
from trainer.memory import limit_of_cgroup
from trainer.rundir.attempts import AttemptRecord
from trainer.rundir.bucket import is_bucket
from trainer.rundir.open import open_store
from trainer.wire.coordinator import AgentReport, ExitReport
from trainer.wire.log_events import Event, marked
from trainer.wire.process import LOG_ONLY, WITHIN

log = logging.getLogger("trainer.agent")

TICK_S = 0.2
_LOG_ONLY = LOG_ONLY.encode()
STOOD_STILL_S = 3.0
"""An agent that did not look for so long was paused with its machine."""
COORDINATOR_STORE_S = 15.0
"""How long a call of the coordinator or the link tries: whoever waits for the store is to know soon."""
FLUSH_S = 5.0
TELL_S = 5.0
"""That this worker waits for its task is told at once, but not more often than this."""


class Agent:
    """One agent's life; `run` returns its exit code."""

    def __init__(
        self, identity: Identity, config: TrainConfig, config_path: str, environment: Mapping[str, str]
    ) -> None:
        self._identity = identity
        self._config = config
        self._config_path = config_path
        self._environment = dict(environment)
        self._events = Events()
        self._attempt: Attempt | None = None
        self._duty: Duty | None = None
        self._decisions = Decisions(config.grace_s)
        self._port = free_port(identity.address, identity.index, config.workers)
        self._waiting_reason = ""
        self._summary = SummaryLines(time.monotonic())
        self._waiting_told_at = 0.0
        self._memory_limit_bytes = config.memory_limit_bytes or limit_of_cgroup()
        log_path = environment.get("ORCH_TERMINATION_LOG", "")
        self._termination = TerminationMessage(log_path, self._memory_limit_bytes, command=bool(config.train.command))
        # Whoever reads the environment of a process finds no token of ours in it.
        self._of_processes = {name: value for name, value in environment.items() if name != "ORCH_TOKEN_FILE"}
        self._of_processes["ORCH_INDEX"] = str(identity.index)
        self._compiled = compiled.new_folder()
        self._of_processes |= compiled.named(self._compiled.name)
        self._spare = Spare(config, config_path, identity.index, self._of_processes, self._memory_limit_bytes)
        self._report = self._make_report(time.monotonic())
        self._pipe = LossyPipe(1)
        self._records = open_store(config.run_directory, timeout_s=COORDINATOR_STORE_S)
        self._files = RunFiles(
            open_store(config.run_directory),
            identity.index,
            identity.uid,
            local=not is_bucket(config.run_directory),
            hold_output=not config.log_all_workers and identity.index != 0,
        )

    def write_log(self, line: bytes) -> None:
        """A line of the agent's own log goes where its processes' lines go."""
        self._pipe.write(line)
        self._files.log.write(line)

    # --- life

    def run(self) -> int:
        """Until the job or this worker's part in it is over."""
        adopt_orphans()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._events.wake_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        log.info("agent started name=%s uid=%s launch=%s", self._config.name, self._identity.uid, self._identity.launch)
        self._terminal("waiting for the coordinator")
        duty = self._duty = self._start_duty() if self._identity.index == 0 else None
        if duty is not None:
            say_in_the_background(self._config.run_directory)
        server = AgentServer(
            ("" if self._identity.address != "127.0.0.1" else "127.0.0.1", self._identity.port),
            self._identity.token,
            poll=duty.poll if duty else None,
            state=duty.state if duty else None,
            metrics=lambda: prometheus(self._config.name, self._report),
        )
        poll = duty.poll if duty else CoordinatorClient(self._identity.coordinator, self._identity.token).poll
        self._link = Link(poll, lambda: self._report, self._records, self._identity.launch, self._events.wake)
        try:
            code, reason, _ = self._loop(duty)
        finally:
            self._spare.close()
            if self._attempt is not None:
                self._attempt.close()
            self._compiled.cleanup()
        self._link.close(self._at_most(REQUEST_S))
        self._terminal(reason, code=code)
        if (until_s := self._decisions.terminating_until_s) is not None:
            used_s = self._config.grace_s - (until_s - time.monotonic())
            step = self._decisions.last_commit.step if self._decisions.last_commit else None
            log.info(grace.when_left(self._config.grace_s, used_s, step))
        log.info("agent leaves code=%d reason=%s", code, reason)
        if duty is not None:
            duty.close()
        self._files.log.close(self._at_most(FLUSH_S))
        server.close()
        self._pipe.close(self._at_most(FLUSH_S))
        faults.reach("agent.before-exit")
        return code

    def _at_most(self, limit_s: float) -> float:
        """So long, but never longer than the grace period has left."""
        until_s = self._decisions.terminating_until_s
        return limit_s if until_s is None else min(limit_s, max(until_s - time.monotonic() - 0.3, 0.1))

    def _loop(self, duty: Duty | None) -> Leaving:
        looked = time.monotonic()
        while True:
            self._events.wait(TICK_S)
            now = time.monotonic()
            if now - looked > STOOD_STILL_S and self._attempt is not None:
                self._attempt.stood_still(now - looked)
            looked = now
            self._reap()
            self._read(now)
            self._obey(now)
            self._advance(now)
            self._report = self._make_report(now)
            self._link.obeyed()
            self._summary.tick(self._report, self._link, self._waiting_reason, now)
            self._remember_memory()
            if self._attempt is not None:
                self._files.sign_of_life(self._attempt.progress.step, now)
            self._tell_that_it_waits(now)
            if self._attempt is None:
                leaving = self._decisions.leaves(now, duty.everybody_told if duty else lambda: True)
                if leaving is not None:
                    return leaving

    def _start_duty(self) -> Duty:
        config = self._config
        job = job_of(config, self._identity, self._environment.get("ORCH_LAUNCH_STARTED"), self._memory_limit_bytes)
        return Duty(
            job,
            self._records,
            on_change=lambda: self._link.hurry() if hasattr(self, "_link") else None,
            changed=lambda end: since_the_end(end, config, self._records, self._config_path, self._of_processes),
        )

    # --- events

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._decisions.sigterm(time.monotonic())

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self._attempt.children if self._attempt else []:
                if child.pid == pid:
                    child.reaped(status)
            self._spare.reaped(pid, status)

    def _read(self, now: float) -> None:
        if self._attempt is None:
            return
        for line in self._attempt.read(now):
            if not line.startswith(_LOG_ONLY):
                self._pipe.write(line)
            self._files.print(line.removeprefix(_LOG_ONLY))
        for line in self._attempt.take_told():
            # `orch run` shows it itself, once, at the end.
            if PARENT_VARIABLE not in self._environment:
                self._pipe.write(line)
        for child in self._attempt.children:
            child.flush()
        self._events.watch(self._attempt.children)

    # --- decisions

    def _obey(self, now: float) -> None:
        directive = self._link.take()
        if directive is None:
            return
        self._waiting_reason = directive.reason
        if directive.peers_wait and self._attempt is not None:
            self._attempt.peers_wait(now)
        leaving, end = self._decisions.leaving, self._decisions.end
        orders = self._decisions.obey(directive, now, runs=self._attempt is not None)
        if self._decisions.end is not end:
            faults.reach("agent.end-known")
        if self._decisions.leaving is not leaving:
            log.warning("told to leave: %s", directive.reason)
        self._carry_out(orders, now)

    def _carry_out(self, orders: list[Order], now: float) -> None:
        attempt = self._attempt
        for order in orders:
            match order:
                case Begin(record=record):
                    self._begin(record, now)
                case SayStopping(left_s=left_s):
                    pace = attempt.pace if attempt and self._config.train.command is None else None
                    log.info(grace.at_sigterm(left_s, self._config.grace_s, pace))
                    self._terminal("stopping after SIGTERM")
                case AskToStop() if attempt is not None:
                    attempt.stop(BY_SIGTERM, now)
                case Kill() if attempt is not None:
                    attempt.kill(now)
                case LimitWriter(until_s=until_s) if attempt is not None:
                    attempt.writer_deadline(until_s)
                case AskWhoTookOver() if self._duty is not None:
                    self._duty.look()

    def _begin(self, record: AttemptRecord, now: float) -> None:
        restore = record.restore.name if record.restore else "nothing"
        mark = marked(Event.ATTEMPT_STARTS, attempt=record.number)
        log.info("attempt %d starts restore=%s port=%d %s", record.number, restore, self._port, mark)
        self._files.begin(record.number, now)
        self._decisions.began(record.number)
        try:
            self._attempt = Attempt(
                record,
                self._identity.index,
                self._config,
                self._of_processes,
                now,
                on_record=self._files.record,
                spare=self._spare,
            )
        except (OrchError, OSError) as error:
            # For want of memory, files or temporary space another attempt may do better; a program that is not there stays away.
            code, message, remedy = ExitCode.LOST_PEER, f"no process can be started: {error}", ""
            if isinstance(error, OrchError):
                code, message, remedy = error.code, str(error), error.remedy
            log.error("attempt %d cannot start: %s", record.number, message)
            self._decisions.could_not_begin(code, message, remedy)
            self._changed()
            return
        faults.reach("agent.attempt-began")
        self._terminal(f"attempt {record.number} runs")
        self._changed()

    def _advance(self, now: float) -> None:
        attempt = self._attempt
        process_ended = attempt is not None and attempt.process.status is not None
        self._carry_out(self._decisions.due(now, runs=attempt is not None, process_ended=process_ended), now)
        if attempt is None:
            return
        attempt.tick(now)
        self._tend_spare(attempt, now)
        if attempt.progress.superseded and self._duty is not None:
            log.warning("the training process ends: %s", attempt.progress.superseded)
            attempt.progress.superseded = ""
            self._carry_out(self._decisions.superseded(), now)
        if attempt.ended(now):
            self._ended(attempt, now)

    def _tend_spare(self, attempt: Attempt, now: float) -> None:
        progress = attempt.progress
        if self._decisions.leaving is not None:
            self._spare.close()
        elif attempt.process.status is None:
            self._spare.tick(peak_bytes=progress.memory_peak_bytes, now_bytes=progress.memory_bytes, now=now)
        elif attempt.exit_report().code not in (ExitCode.DONE, *FINAL_CODES):
            self._spare.needed()

    def _ended(self, attempt: Attempt, now: float) -> None:
        faults.reach("agent.process-ended")
        report = attempt.exit_report()
        self._decisions.ended(report, attempt.progress.result, attempt.progress.last_commit)
        mark = marked(Event.PROCESS_ENDED, attempt=report.attempt)
        if report.code == ExitCode.DONE:
            log.info("training process ended attempt=%d step=%d %s", report.attempt, report.step, mark)
        else:
            log.warning(
                "training process ended attempt=%d code=%d (%s) step=%d %s %s",
                report.attempt,
                report.code,
                title_of(report.code),
                report.step,
                (f"{report.exception}: " if report.exception else "") + report.message.partition("\n")[0],
                mark,
            )
        failed = report.code not in (ExitCode.DONE, ExitCode.STOPPED)
        self._files.end(self._at_most(FLUSH_S) if self._decisions.leaving else 1.0, failed=failed)
        self._report = self._make_report(now)
        attempt.close()
        self._attempt = None
        self._events.watch([])
        self._port = free_port(self._identity.address, self._identity.index, self._config.workers, not_this=self._port)
        self._terminal(f"attempt {report.attempt} ended here: {title_of(report.code)}", exit_report=report)
        self._changed()

    def _changed(self) -> None:
        self._report = self._make_report(time.monotonic())
        self._link.hurry()

    def _tell_that_it_waits(self, now: float) -> None:
        if self._report.phase in WITHIN and now - self._waiting_told_at > TELL_S:
            self._waiting_told_at = now
            self._link.hurry()

    # --- what others see

    def _make_report(self, now: float) -> AgentReport:
        decisions = self._decisions
        report = AgentReport(
            launch=self._identity.launch,
            index=self._identity.index,
            uid=self._identity.uid,
            address=self._identity.address,
            port=self._port,
            state=decisions.state(runs=self._attempt is not None),
            attempt=decisions.last_attempt,
            last_exit=decisions.last_exit,
            node=self._identity.node,
            step=decisions.last_exit.step if decisions.last_exit else 0,
            result=decisions.result,
            last_commit=decisions.last_commit,
        )
        attempt = self._attempt
        return attempt.progress.fill(report, attempt.record.number, now) if attempt is not None else report

    def _terminal(self, reason: str, *, code: int | None = None, exit_report: ExitReport | None = None) -> None:
        """Write the termination message ahead."""
        decisions, attempt = self._decisions, self._attempt
        self._termination.write(
            reason,
            code=code,
            report=exit_report or decisions.last_exit,
            end=decisions.end,
            remedy=decisions.leaving.remedy if decisions.leaving else "",
            step=self._report.step,
            attempt=decisions.last_attempt,
            peak_bytes=attempt.progress.memory_peak_bytes if attempt is not None else None,
        )

    def _remember_memory(self) -> None:
        """Where memory grows its peak is written ahead."""
        attempt = self._attempt
        if attempt is None or self._decisions.leaving is not None or self._decisions.end is not None:
            return
        if self._termination.is_outgrown(attempt.progress.memory_peak_bytes):
            self._terminal(f"attempt {attempt.record.number} runs")
