"""The agent: PID 1 of a pod. Starts attempts as the coordinator says, reaps, forwards output, leaves with the right code.

One thread decides, on a selector; output, polls, HTTP and the coordinator have threads of their own and only wake it.
"""

import contextlib
import json
import logging
import os
import platform
import selectors
import signal
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from trainer import faults
from trainer.agent import compiled, grace
from trainer.agent.attempt import Attempt
from trainer.agent.bucket_notes import say_in_the_background
from trainer.agent.changed import since_the_end
from trainer.agent.decide import (
    BY_SIGTERM,
    AskWhoTookOver,
    Begin,
    Decisions,
    Kill,
    Leaving,
    LimitWriter,
    Order,
    SayStopping,
    Stop,
)
from trainer.agent.link import REQUEST_S, CoordinatorClient, Link
from trainer.agent.output import LossyPipe, Segments
from trainer.agent.ports import free_port
from trainer.agent.server import AgentServer
from trainer.agent.spare import Spare
from trainer.cluster import Identity, identity
from trainer.config import TrainConfig
from trainer.coordinator.driver import Duty
from trainer.coordinator.job import Job
from trainer.errors import OrchError
from trainer.exit_codes import FINAL_CODES, ExitCode, title_of
from trainer.lifeline import PARENT_VARIABLE, adopt_orphans, die_with_parent
from trainer.memory import limit_of_cgroup
from trainer.rundir.attempts import AttemptRecord, Launch, Wire
from trainer.rundir.metrics import ALIVE_S
from trainer.rundir.open import open_store
from trainer.wire.coordinator import AgentReport, ExitReport
from trainer.wire.log_events import Event, marked
from trainer.wire.metrics import Alive
from trainer.wire.process import LOG_ONLY, WITHIN
from trainer.wire.termination import LastWords, remedy_for

log = logging.getLogger("trainer.agent")

TICK_S = 0.2
_LOG_ONLY = LOG_ONLY.encode()
STOOD_STILL_S = 3.0
"""An agent that did not look for so long was paused with its machine."""
SUMMARY_S = 60.0
UNREACHED_S = 5.0
"""A name answers about a second late; whoever does not reach worker 0 for longer says so, and why."""
STORE_S = 15.0
"""How long a call of the coordinator or the link tries: whoever waits for the store is to know soon."""
FLUSH_S = 5.0
TELL_S = 5.0
"""That this worker waits for its task is told at once, but not more often than this."""
METRICS_S = 20.0
"""Metrics that matter most go to a bucket at once, but not more often than this."""


