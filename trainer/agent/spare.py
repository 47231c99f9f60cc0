"""Training processes on their way to TensorFlow, one of them before it is needed.

TensorFlow's import takes longer than all else in a recovery. So a process that has imported it leaves a copy of itself before
it begins (process/copies.py), at next to no cost, and the copy waits: the spare, with which the next attempt begins. It is no
part of any attempt until it is told which. Where there is none, the next process imports at once, before its attempt is known.
"""

import logging
import os
import socket
import tempfile
from collections.abc import Mapping

from trainer import memory
from trainer.agent import compiled
from trainer.agent.child import Child, Ends
from trainer.agent.stopped import STOPPED_S
from trainer.config import TrainConfig
from trainer.wire.lines import decode
from trainer.wire.process import Copied, Copy, Prepare, from_process

log = logging.getLogger(__name__)

SPARE_BYTES = 400 << 20
"""What a copy has of its own at most, once the training process has written to the pages that they shared (measured: 213 MB),
and room to spare."""
MOST = 0.85
"""There is a spare while it and the training process fit into this share of the memory limit."""
FREE_BYTES = 2 << 30
"""Where there is no limit, so much must be free on the machine."""


class Belongings:
    """What a training process has to itself: its temporary folder, on the chief the memory it will share with a writer."""

    def __init__(self, index: int) -> None:
        """Raises OSError: no file, no space in the temporary folder."""
        # Gone with it, whatever it leaves there when it is killed.
        self.scratch = tempfile.TemporaryDirectory(prefix="orch-attempt-", ignore_cleanup_errors=True)
        try:
            self.memory_fd = os.memfd_create("orch-snapshot", os.MFD_CLOEXEC) if index == 0 else None
        except OSError:
            self.scratch.cleanup()
            raise

    @property
    def files(self) -> list[int]:
        """The file descriptors that the process gets."""
        return [self.memory_fd] if self.memory_fd is not None else []

    def close(self) -> None:
        """Give the files and the memory back."""
        if self.memory_fd is not None:
            os.close(self.memory_fd)
            self.memory_fd = None
        self.scratch.cleanup()


class Prepared:
    """A training process that has no assignment yet, and what belongs to it."""

    def __init__(self, child: Child, belongings: Belongings) -> None:
        self.child = child
        self.belongings = belongings

    @classmethod
    def start(
        cls,
        config: TrainConfig,
        config_path: str,
        index: int,
        environment: Mapping[str, str],
        *,
        spare: bool = False,
    ) -> "Prepared":
        """Start a process, which imports TensorFlow now.

        Raises:
            OSError: no process can be started now: no memory, no file, no space in the temporary folder.
        """
        belongings = Belongings(index)
        try:
            environment = {**environment, **compiled.flags(environment), "TMPDIR": belongings.scratch.name}
            child = Child.module("trainer.process", environment, inherit=belongings.files, folder=config.task_root)
        except OSError:
            belongings.close()
            raise
        child.send(Prepare(config=config_path, spare=spare, memory_fd=belongings.memory_fd))
        return cls(child, belongings)

    def close(self) -> None:
        """Kill it where it still runs, give the files and the memory back."""
        self.child.kill_group()
        self.child.close()
        self.belongings.close()


class _Ordered:
    """A copy that a process was told to leave, until it says that it is there."""

    def __init__(self, original: Child, index: int) -> None:
        """Raises OSError: the order cannot be given now."""
        self._belongings = Belongings(index)
        try:
            with Ends(channel=True) as ends:
                assert ends.their_socket is not None
                files = [ends.their_socket.fileno(), ends.their_output, *self._belongings.files]
                original.send_with_files(Copy(scratch=self._belongings.scratch.name), files)
                self._output_fd, connection = ends.ours()
        except OSError:
            self._belongings.close()
            raise
        assert connection is not None
        self._socket: socket.socket = connection
        self._said = b""
        self.gone = False
        """Whether there will never be one: who was to leave it has ended, or could not."""

    def arrived(self) -> Prepared | None:
        """The copy, once it is there, for good; None before."""
        try:
            data = self._socket.recv(1 << 12)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        self._said += data
        self.gone = not data
        line, end, _ = self._said.partition(b"\n")
        message = decode(from_process, line) if end else None
        if not isinstance(message, Copied):
            return None
        return Prepared(Child(message.pid, self._output_fd, self._socket), self._belongings)

    def close(self) -> None:
        """Call it off: a copy whose socket is closed ends."""
        os.close(self._output_fd)
        self._socket.close()
        self._belongings.close()


