"""One attempt on one worker: its training process, on the chief also its writer, from start to the last report.

Messages of the two are read and passed on here; when to start, stop and end an attempt is main.py's.
"""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from trainer.agent.child import Child
from trainer.agent.protocol import (
    AgentReport,
    Block,
    Evaluated,
    ExitReport,
    Failure,
    LastSave,
    Phase,
    PhaseBegan,
    Result,
    Saved,
    SaveFailed,
    SaveSkipped,
    SaveTrouble,
    Snapshot,
    Start,
    Stop,
    WriterStart,
    from_process,
    from_writer,
)
from trainer.agent.watchdog import Watchdog
from trainer.cluster import tf_config
from trainer.config import TrainConfig
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, CommitRef, Wire

log = logging.getLogger(__name__)

WRITER_S = 30.0
"""How long the writer may go on after its process died."""
DUMP_S = 1.0
"""Between the request for stacks and SIGKILL."""
OUTPUT_S = 2.0
"""How long the output of an ended process is waited for: a grandchild may hold the pipe open."""


@dataclass
class Progress:
    """What the process last told of itself."""

    step: int = 0
    total_steps: int | None = None
    epoch: int = 0
    rate: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    blocks: bool = False
    last_commit: CommitRef | None = None
    save_error: str = ""
    saves_skipped: int = 0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0