class Agent:
    """One agent's life; `run` returns its exit code."""

    def __init__(
        self, identity: Identity, config: TrainConfig, config_path: str, environment: Mapping[str, str]
    ) -> None:
        self._identity = identity
        self._config = config
        self._config_path = config_path
        self._environment = dict(environment)
        self._local = not config.run_directory.startswith("gs://")
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._attempt: Attempt | None = None
        self._duty: Duty | None = None
        self._decisions = Decisions(config.grace_s)
        self._port = free_port(identity.address, identity.index, config.workers)
        self._waiting_reason = ""
        self._next_summary = time.monotonic() + SUMMARY_S
        self._unreached_said = False
        self._waiting_told_at = 0.0
        self._peak_written_bytes = 0
        self._memory_limit_bytes = config.memory_limit_bytes or limit_of_cgroup()
        # Whoever reads the environment of a process finds no token of ours in it.
        self._of_processes = {name: value for name, value in environment.items() if name != "ORCH_TOKEN_FILE"}
        self._of_processes["ORCH_INDEX"] = str(identity.index)
        self._compiled = compiled.new_folder()
        self._of_processes |= compiled.named(self._compiled.name)
        self._spare = Spare(config, config_path, identity.index, self._of_processes, self._memory_limit_bytes)
        self._report = self._make_report(time.monotonic())
        self._pipe = LossyPipe(1)
        self._store = open_store(config.run_directory)
        self._records = open_store(config.run_directory, timeout_s=STORE_S)
        self._logs = Segments(
            self._store, f"logs/worker-{identity.index}/agent-{identity.uid[:8]}/", ".log", immediate=self._local
        )
        self._output: Segments | None = None
        self._metrics: Segments | None = None
        self._metrics_at = self._metrics_flushed_at = 0.0

    # --- life

    def run(self) -> int:
        """Until the job or this worker's part in it is over."""
        adopt_orphans()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
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
            metrics=self._prometheus,
        )
        poll = duty.poll if duty else CoordinatorClient(self._identity.coordinator, self._identity.token).poll
        self._link = Link(poll, lambda: self._report, self._records, self._identity.launch, self._wake)
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
        self._logs.close(self._at_most(FLUSH_S))
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
            self._wait()
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
            self._summarise(now)
            self._remember_memory()
            self._sign_of_life(now)
            self._tell_that_it_waits(now)
            if self._attempt is None:
                leaving = self._decisions.leaves(now, duty.everybody_told if duty else lambda: True)
                if leaving is not None:
                    return leaving

    def _start_duty(self) -> Duty:
        config = self._config
        started = self._environment.get("ORCH_LAUNCH_STARTED")
        job = Job(
            name=config.name,
            workers=config.workers,
            uid=self._identity.uid,
            launch=Launch(
                id=self._identity.launch,
                started=datetime.fromisoformat(started) if started else datetime.now(UTC),
            ),
            restarts_max=config.restarts.max,
            start_timeout_s=config.restarts.start_timeout,
            steps_asked=config.train.steps,
            epochs_asked=config.train.epochs,
            fresh=self._identity.fresh,
            versions={"python": platform.python_version()},
            cpu_flags=_cpu_flags(),
            memory_limit_bytes=self._memory_limit_bytes,
        )
        return Duty(
            job,
            self._records,
            on_change=lambda: self._link.hurry() if hasattr(self, "_link") else None,
            changed=lambda end: since_the_end(end, config, self._records, self._config_path, self._of_processes),
        )

    # --- events

    def _wait(self) -> None:
        for key, _ in self._selector.select(TICK_S):
            if key.fd == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    while os.read(self._wake_read, 4096):
                        pass

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

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
            if self._output is not None:
                self._output.write(line.removeprefix(_LOG_ONLY))
        for line in self._attempt.take_told():
            # `orch run` shows it itself, once, at the end.
            if PARENT_VARIABLE not in self._environment:
                self._pipe.write(line)
        for child in self._attempt.children:
            child.flush()
        self._register()

    def _register(self) -> None:
        """Select on exactly the open files of the attempt's children."""
        wanted: dict[int, int] = {self._wake_read: selectors.EVENT_READ}
        for child in self._attempt.children if self._attempt else []:
            if child.output_fd is not None:
                wanted[child.output_fd] = selectors.EVENT_READ
            if child.socket is not None:
                writing = selectors.EVENT_WRITE if child.wants_to_write else 0
                wanted[child.socket.fileno()] = selectors.EVENT_READ | writing
        for key in list(self._selector.get_map().values()):
            if wanted.get(key.fd) != key.events:
                self._selector.unregister(key.fd)
        for fd, events in wanted.items():
            if fd not in self._selector.get_map():
                self._selector.register(fd, events)

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
                    log.info(grace.at_sigterm(left_s, self._config.grace_s, attempt.pace if attempt else None))
                    self._terminal("stopping after SIGTERM")
                case Stop() if attempt is not None:
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
        prefix = f"attempt-{record.number}/"
        hold = not self._config.log_all_workers and self._identity.index != 0
        self._output = Segments(
            self._store,
            f"logs/worker-{self._identity.index}/{prefix}",
            ".log",
            immediate=self._local,
            hold=lambda: hold,
        )
        if self._identity.index == 0:
            self._metrics = Segments(self._store, f"metrics/{prefix}", ".jsonl", immediate=self._local)
            self._metrics_at = now
            self._metrics_flushed_at = now - METRICS_S
        self._decisions.began(record.number)
        try:
            self._attempt = Attempt(
                record,
                self._identity.index,
                self._config,
                self._config_path,
                self._of_processes,
                now,
                on_record=self._on_record,
                spare=self._spare.take(),
            )
        except (OrchError, OSError) as error:
            # For want of memory, files or temporary space another attempt may do better; a program that is not there stays away.
            code = error.code if isinstance(error, OrchError) else ExitCode.LOST_PEER
            message = str(error) if isinstance(error, OrchError) else f"no process can be started: {error}"
            log.error("attempt %d cannot start: %s", record.number, message)
            self._decisions.could_not_begin(code, message)
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
        if attempt.superseded and self._duty is not None:
            log.warning("the training process ends: %s", attempt.superseded)
            attempt.superseded = ""
            self._carry_out(self._decisions.superseded(), now)
        if attempt.ended(now):
            self._ended(attempt, now)

    def _tend_spare(self, attempt: Attempt, now: float) -> None:
        progress = attempt.progress
        if self._decisions.leaving is not None:
            self._spare.close()
        elif attempt.process.status is None:
            self._spare.tick(
                attempt.record.number,
                training=progress.blocks,
                peak_bytes=progress.memory_peak_bytes,
                now_bytes=progress.memory_bytes,
                now=now,
            )
        elif attempt.exit_report().code not in (ExitCode.DONE, *FINAL_CODES):
            self._spare.needed()

    def _ended(self, attempt: Attempt, now: float) -> None:
        faults.reach("agent.process-ended")
        report = attempt.exit_report()
        self._decisions.ended(report, attempt.result, attempt.progress.last_commit)
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
        if report.code not in (ExitCode.DONE, ExitCode.STOPPED) and self._output is not None:
            self._output.flush()
        for segments in (self._output, self._metrics):
            if segments is not None:
                segments.close(self._at_most(FLUSH_S) if self._decisions.leaving else 1.0)
        self._output = self._metrics = None
        self._report = self._make_report(now)
        attempt.close()
        self._attempt = None
        self._register()
        self._port = free_port(self._identity.address, self._identity.index, self._config.workers, not_this=self._port)
        self._terminal(f"attempt {report.attempt} ended here: {title_of(report.code)}", exit_report=report)
        self._changed()

    def _changed(self) -> None:
        self._report = self._make_report(time.monotonic())
        self._link.hurry()

    def _on_record(self, message: Wire) -> None:
        if self._metrics is not None:
            self._metrics_at = time.monotonic()
            line = message.model_dump(mode="json")
            self._metrics.write(json.dumps({"time": time.time(), **line}).encode() + b"\n")
            # A bucket is written once a minute; what this agent would least like to take with it goes sooner.
            telling = line.get("phase") == "train" or line["type"] in ("saved", "save_failed", "save_trouble")
            if telling and not self._local and self._metrics_at - self._metrics_flushed_at > METRICS_S:
                self._metrics_flushed_at = self._metrics_at
                self._metrics.flush()

    def _sign_of_life(self, now: float) -> None:
        if self._attempt is not None and now - self._metrics_at > ALIVE_S:
            self._on_record(Alive(step=self._attempt.progress.step))

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
        return self._attempt.fill(report, now) if self._attempt is not None else report

    def _summarise(self, now: float) -> None:
        silent_since = self._link.silent_since
        unreached = silent_since is not None and now - silent_since > UNREACHED_S
        if unreached and not self._unreached_said and silent_since is not None:
            log.warning("worker 0 is not reached for %.0f s: %s", now - silent_since, self._unreached())
        self._unreached_said = unreached
        if now < self._next_summary:
            return
        self._next_summary = now + SUMMARY_S
        report = self._report
        if report.state == "running":
            figures = " ".join(f"{name}={value:.4g}" for name, value in report.metrics.items())
            log.info("step=%d/%s rate=%.1f/s %s", report.step, report.total_steps or "?", report.rate, figures)
        elif self._link.silent_since is not None:
            log.info("waiting for worker 0 for %.0f s: %s", now - self._link.silent_since, self._unreached())
        else:
            log.info("waiting: %s", self._waiting_reason)

    def _unreached(self) -> str:
        link = self._link
        return f"{link.error} {marked(Event.UNREACHED, error=link.error_class)}"

    def _prometheus(self) -> str:
        report = self._report
        labels = f'{{job="{self._config.name}",worker="{report.index}"}}'
        figures = {
            "orch_attempt": report.attempt,
            "orch_step": report.step,
            "orch_steps_per_second": report.rate,
            "orch_running": int(report.state == "running"),
            "orch_memory_bytes": report.memory_bytes,
            "orch_saves_skipped_total": report.saves_skipped,
            "orch_saves_failed_total": report.saves_failed,
            "orch_last_save_failed": int(bool(report.save_error)),
            "orch_last_commit_step": report.last_commit.step if report.last_commit else 0,
        }
        lines = [f"# TYPE {name} gauge\n{name}{labels} {value}" for name, value in figures.items()]
        return "\n".join(lines) + "\n"

    def _terminal(self, reason: str, *, code: int | None = None, exit_report: ExitReport | None = None) -> None:
        """Write the termination message ahead: this agent may not live to write its last one."""
        path = self._environment.get("ORCH_TERMINATION_LOG")
        if not path:
            return
        end, leaving = self._decisions.end, self._decisions.leaving
        report = exit_report or self._decisions.last_exit
        limit = self._memory_limit_bytes
        if code is None and report is not None:
            code = report.code
        peak = report.memory_peak_bytes if report else 0
        if self._attempt is not None:
            peak = self._peak_written_bytes = self._attempt.progress.memory_peak_bytes
        own = report.message if report and report.code == code else ""
        starved = bool(report and report.out_of_memory and report.code == code)
        if end is not None:
            reason, starved = end.reason, end.cause is not None and end.cause.out_of_memory
        remedy = remedy_for(code, own, out_of_memory=starved, memory_peak_bytes=peak, memory_limit_bytes=limit)
        words = LastWords(
            code=code,
            name=title_of(code) if code is not None else "",
            reason=reason,
            step=end.step if end else self._report.step,
            attempt=self._decisions.last_attempt,
            traceback=end.traceback if end else "",
            remedy=(leaving.remedy if leaving else "") or remedy,
            memory_peak_bytes=peak,
            memory_limit_bytes=limit,
            out_of_memory=starved,
        )
        with contextlib.suppress(OSError):
            Path(path).write_bytes(words.encode())

    def _remember_memory(self) -> None:
        """Where memory grows its peak is written ahead: with cgroup v2 an out-of-memory kill takes this agent too."""
        attempt = self._attempt
        if attempt is None or self._decisions.leaving is not None or self._decisions.end is not None:
            return
        if attempt.progress.memory_peak_bytes > 1.02 * self._peak_written_bytes:
            self._terminal(f"attempt {attempt.record.number} runs")


