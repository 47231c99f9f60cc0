"""Training processes on their way to TensorFlow, one of them before it is needed.

TensorFlow's import takes longer than all else in a recovery. So where memory allows, a second process imports it while
training goes on, and waits; the next attempt begins with that one. It is no part of any attempt until it is told which. Beside
training it imports without hurry (process/unhurried.py): with a core idle within seconds, with none in half a minute. One that
has not imported it by the time it is needed gives way to one that does at full speed.
"""

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from trainer import memory
from trainer.agent import compiled
from trainer.agent.child import Child
from trainer.agent.stopped import STOPPED_S
from trainer.config import TrainConfig
from trainer.wire.process import SPARE, Prepare

log = logging.getLogger(__name__)

AFTER_S = 2.0
"""After an attempt's first block, so long: a start that fails early and a short job pay for no spare."""
SPARE_BYTES = 400 << 20
"""What a process has of its own once TensorFlow is imported (measured: 183 MB), and room to spare."""
START_BELOW = 0.7
"""A spare starts where it and the training process's peak fit into this share of the memory limit."""
END_ABOVE = 0.85
"""It ends when both together take more than this share of the limit."""
FREE_BYTES = 2 << 30
"""Where there is no limit, so much must be free on the machine."""


class Prepared:
    """A training process that has no assignment yet, and what belongs to it: its temporary folder, on the chief the memory it
    will share with a writer."""

    def __init__(
        self,
        config: TrainConfig,
        config_path: str,
        index: int,
        environment: Mapping[str, str],
        *,
        spare: bool = False,
        beside_training: bool = False,
    ) -> None:
        """Start it. `beside_training`: it imports TensorFlow where nothing else wants the core.

        Raises:
            OSError: no process can be started now: no memory, no file, no space in the temporary folder.
        """
        self._beside_training = beside_training
        self.memory_fd: int | None = None
        # Gone with it, whatever it leaves there when it is killed.
        self.scratch = tempfile.TemporaryDirectory(prefix="orch-attempt-", ignore_cleanup_errors=True)
        try:
            if index == 0:
                self.memory_fd = os.memfd_create("orch-snapshot", os.MFD_CLOEXEC)
            inherit = [self.memory_fd] if self.memory_fd is not None else []
            environment = {**environment, **compiled.flags(environment), "TMPDIR": self.scratch.name}
            self.child = Child.module("trainer.process", environment, inherit=inherit, folder=config.task_root)
        except OSError:
            self._give_back()
            raise
        self.child.send(Prepare(config=config_path, spare=spare, beside_training=beside_training))

    def imports_beside_training(self) -> bool:
        """Whether it still imports, at a priority that it cannot raise again."""
        if not self._beside_training:
            return False
        try:
            return Path(f"/proc/{self.child.pid}/comm").read_text().strip() != SPARE
        except OSError:
            return False

    def close(self) -> None:
        """Kill it where it still runs, give the files and the memory back."""
        self.child.kill_group()
        self.child.close()
        self._give_back()

    def _give_back(self) -> None:
        if self.memory_fd is not None:
            os.close(self.memory_fd)
            self.memory_fd = None
        self.scratch.cleanup()


class Spare:
    """Starts a spare once an attempt trains, hands it to the next attempt, ends it where memory gets short."""

    def __init__(
        self,
        config: TrainConfig,
        config_path: str,
        index: int,
        environment: Mapping[str, str],
        memory_limit_bytes: int | None,
    ) -> None:
        self._arguments = (config, config_path, index, environment)
        # To import TensorFlow on a TPU host takes the TPU; and a program of the user's is not ours to start early.
        self._possible = config.train.command is None and not config.tpu
        self._limit_bytes = memory_limit_bytes
        self._process: Prepared | None = None
        self._attempt = 0
        self._since: float | None = None

    def tick(self, attempt: int, *, training: bool, peak_bytes: int, now_bytes: int, now: float) -> None:
        """Time passed. `training`: the attempt has done a block. The memory is that of its training process."""
        if self._process is not None:
            stopped = self._process.child.stopped_s(now) > STOPPED_S
            if stopped or self._is_short(now_bytes):
                log.info("the spare process ends: %s", "a signal had stopped it" if stopped else "memory gets short")
                self.close()
        elif self._possible and training:
            if attempt != self._attempt:
                self._attempt, self._since = attempt, now
            if self._since is not None and now - self._since > AFTER_S:
                self._since = None  # one try in an attempt
                if self._has_room(peak_bytes):
                    self._start(beside_training=True)
                else:
                    log.info("no spare process: memory is short; a recovery has to import TensorFlow")

    def needed(self) -> None:
        """The training process has ended, and another attempt is likely: the import need not wait for its record."""
        if self._process is not None and self._process.imports_beside_training():
            log.info("the spare process has not imported TensorFlow yet: another one does it at full speed")
            self.close()
        if self._possible and self._process is None:
            self._start(beside_training=False)

    def _start(self, *, beside_training: bool) -> None:
        try:
            self._process = Prepared(*self._arguments, spare=True, beside_training=beside_training)
        except OSError as error:
            log.info("no spare process: %s", error)

    def _has_room(self, peak_bytes: int) -> bool:
        if self._limit_bytes is None:
            free_bytes = memory.free_bytes()
            return free_bytes is None or free_bytes > FREE_BYTES
        return peak_bytes + SPARE_BYTES < START_BELOW * self._limit_bytes

    def _is_short(self, now_bytes: int) -> bool:
        if self._limit_bytes is None:
            free_bytes = memory.free_bytes()
            return free_bytes is not None and free_bytes < FREE_BYTES / 2
        return now_bytes + SPARE_BYTES > END_ABOVE * self._limit_bytes

    def take(self) -> Prepared | None:
        """The spare, if there is one, for good: its caller closes it."""
        process, self._process = self._process, None
        return process

    def reaped(self, pid: int, status: int) -> None:
        """waitpid gave this wait status. A spare that died is not replaced in this attempt."""
        if self._process is not None and self._process.child.pid == pid:
            self._process.child.reaped(status)
            log.info("the spare process ended: %d", self._process.child.status)
            self.close()

    def close(self) -> None:
        """End the spare, if there is one."""
        if self._process is not None:
            self._process.close()
            self._process = None
