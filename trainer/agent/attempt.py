"""One attempt on one worker: its training process, on the chief also its writer, from start to the last report.

Messages of the two are read and passed on here; when to start, stop and end an attempt is main.py's.
"""

import contextlib
import errno
import logging
import os
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Mapping

from trainer import memory
from trainer.agent import exits, grace
from trainer.agent.child import Child
from trainer.agent.last_error import LINE_BYTES, LINES_MAX, last_error
from trainer.agent.progress import AttemptProgress
from trainer.agent.spare import Spare
from trainer.agent.stacks import dump_stacks
from trainer.agent.stopped import STOPPED_S
from trainer.agent.watchdog import Watchdog
from trainer.agent.writers import Writers
from trainer.cluster import tf_config
from trainer.config import TrainConfig
from trainer.coordinator.verdict import HUNG_S
from trainer.errors import ConfigError
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, Wire
from trainer.wire.coordinator import ExitReport
from trainer.wire.lines import decode
from trainer.wire.metrics import ProcessEnded, Stalled
from trainer.wire.process import (
    Block,
    Evaluated,
    Failure,
    Phase,
    PhaseBegan,
    SaveSkipped,
    Start,
    Stop,
    from_process,
)
from trainer.wire.writer import Retained, Saved, SaveFailed, SaveTrouble, Snapshot, WriterStart, from_writer

log = logging.getLogger(__name__)

WRITER_S = 30.0
"""How long the writer may go on after its process died, at least."""
DUMP_S = 1.0
"""Between the request for stacks and SIGKILL."""
QUICK_DUMP_S = 0.3
"""The same where others wait for the end of this process."""
OUTPUT_S = 2.0
"""How long the output of an ended process is waited for: a grandchild may hold the pipe open."""