class _LogHandler(logging.Handler):
    """The agent's own lines go where its processes' lines go."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self._agent = agent

    def emit(self, record: logging.LogRecord) -> None:
        line = (self.format(record) + "\n").encode(errors="replace")
        self._agent._pipe.write(line)
        self._agent._logs.write(line)


def _cpu_flags() -> str:
    """A digest of the CPU's instruction sets: bit-identical results hold only among equal ones."""
    import hashlib

    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = platform.processor()
    return hashlib.sha256(flags.encode()).hexdigest()[:16]


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Run an agent as the environment says; returns its exit code."""
    die_with_parent()
    try:
        who = identity(environment)
        path = environment.get("ORCH_CONFIG", "")
        agent = Agent(who, TrainConfig.load(path), path, environment)
    except OrchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except (OSError, ValueError) as error:
        print(f"error: the configuration in ORCH_CONFIG cannot be read: {error}", file=sys.stderr)
        return ExitCode.CONFIGURATION
    handler = _LogHandler(agent)
    handler.setFormatter(logging.Formatter(f"worker={who.index} %(levelname)s %(message)s"))
    level = environment.get("LOG_LEVEL", "info").upper()
    logging.basicConfig(level=level if level in logging.getLevelNamesMapping() else "INFO", handlers=[handler])
    for noisy in ("google", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return agent.run()
