"""A command in a worker's pod, on this terminal: bytes both ways, the size of the window, the exit code.

Speaks the channels of Kubernetes' exec over a WebSocket (v5.channel.k8s.io): one thread, one poll, so that a reader and a writer
that wait for each other cannot hold each other up.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ClusterError, NotFound
from orchestrator.kube.jobs import find_job
from orchestrator.kube.names import CONTAINER, selector_of
from orchestrator.kube.objects import Manifest, index_of, newest_pods, running

_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_CHUNK = 32 * 1024
# One TLS record: what a socket that poll calls writable takes without blocking.
_SEND = 16 * 1024


def pod_of(cluster: Cluster, name: str, worker: int) -> str:
    """The running pod of a worker.

    Raises:
        NotFound: no such job, or the worker has no pod that runs.
    """
    find_job(cluster, name)
    pods = [pod for pod in cluster.select("Pod", labels=selector_of(name)) if index_of(pod) == worker]
    pod: Manifest | None = newest_pods(pods).get(worker)
    if pod is None or not running(pod):
        what = f"its pod {pod['metadata']['name']} does not run" if pod is not None else "there is none"
        raise NotFound(
            f"worker {worker} of job {name} has no pod to run a command in: {what}",
            remedy=f"orch status {name} says what it waits for",
        )
    return str(pod["metadata"]["name"])


def run(cluster: Cluster, pod: str, command: list[str]) -> int:
    """Run a command in a pod with this process's stdin, stdout and stderr; its exit code.

    Where stdin and stdout are a terminal the command gets one too.

    Raises:
        ClusterError: it cannot be started, or the connection broke.
    """
    terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    connection = cluster.open_exec(pod, command, container=CONTAINER, terminal=terminal)
    try:
        with _raw() if terminal else contextlib.nullcontext(), _resizes(terminal) as resized:
            return _Session(connection, pod, resized if terminal else None).run()
    finally:
        connection.close()


class _Session:
    """What goes to and fro over one connection."""

    def __init__(self, connection: Any, pod: str, resized: int | None) -> None:
        self._connection = connection
        self._pod = pod
        self._stdin: int | None = None
        self._resized = resized
        self._unsent = b""
        if sys.stdin is not None:
            self._stdin = sys.stdin.fileno()
        else:  # this process was started without one: `<&-`
            self._queue(_CLOSE, bytes([_STDIN]))

    def run(self) -> int:
        """Until the command has ended."""
        from websocket import WebSocketException

        try:
            while True:
                for descriptor in self._ready():
                    if descriptor == self._stdin:
                        self._read_stdin()
                    elif descriptor == self._resized and self._resized is not None:
                        os.read(self._resized, 4096)
                        self._queue(_RESIZE, _size())
                    elif (code := self._receive()) is not None:
                        return code
                self._send()
        except _ReaderGone:
            raise BrokenPipeError from None
        except (WebSocketException, OSError) as error:
            raise ClusterError(f"the connection to pod {self._pod} broke: {error}") from None

    def _ready(self) -> list[int]:
        socket = self._connection.sock
        wanted = select.poll()
        wanted.register(socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        if self._resized is not None:
            wanted.register(self._resized, select.POLLIN)
        # What cannot be sent is not read: a fast writer waits for a slow command.
        if self._stdin is not None and not self._unsent:
            wanted.register(self._stdin, select.POLLIN)
        # A TLS record may hold several frames: those that came already are not seen by poll.
        held = bool(getattr(socket, "pending", lambda: 0)())
        events = wanted.poll(0 if held else None)
        readable = [descriptor for descriptor, event in events if event & ~select.POLLOUT]
        if held and socket.fileno() not in readable:
            readable.append(socket.fileno())
        return readable

    def _read_stdin(self) -> None:
        assert self._stdin is not None
        data = os.read(self._stdin, _CHUNK)
        if data:
            self._queue(_STDIN, data)
        else:
            self._queue(_CLOSE, bytes([_STDIN]))
            self._stdin = None

    def _queue(self, channel: int, data: bytes) -> None:
        from websocket import ABNF

        self._unsent += ABNF.create_frame(bytes([channel]) + data, ABNF.OPCODE_BINARY).format()

    def _send(self) -> None:
        if self._unsent and select.select([], [self._connection.sock], [], 0)[1]:
            sent = self._connection.sock.send(self._unsent[:_SEND])
            self._unsent = self._unsent[sent:]

    def _receive(self) -> int | None:
        """Take one frame; the exit code when the command has ended."""
        from websocket import ABNF

        code, frame = self._connection.recv_data_frame(True)
        if code == ABNF.OPCODE_CLOSE:
            raise ClusterError(f"the connection to pod {self._pod} was closed before the command had ended")
        if code not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or not frame.data:
            return None
        channel, data = frame.data[0], frame.data[1:]
        if channel in (_STDOUT, _STDERR):
            _write(channel, data)
        elif channel == _ERROR:
            return _exit_code(json.loads(data), self._pod)
        return None


def _exit_code(status: dict[str, Any], pod: str) -> int:
    """Of a Status object, which comes when the command has ended, or could not be started."""
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or []:
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    text = str(status.get("message", "no reason given"))
    # The container runtime's own words come last.
    raise ClusterError(f"the command cannot be run in pod {pod}: {text.rpartition('exec failed: ')[2]}")


class _ReaderGone(Exception):
    """Whoever read our own output reads no more: not the connection's trouble."""


def _write(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BrokenPipeError:
            raise _ReaderGone from None


def _size() -> bytes:
    columns, lines = shutil.get_terminal_size()
    return json.dumps({"Width": columns, "Height": lines}).encode()


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """The terminal hands on every key: Ctrl-C is the command's."""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizes(terminal: bool) -> Iterator[int]:
    """A file descriptor that is readable now, and after each change of the window's size."""
    read, write = os.pipe()
    os.set_blocking(write, False)

    def tell(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(write, b"\0")

    before = signal.signal(signal.SIGWINCH, tell) if terminal else None
    os.write(write, b"\0")
    try:
        yield read
    finally:
        if terminal:
            signal.signal(signal.SIGWINCH, before)
        os.close(read)
        os.close(write)