class Attempt:
    """Runs one attempt on this worker."""

    def __init__(
        self,
        record: AttemptRecord,
        index: int,
        config: TrainConfig,
        environment: Mapping[str, str],
        now: float,
        *,
        on_record: Callable[[Wire], None],
        spare: Spare,
    ) -> None:
        """Start the process, or give the spare its assignment. `on_record` gets what the metrics in the run directory hold.

        Raises:
            ConfigError: the user's program cannot be started, now or later.
            OSError: no process can be started now: no memory, no file, no space in the temporary folder.
        """
        self.record = record
        self.progress = AttemptProgress(step=record.restore.step if record.restore else 0, phase_since_s=now)
        self._config = config
        self._index = index
        self._on_record = on_record
        self._told: list[bytes] = []
        self._last_lines: deque[bytes] = deque(maxlen=LINES_MAX)
        self._since = self._excused_at = now
        self._killed_silent_s: float | None = None
        self._hung_s: float | None = None
        self._stopped = False
        self._kill_at: float | None = None
        self._exited_at: float | None = None
        self._asked = self._grace_said = False
        self._oom_kills = memory.oom_kills() or 0
        hang = config.restarts.hang_timeout
        self._watchdog = Watchdog(
            None if hang == "auto" else hang,
            last_save_timeout_s=config.checkpoint.last_save_timeout,
            command=config.train.command is not None,
        )
        self.writing: Writers | None = None
        self._closing = contextlib.ExitStack()
        try:
            self.process = self._start(environment, spare)
        except (OSError, ConfigError):
            self._closing.close()
            raise

    def _start(self, environment: Mapping[str, str], spare: Spare) -> Child:
        if self._config.train.command is not None:
            return self._start_program(self._config.train.command, environment)
        prepared = spare.prepared()
        self._closing.callback(prepared.close)
        memory_fd = prepared.belongings.memory_fd
        if memory_fd is not None:
            start = WriterStart(
                run_directory=self._config.run_directory,
                attempt=self.record.number,
                nonce=self.record.nonce,
                keep=self._config.checkpoint.keep,
                shard_size_bytes=self._config.checkpoint.shard_size_mb * 1_000_000,
                memory_fd=memory_fd,
                last_save_timeout_s=self._config.checkpoint.last_save_timeout,
            )
            self.writing = Writers(start, {**environment, "TMPDIR": prepared.belongings.scratch.name})
            self._closing.callback(self.writing.close)
        cluster = tf_config(self.record.members, self._index)
        prepared.child.send(Start(tf_config=cluster, record=self.record, index=self._index))
        return prepared.child

    def _start_program(self, command: list[str], environment: Mapping[str, str]) -> Child:
        scratch = self._closing.enter_context(
            tempfile.TemporaryDirectory(prefix="orch-attempt-", ignore_cleanup_errors=True)
        )
        environment = {**environment, "ORCH_ATTEMPT": str(self.record.number), "TMPDIR": scratch}
        cluster = tf_config(self.record.members, self._index)
        if cluster is not None:
            environment["TF_CONFIG"] = cluster
        try:
            child = Child.program(command, environment, folder=self._config.task_root)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EACCES):
                raise
            raise ConfigError(f"{command[0]} cannot be started: {error}") from None
        self._closing.callback(child.close)
        self._closing.callback(child.kill_group)
        self._on_record(PhaseBegan(phase=Phase.TRAIN, detail="command"))
        return child

    @property
    def children(self) -> list[Child]:
        """The processes of this attempt."""
        return [self.process] if self.writing is None else [self.process, self.writing.child]

    # --- what the process and the writer say

    def read(self, now: float) -> list[bytes]:
        """Handle what arrived; returns lines of output."""
        for line in self.process.read_messages():
            self._from_process(line, now)
        output = self.process.read_output()
        if output and self._config.train.command is not None:
            self._since = now
            self._last_lines.extend(line[:LINE_BYTES] for line in output)
        if self.writing is not None:
            for line in self.writing.child.read_messages():
                self._from_writer(line, now)
            output += self.writing.child.read_output()
        return output

    def take_told(self) -> list[bytes]:
        """What the process said of its failure, once: the user's own frames and the message."""
        told, self._told = self._told, []
        return told

    def _from_process(self, line: bytes, now: float) -> None:
        message = decode(from_process, line)
        if message is None:
            log.warning("a message of the training process makes no sense: %r", line[:200])
            return
        self._since = now
        self.progress.apply(message, now)
        match message:
            case PhaseBegan():
                waits = message.detail in ("stop", "last")
                self._watchdog.entered(message.phase, message.state_bytes, waits=waits)
                self._on_record(message)
            case Block():
                self._watchdog.block(message.seconds)
                self._on_record(message)
            case Evaluated():
                self._watchdog.evaluated(message.seconds)
                self._on_record(message)
            case Snapshot():
                self._on_record(
                    Stalled(step=message.step, why=message.why, seconds=message.seconds, size_bytes=message.size_bytes)
                )
                self._watchdog.saving(message.size_bytes)
                if self.writing is not None:
                    self.writing.save(message, now)
            case SaveSkipped():
                skipped = self.progress.saves_skipped
                log.warning("save skipped, the last one is still going step=%d skipped=%d", message.step, skipped)
            case Failure():
                self._told = [line.encode(errors="replace") + b"\n" for line in message.traceback.splitlines()]

    def _from_writer(self, line: bytes, now: float) -> None:
        assert self.writing is not None
        message = decode(from_writer, line)
        match message:
            case Saved():
                self.progress.apply(message, now)
                self.writing.answered()
                log.info(
                    "saved commit=%s size_mb=%.1f seconds=%.2f stall_ms=%.1f",
                    message.commit.name,
                    message.size_bytes / 1e6,
                    message.seconds,
                    self.progress.stall_s * 1e3,
                )
                self._on_record(message)
                self.process.send(message)
                self._compare_with_grace()
            case SaveFailed():
                self.writing.answered()
                self._save_failed(message, now)
            case SaveTrouble():
                self.progress.apply(message, now)
                log.warning("the store makes trouble, trying again step=%d error=%s", message.step, message.error)
                self._on_record(message)
            case Retained():
                log.debug("writer: %s", message)
            case None:
                log.warning("a message of the writer makes no sense: %r", line[:200])

    @property
    def pace(self) -> grace.StopPace:
        """What an orderly end would take, as far as it was measured."""
        commit = self.progress.last_commit
        step = commit.step if commit else None
        return grace.StopPace(self._watchdog.longest_block_s, self.progress.save_s, step)

    def _compare_with_grace(self) -> None:
        """Say once when a save takes longer than a preempted worker is given."""
        if not self._grace_said and not grace.fits(self._config.grace_s, self.pace):
            self._grace_said = True
            log.warning(
                "preemption.grace is %.0f s; %s: a preempted worker will not save, and the last commit will stand",
                self._config.grace_s,
                self.pace.in_words,
            )

    def _save_failed(self, message: SaveFailed, now: float) -> None:
        self.progress.apply(message, now)
        log.error("save failed step=%d error=%s", message.step, message.error)
        self._on_record(message)
        self.process.send(message)

    # --- what is asked of it

    def stop(self, reason: str, now: float) -> None:
        """Ask for an orderly end with a save. Before the first block there is nothing to save, and nobody listens: SIGKILL."""
        if self._asked or self.process.status is not None:
            return
        self._asked = True
        if self._config.train.command is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
        elif self.progress.phase in (Phase.IMPORT, Phase.RENDEZVOUS, Phase.RESTORE, Phase.COMPILE):
            self.process.kill_group()
        else:
            self.process.send(Stop(reason=reason))

    def kill(self, now: float) -> None:
        """End the process: the attempt is over. At once, unless it has long said nothing: then its stacks come first, since it
        may be the one that all others waited for."""
        if self.process.status is not None or self._killed_silent_s is not None:
            return
        self._killed_silent_s = now - self._since
        silent = (
            self.progress.phase is Phase.TRAIN and self._killed_silent_s > HUNG_S and self._config.train.command is None
        )
        if silent and self._kill_at is None and not self._asked and self.process.stopped_s(now) == 0:
            dump_stacks(self.children)
            self._kill_at = now + QUICK_DUMP_S
        else:
            self.process.kill_group()

    def writer_deadline(self, until: float) -> None:
        """The writer may go on until then, where that is earlier than what it was given."""
        if self.writing is not None:
            self.writing.limit(until)

    def peers_wait(self, now: float) -> None:
        """Another worker's process waits for its data or a callback: that this one is silent until now says nothing."""
        self._excused_at = now

    def stood_still(self, seconds: float) -> None:
        """This agent did nothing for so long, as on a machine that was paused: nobody was silent, it did not listen."""
        self._since += seconds
        self.progress.phase_since_s += seconds
        if self.writing is not None:
            self.writing.stood_still(seconds)

    def tick(self, now: float) -> None:
        """Time passed: hangs, the writer's limit."""
        self._measure_memory()
        if self.process.status is None:
            self._watch(now)
        elif self._exited_at is None:
            self._exited_at = now
            self.process.kill_group()
            end = self.exit_report()
            self._on_record(ProcessEnded(code=end.code, step=end.step, exception=end.exception))
            if self.writing is not None:
                self.writing.finish(now + self._writer_may_s())
        match self.writing.tick(now) if self.writing is not None else None:
            case SaveTrouble(step=step, error=error) as trouble:
                log.warning("%s step=%d attempt=%d", error, step, self.record.number)
                self.progress.apply(trouble, now)
                self._on_record(trouble)
                self._since = now  # the process may be waiting for the save, and so for us
            case SaveFailed() as failed:
                self._save_failed(failed, now)

    def _writer_may_s(self) -> float:
        """How long the writer may go on after its process: all of a grace period, which the agent cuts where it ends; else
        twice what the last save took, for the others wait."""
        return self._config.grace_s if self._asked else max(WRITER_S, 2 * (self.progress.save_s or 0.0))

    def _watch(self, now: float) -> None:
        limit_s = self._watchdog.limit_s()
        self._stopped = self._stopped or self.process.stopped_s(now) > STOPPED_S
        being_ended = self._killed_silent_s is not None
        silent = now - max(self._since, self._excused_at) > limit_s
        if self._hung_s is None and not being_ended and (silent or self._stopped):
            self._hung_s = now - self._since
            log.error(
                "hang: phase=%s silent_s=%.0f limit_s=%.0f%s",
                self.progress.phase,
                self._hung_s,
                limit_s,
                " stopped by a signal (SIGSTOP)" if self._stopped else "; stacks follow",
            )
            self._kill_at = now + (0 if self._stopped else DUMP_S)
            if self._config.train.command is None and not self._stopped:
                dump_stacks(self.children)
        if self._kill_at is not None and now > self._kill_at:
            self.process.kill_group()

    def _measure_memory(self) -> None:
        found = memory.of_process(self.process.pid) if self.process.status is None else None
        if found is not None:
            self.progress.memory_bytes, self.progress.memory_peak_bytes = found.now_bytes, found.peak_bytes

    # --- its end

    def ended(self, now: float) -> bool:
        """Whether both processes have ended and their output was read."""
        if self._exited_at is None or self.process.status is None:
            return False
        if self.writing is not None and not self.writing.ended(now):
            return False
        drained = all(child.output_fd is None for child in self.children)
        return drained or now - self._exited_at > OUTPUT_S

    def exit_report(self) -> ExitReport:
        """How the process ended, once it has."""
        progress = self.progress
        return exits.exit_report(
            exits.Ending(
                attempt=self.record.number,
                status=self.process.status if self.process.status is not None else ExitCode.KILLED,
                phase=progress.phase,
                command=self._config.train.command is not None,
                failure=progress.failure,
                last_error=last_error(list(self._last_lines)),
                asked=self._asked,
                hung_s=self._hung_s,
                stopped=self._stopped,
                killed_silent_s=self._killed_silent_s,
                step=progress.step,
                block_steps=progress.block_steps,
                blocks=progress.blocks,
                memory_peak_bytes=progress.memory_peak_bytes,
                oom_killed=(memory.oom_kills() or 0) > self._oom_kills,
            )
        )

    def close(self) -> None:
        """Kill what still runs, give the files back."""
        self._closing.close()