class Spare:
    """Has each process leave a copy, hands that to the next attempt, ends it where memory gets short."""

    def __init__(
        self,
        config: TrainConfig,
        config_path: str,
        index: int,
        environment: Mapping[str, str],
        memory_limit_bytes: int | None,
    ) -> None:
        self._arguments = (config, config_path, index, environment)
        self._index = index
        # To import TensorFlow on a TPU host takes the TPU; and a program of the user's is not ours to start early.
        self._possible = config.train.command is None and not config.tpu
        self._limit_bytes = memory_limit_bytes
        self._peak_bytes = 0
        self._ordered: _Ordered | None = None
        self._process: Prepared | None = None

    def prepared(self) -> Prepared:
        """A process for an attempt: the spare, or a new one. It is told to leave a copy for the attempt after this one.

        Raises:
            OSError: no process can be started now.
        """
        prepared = self.take() or Prepared.start(*self._arguments)
        if self._possible and self._has_room(self._peak_bytes):
            try:
                self._ordered = _Ordered(prepared.child, self._index)
            except OSError as error:
                log.info("no spare process: %s", error)
        elif self._possible:
            log.info("no spare process: memory is short; a recovery has to import TensorFlow")
        return prepared

    def tick(self, *, peak_bytes: int, now_bytes: int, now: float) -> None:
        """Time passed. The memory is that of the training process."""
        self._peak_bytes = max(self._peak_bytes, peak_bytes)
        self._look()
        if self._process is not None:
            stopped = self._process.child.stopped_s(now) > STOPPED_S
            if stopped or not self._has_room(now_bytes):
                log.info("the spare process ends: %s", "a signal had stopped it" if stopped else "memory gets short")
                self.close()

    def needed(self) -> None:
        """The training process has ended, and another attempt is likely: the import need not wait for its record."""
        self._look()
        if self._possible and self._process is None:
            self.close()
            try:
                self._process = Prepared.start(*self._arguments, spare=True)
            except OSError as error:
                log.info("no spare process: %s", error)

    def take(self) -> Prepared | None:
        """The spare, if there is one, for good: its caller closes it."""
        self._look()
        process, self._process = self._process, None
        self.close()
        return process

    def reaped(self, pid: int, status: int) -> None:
        """waitpid gave this wait status. A spare that died is not replaced in this attempt."""
        self._look()
        if self._process is not None and self._process.child.pid == pid:
            self._process.child.reaped(status)
            log.info("the spare process ended: %d", self._process.child.status)
            self.close()

    def close(self) -> None:
        """End the spare, if there is one."""
        if self._ordered is not None:
            self._ordered.close()
            self._ordered = None
        if self._process is not None:
            self._process.close()
            self._process = None

    def _look(self) -> None:
        """Whether the copy is there."""
        if self._ordered is None:
            return
        self._process = self._ordered.arrived()
        if self._process is not None:
            self._ordered = None
        elif self._ordered.gone:
            self._ordered.close()
            self._ordered = None

    def _has_room(self, used_bytes: int) -> bool:
        """Whether there may be a spare beside a training process that uses so much."""
        if self._limit_bytes is not None:
            return used_bytes + SPARE_BYTES < MOST * self._limit_bytes
        free_bytes = memory.free_bytes()
        return free_bytes is None or free_bytes > FREE_BYTES