class Attempt:
    """Runs one attempt on this worker."""

    def __init__(
        self,
        record: AttemptRecord,
        index: int,
        config: TrainConfig,
        config_path: str,
        environment: Mapping[str, str],
        now: float,
        *,
        on_record: Callable[[Wire], None],
    ) -> None:
        """Start the process. `on_record` gets blocks and evaluations, for the metrics in the run directory."""
        self.record = record
        self.progress = Progress(step=record.restore.step if record.restore else 0)
        self.phase = Phase.IMPORT
        self.result: Result | None = None
        self.superseded = ""
        self._config = config
        self._index = index
        self._on_record = on_record
        self._failure: Failure | None = None
        self._since = self._phase_since = now
        self._killed_silent_s: float | None = None
        self._hung_s: float | None = None
        self._kill_at: float | None = None
        self._exited_at: float | None = None
        self._writer_until: float | None = None
        self._stop_reason = ""
        self.stop_sent = False
        self._stall_s = 0.0
        hang = config.restarts.hang_timeout
        self._watchdog = Watchdog(None if hang == "auto" else hang)
        self.writer: Child | None = None
        memory_fd = None
        if config.train.command is None and index == 0:
            memory_fd = os.memfd_create("orch-snapshot", os.MFD_CLOEXEC)
        try:
            self.process = self._start(config_path, environment, memory_fd)
        finally:
            if memory_fd is not None:
                os.close(memory_fd)

    def _start(self, config_path: str, environment: Mapping[str, str], memory_fd: int | None) -> Child:
        # Whoever reads the process's environment finds no token of ours in it.
        environment = {name: value for name, value in environment.items() if name != "ORCH_TOKEN_FILE"}
        cluster = tf_config(self.record.members, self._index)
        if cluster is not None:
            environment["TF_CONFIG"] = cluster
        environment["ORCH_INDEX"] = str(self._index)
        if self._config.train.command is not None:
            environment["ORCH_ATTEMPT"] = str(self.record.number)
            return Child(self._config.train.command, environment, inherit=(), channel=False)
        inherit = [memory_fd] if memory_fd is not None else []
        process = Child.module("trainer.worker", environment, inherit=inherit)
        process.send(Start(config=config_path, record=self.record, index=self._index, memory_fd=memory_fd))
        if memory_fd is not None:
            self.writer = Child.module("trainer.checkpoint.writer", environment, inherit=inherit)
            self.writer.send(
                WriterStart(
                    run_directory=self._config.run_directory,
                    attempt=self.record.number,
                    nonce=self.record.nonce,
                    keep=self._config.checkpoint.keep,
                    shard_size_bytes=self._config.checkpoint.shard_size_mb * 1_000_000,
                    memory_fd=memory_fd,
                )
            )
        return process

    @property
    def children(self) -> list[Child]:
        """The processes of this attempt."""
        return [self.process] if self.writer is None else [self.process, self.writer]

    # --- what the process and the writer say

    def read(self, now: float) -> list[bytes]:
        """Handle what arrived; returns lines of output."""
        for line in self.process.read_messages():
            self._from_process(line, now)
        output = self.process.read_output()
        if output and self._config.train.command is not None:
            self._since = now
        if self.writer is not None:
            for line in self.writer.read_messages():
                self._from_writer(line)
            output += self.writer.read_output()
        return output

    def _from_process(self, line: bytes, now: float) -> None:
        try:
            message = from_process.validate_json(line)
        except ValidationError:
            log.warning("a message of the training process makes no sense: %r", line[:200])
            return
        self._since = now
        progress = self.progress
        match message:
            case PhaseBegan():
                if message.phase is not self.phase:
                    self._phase_since = now
                self.phase = message.phase
                self._watchdog.entered(message.phase, message.state_bytes)
                progress.step = max(progress.step, message.step)
            case Block():
                progress.step, progress.total_steps, progress.epoch = message.step, message.total_steps, message.epoch
                progress.rate = _smooth(progress.rate, message.steps / max(message.seconds, 1e-9))
                progress.metrics = {**progress.metrics, **message.metrics}
                progress.blocks = True
                self._watchdog.block(message.seconds)
                self._on_record(message)
            case Evaluated():
                progress.metrics = {**progress.metrics, **message.metrics}
                self._watchdog.evaluated(message.seconds)
                self._on_record(message)
            case Snapshot():
                self._stall_s = message.stall_s
                if self.writer is None or self.writer.status is not None:
                    self.process.send(SaveFailed(step=message.step, error="the writer has ended"))
                else:
                    self.writer.send(message)
            case SaveSkipped():
                progress.saves_skipped += 1
                log.warning(
                    "save skipped, the last one is still going step=%d skipped=%d", message.step, progress.saves_skipped
                )
            case Result():
                self.result = message
            case Failure():
                self._failure = message

    def _from_writer(self, line: bytes) -> None:
        try:
            message = from_writer.validate_json(line)
        except ValidationError:
            log.warning("a message of the writer makes no sense: %r", line[:200])
            return
        match message:
            case Saved():
                self.progress.last_commit = message.commit
                self.progress.save_error = ""
                log.info(
                    "saved commit=%s size_mb=%.1f seconds=%.2f stall_ms=%.1f",
                    message.commit.name,
                    message.size_bytes / 1e6,
                    message.seconds,
                    self._stall_s * 1e3,
                )
                self.process.send(message)
            case SaveFailed():
                self.progress.save_error = message.error
                log.error("save failed step=%d error=%s", message.step, message.error)
                if message.superseded:
                    self.superseded = message.error
                self.process.send(message)
            case SaveTrouble():
                self.progress.save_error = message.error
                log.warning("the store makes trouble, trying again step=%d error=%s", message.step, message.error)
            case _:
                log.debug("writer: %s", message)

    # --- what is asked of it

    def stop(self, reason: str, now: float) -> None:
        """Ask for an orderly end with a save. Before the first block there is nothing to save, and nobody listens: SIGKILL."""
        if self.stop_sent:
            return
        self.stop_sent = True
        self._stop_reason = reason
        if self._config.train.command is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
        elif self.phase in (Phase.IMPORT, Phase.RENDEZVOUS, Phase.RESTORE, Phase.COMPILE):
            self.process.kill_group()
        else:
            self.process.send(Stop(reason=reason))

    def kill(self, now: float) -> None:
        """End the process at once: the attempt is over."""
        if self.process.status is None and self._killed_silent_s is None:
            self._killed_silent_s = now - self._since
            self.process.kill_group()

    def writer_deadline(self, until: float) -> None:
        """The writer may go on until then, where that is earlier than its own 30 s."""
        self._writer_until = min(until, self._writer_until) if self._writer_until is not None else until

    def tick(self, now: float) -> None:
        """Time passed: hangs, the writer's limit."""
        self._measure_memory()
        if self.process.status is None:
            self._watch(now)
            return
        if self._exited_at is None:
            self._exited_at = now
            self.process.kill_group()
            if self.writer is not None:
                self.writer.send(LastSave())
                self.writer_deadline(now + WRITER_S)
        if self.writer is not None and self.writer.status is None and now > (self._writer_until or now):
            log.warning("writer killed: its save was not done in time attempt=%d", self.record.number)
            self.writer.kill_group()

    def _watch(self, now: float) -> None:
        if self._config.train.command is not None and self._config.restarts.hang_timeout == "auto":
            return
        limit_s = self._watchdog.limit_s()
        if self._config.train.command is not None:
            limit_s = float(self._config.restarts.hang_timeout)
        if self._hung_s is None and now - self._since > limit_s:
            self._hung_s = now - self._since
            log.error("hang: phase=%s silent_s=%.0f limit_s=%.0f; stacks follow", self.phase, self._hung_s, limit_s)
            if self._config.train.command is None:
                self.process.signal(signal.SIGUSR1)
            self._kill_at = now + DUMP_S
        if self._kill_at is not None and now > self._kill_at:
            self.process.kill_group()

    def _measure_memory(self) -> None:
        if sys.platform != "linux" or self.process.status is not None:
            return
        try:
            with open(f"/proc/{self.process.pid}/status", encoding="ascii", errors="replace") as file:
                fields = dict(line.split(":", 1) for line in file if line.startswith(("VmHWM", "VmRSS")))
        except OSError:
            return
        if "VmRSS" in fields:
            self.progress.memory_bytes = int(fields["VmRSS"].split()[0]) * 1024
            self.progress.memory_peak_bytes = int(fields["VmHWM"].split()[0]) * 1024

    # --- its end

    def ended(self, now: float) -> bool:
        """Whether both processes have ended and their output was read."""
        if self._exited_at is None or any(child.status is None for child in self.children):
            return False
        drained = all(child.output_fd is None for child in self.children)
        return drained or now - self._exited_at > OUTPUT_S

    def exit_report(self) -> ExitReport:
        """How the process ended, once it has."""
        code = self.process.status if self.process.status is not None else ExitCode.KILLED
        failure = self._failure
        message = failure.message if failure else ""
        killed = self._killed_silent_s is not None
        if self._hung_s is not None:
            code, killed = ExitCode.HANG, False
            message = f"silent for {self._hung_s:.0f} s in phase {self.phase}"
        elif self.stop_sent and code in (ExitCode.KILLED, ExitCode.LOST_PEER, ExitCode.SCRIPT_FAILED):
            code, message = ExitCode.STOPPED, self._stop_reason
        silent_s = self._hung_s or 0.0
        if killed and self.phase is Phase.TRAIN:
            silent_s = self._killed_silent_s or 0.0
        return ExitReport(
            attempt=self.record.number,
            code=code,
            exception=failure.exception if failure else "",
            message=message,
            traceback=failure.traceback if failure else "",
            step=self.progress.step,
            blocks=self.progress.blocks,
            silent_s=silent_s,
            killed_by_agent=killed,
            bad_commit=failure.bad_commit if failure else None,
            memory_peak_bytes=self.progress.memory_peak_bytes,
        )

    def fill(self, report: AgentReport, now: float) -> AgentReport:
        """The report with what is known of this attempt."""
        progress = self.progress
        return report.model_copy(
            update={
                "attempt": self.record.number,
                "phase": self.phase,
                "phase_s": now - self._phase_since,
                "step": progress.step,
                "total_steps": progress.total_steps,
                "epoch": progress.epoch,
                "rate": progress.rate,
                "metrics": progress.metrics,
                "last_commit": progress.last_commit,
                "save_error": progress.save_error,
                "saves_skipped": progress.saves_skipped,
                "result": self.result,
                "memory_bytes": progress.memory_bytes,
            }
        )

    def close(self) -> None:
        """Kill what still runs, give the files back."""
        for child in self.children:
            child.kill_group()
            child.close()


def _smooth(rate: float, sample: float) -> float:
    return sample if rate == 0 else 0.7 * rate + 0.3 * sample
