"""One child of the agent: in a session of its own, with its output and its socket as files to select on.

What the messages mean is not known here: attempt.py reads them.
"""

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from trainer.agent.stopped import Stopped
from trainer.lifeline import PARENT_VARIABLE
from trainer.rundir.attempts import Wire
from trainer.wire.lines import encode

READ_BYTES = 1 << 16
LINE_MAX_BYTES = 1 << 16


class Lines:
    """Cuts a stream of bytes into lines; one without an end is cut after 64 KiB."""

    def __init__(self, line_max_bytes: int = LINE_MAX_BYTES) -> None:
        self._rest = b""
        self._line_max_bytes = line_max_bytes

    def feed(self, data: bytes) -> list[bytes]:
        """Complete lines, each with its end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > self._line_max_bytes:
            lines.append(self._rest)
            self._rest = b""
        return [line + b"\n" for line in lines]

    def rest(self) -> list[bytes]:
        """What is left when the stream ended."""
        last, self._rest = self._rest, b""
        return [last + b"\n"] if last else []


class Ends:
    """Both ends of a child's output and of its socket, until it has its own. Whatever was not taken is closed in the end."""

    def __init__(self, *, channel: bool) -> None:
        self._output, self.their_output = os.pipe()
        os.set_blocking(self._output, False)
        self._socket: socket.socket | None = None
        self.their_socket: socket.socket | None = None
        if channel:
            self._socket, self.their_socket = socket.socketpair()
            self._socket.setblocking(False)
        self._taken = False

    def __enter__(self) -> "Ends":
        return self

    def ours(self) -> tuple[int, socket.socket | None]:
        """What is read here: the output, and the socket. They are the caller's to close."""
        self._taken = True
        return self._output, self._socket

    def __exit__(self, *_: object) -> None:
        os.close(self.their_output)
        if self.their_socket is not None:
            self.their_socket.close()
        if not self._taken:
            os.close(self._output)
            if self._socket is not None:
                self._socket.close()


class Child:
    """A running process. Reaping is the agent's: it calls `reaped` with the status that waitpid gave."""

    def __init__(self, pid: int, output_fd: int, connection: socket.socket | None) -> None:
        """`output_fd`: the end of its output that is read here; `connection`: our end of its socket, where it has one."""
        self.pid = pid
        self.output_fd: int | None = output_fd
        self.socket = connection
        self.status: int | None = None
        """Exit code once reaped, signals as 128 + number."""
        self._lines = Lines()
        self._messages = Lines(line_max_bytes=1 << 26)
        self._unsent = b""
        self._stopped = Stopped(pid)

    @classmethod
    def start(
        cls,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        inherit: Sequence[int],
        channel: bool,
        folder: str | None = None,
    ) -> "Child":
        """Start `arguments`. `inherit`: file descriptors the child keeps. `channel`: whether it gets a socket to us. `folder`:
        where it starts; None for this process's own working directory.

        Call it from the main thread: the child's parent-death signal follows the thread that forked.

        Raises:
            OSError: the program cannot be started.
        """
        environment = {**environment, PARENT_VARIABLE: str(os.getpid())}
        with Ends(channel=channel) as ends:
            if ends.their_socket is not None:
                environment["ORCH_CHANNEL_FD"] = str(ends.their_socket.fileno())
                inherit = [*inherit, ends.their_socket.fileno()]
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=ends.their_output,
                stderr=ends.their_output,
                env=environment,
                cwd=folder,
                pass_fds=list(inherit),
                start_new_session=True,
            )
            process.returncode = 0  # it is reaped here, and Popen need not care
            return cls(process.pid, *ends.ours())

    @classmethod
    def module(
        cls, name: str, environment: Mapping[str, str], *, inherit: Sequence[int] = (), folder: str | None = None
    ) -> "Child":
        """Start a module of ours. -P: the user's folder is not where modules are looked for first."""
        command = [sys.executable, "-P", "-m", name]
        return cls.start(command, environment, inherit=inherit, channel=True, folder=folder)

    @classmethod
    def program(cls, command: Sequence[str], environment: Mapping[str, str], *, folder: str | None = None) -> "Child":
        """Start a program of the user's, which dies with this process as modules of ours do. `python` is at worst this one.

        Raises:
            OSError: it cannot be started.
        """
        name = command[0]
        # One that is named by a path lies where the program starts, and the search would look from here.
        place = os.path.join(folder, name) if folder is not None and os.path.dirname(name) else name
        if shutil.which(place, path=environment.get("PATH")) is None:
            if name not in ("python", "python3"):
                raise FileNotFoundError(errno.ENOENT, "there is no such program that may be run", name)
            command = [sys.executable, *command[1:]]
        shim = [sys.executable, "-P", "-m", "trainer.lifeline"]
        return cls.start([*shim, *command], environment, inherit=(), channel=False, folder=folder)

    def reaped(self, status: int) -> None:
        """waitpid gave this wait status."""
        code = os.waitstatus_to_exitcode(status)
        self.status = 128 - code if code < 0 else code

    def send(self, message: Wire) -> None:
        """Queue a message; `flush` sends what the socket takes."""
        self._unsent += encode(message)
        self.flush()

    def send_with_files(self, message: Wire, files: Sequence[int]) -> None:
        """Send a message and copies of file descriptors with it.

        Raises:
            OSError: the socket takes no more now, or is closed.
        """
        if self.socket is None or self._unsent:
            raise BlockingIOError(errno.EAGAIN, "earlier messages wait for it to read")
        line = encode(message)
        self._unsent = line[socket.send_fds(self.socket, [line], files) :]

    @property
    def wants_to_write(self) -> bool:
        """Whether a message waits for room in the socket."""
        return bool(self._unsent) and self.socket is not None

    def flush(self) -> None:
        """Send what the socket takes now."""
        while self._unsent and self.socket is not None:
            try:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
            except BlockingIOError:
                return
            except OSError:
                self._unsent = b""

    def read_messages(self) -> list[bytes]:
        """Lines that arrived on the socket."""
        lines: list[bytes] = []
        while self.socket is not None:
            try:
                data = self.socket.recv(READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.socket.close()
                self.socket = None
                break
            lines += self._messages.feed(data)
        return lines

    def read_output(self) -> list[bytes]:
        """Lines of stdout and stderr; at most 1 MiB a call, so that a chatty process starves nobody."""
        lines: list[bytes] = []
        for _ in range(16):
            if self.output_fd is None:
                break
            try:
                data = os.read(self.output_fd, READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                os.close(self.output_fd)
                self.output_fd = None
                lines += self._lines.rest()
                break
            lines += self._lines.feed(data)
        return lines

    def stopped_s(self, now: float) -> float:
        """For how long it has stood still, stopped by a signal (SIGSTOP); 0 while it has not. Linux only."""
        return self._stopped.seconds(now) if self.status is None else 0.0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill_group(self) -> None:
        """SIGKILL for the process and all it started, also when it has ended itself."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Give the files back."""
        if self.output_fd is not None:
            os.close(self.output_fd)
            self.output_fd = None
        if self.socket is not None:
            self.socket.close()
            self.socket = None
