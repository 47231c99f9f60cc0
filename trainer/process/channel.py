"""The process's end of the socket to its agent: messages go out at once, a thread reads what comes in. Free of TensorFlow."""

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping

from trainer.errors import ConfigError
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import Wire
from trainer.wire.lines import encode
from trainer.wire.process import Copy, Phase, PhaseBegan, Prepare, Start, Stop, to_process
from trainer.wire.writer import Saved, SaveFailed

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 16
_FILES_MAX = 3
SLOW_S = 0.5
"""What is done within a phase and takes longer is announced."""


class Channel:
    """Messages to and from the agent. `read_prepare` comes first, then `read_order` up to the Start, then `listen`."""

    def __init__(self, connection: socket.socket, memory_fd: int | None = None) -> None:
        """`memory_fd`: the memfd for snapshots, where it is known already."""
        self._socket = connection
        self._memory_fd = memory_fd
        self._files: list[int] = []
        self._socket.setblocking(True)
        self._send_lock = threading.Lock()
        self._changed = threading.Condition()
        self._unread = b""
        self._stop_reason: str | None = None
        self._answer: Saved | SaveFailed | None = None
        self.phase: Phase | None = None
        """The phase that was announced last."""
        self.step = 0
        self.dropped = 0
        """Messages that the agent was too slow for."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Channel":
        """The channel whose file descriptor is in ORCH_CHANNEL_FD."""
        text = environment.get("ORCH_CHANNEL_FD", "")
        if not text.isdecimal():
            raise ConfigError(
                "ORCH_CHANNEL_FD is not set", remedy="trainer.process is started by an agent: use `orch run job.yaml`."
            )
        return cls(socket.socket(fileno=int(text)))

    def read_prepare(self) -> Prepare:
        """The first message. Blocks until it is there."""
        message = to_process.validate_json(self._read_line())
        if not isinstance(message, Prepare):
            raise ConfigError(f"the agent's message is {message.type}, not prepare")
        self._memory_fd = message.memory_fd
        return message

    def read_order(self) -> Copy | Start:
        """What comes after the first message. Blocks until it is there."""
        message = to_process.validate_json(self._read_line())
        if isinstance(message, Start):
            return message.model_copy(update={"memory_fd": self._memory_fd})
        if not isinstance(message, Copy):
            raise ConfigError(f"the agent's message is {message.type}, not start")
        return message

    def take_files(self) -> list[int]:
        """The file descriptors that came with the last message. They are the caller's to close."""
        files, self._files = self._files, []
        return files

    def close(self) -> None:
        """Give the socket and the memfd back."""
        self._socket.close()
        if self._memory_fd is not None:
            os.close(self._memory_fd)

    def listen(self) -> None:
        """Read in a thread of its own from now on. When the agent is gone, the process ends."""
        threading.Thread(target=self._read, name="channel", daemon=True).start()

    def send(self, message: Wire, *, droppable: bool = False) -> None:
        """Send a message. A droppable one is dropped when the agent does not read; others wait for it."""
        with self._send_lock:
            if droppable and not select.select([], [self._socket], [], 0)[1]:
                self.dropped += 1
                return
            try:
                self._socket.sendall(encode(message))
            except OSError as error:
                log.error("the agent is gone: %s", error)
                os._exit(ExitCode.LOST_PEER)

    def enter(self, phase: Phase, step: int = 0, detail: str = "") -> None:
        """Announce a phase before it begins, unless it goes on anyway."""
        self.step = step
        if phase is not self.phase:
            self.phase = phase
            self.send(PhaseBegan(phase=phase, step=step, detail=detail))

    @contextlib.contextmanager
    def within(self, phase: Phase) -> Iterator[None]:
        """Announce a phase within the present one, once it takes longer than SLOW_S; at its end the present one again."""
        before, lock, over = self.phase, threading.Lock(), False

        def announce() -> None:
            with lock:
                if not over:
                    self.enter(phase, self.step)

        timer = threading.Timer(SLOW_S, announce)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with lock:
                over = True
            if before is not None:
                self.enter(before, self.step)

    def restoring(self, state_bytes: int) -> None:
        """Tell how large the state is that is restored now: its agent waits the longer for it."""
        self.phase = Phase.RESTORE
        self.send(PhaseBegan(phase=Phase.RESTORE, step=self.step, state_bytes=state_bytes))

    @property
    def stop_reason(self) -> str | None:
        """Why the agent wants this process to end, once it does."""
        return self._stop_reason

    def take_answer(self) -> Saved | SaveFailed | None:
        """The writer's answer to the last snapshot, once; None while there is none."""
        with self._changed:
            answer, self._answer = self._answer, None
            return answer

    def wait_answer(self, timeout_s: float | None = None) -> Saved | SaveFailed | None:
        """As take_answer, waiting for it. None after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while self._answer is None:
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    return None
                self._changed.wait(left_s)
            answer, self._answer = self._answer, None
            return answer

    def _read(self) -> None:
        while True:
            try:
                message = to_process.validate_json(self._read_line())
            except ValueError as error:
                log.error("a message of the agent makes no sense: %s", error)
                continue
            except OSError as error:
                log.error("the agent is gone: %s", error)
                os._exit(ExitCode.LOST_PEER)
            with self._changed:
                if isinstance(message, Stop):
                    self._stop_reason = message.reason or "stop requested"
                elif isinstance(message, Saved | SaveFailed):
                    self._answer = message
                self._changed.notify_all()

    def _read_line(self) -> bytes:
        while b"\n" not in self._unread:
            data, files, _, _ = socket.recv_fds(self._socket, _READ_BYTES, _FILES_MAX)
            if not data:
                raise ConnectionResetError("it closed the connection")
            self._unread += data
            self._files += files
        line, _, self._unread = self._unread.partition(b"\n")
        return line
