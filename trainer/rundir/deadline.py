"""A deadline for a whole call over HTTP. Time-outs of requests hold for one read or write, so a trickle outlives them all.

`Call` is one call, of one thread; when its time is over a watching thread shuts down the socket the call is using, and
whatever waits for it fails. `limit` makes the connections of a requests.Session known to the calls that use them.
"""

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

LEAST_BYTES_PER_S = 1e6
"""Every byte that moves gives a call more time, as if it had come at this rate: a slower store counts as one that is away."""
_AGAIN_S = 0.25

_this_thread = threading.local()


class Call:
    """A context in which this thread makes one call; may be nested, and then only the inner one is watched."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.troubled = False
        self.hung_up = False
        """The time was up before the call ended: what it brought, if anything, may be cut short."""
        self._deadline = time.monotonic() + timeout_s
        self._socket: socket.socket | None = None
        self._done = threading.Event()
        self._outer: Call | None = None

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._deadline

    def moved(self, size_bytes: int) -> None:
        """So many more bytes came or went."""
        self._deadline += size_bytes / LEAST_BYTES_PER_S

    def __enter__(self) -> "Call":
        self._outer, _this_thread.call = current(), self
        threading.Thread(target=self._watch, name="deadline", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _this_thread.call = self._outer
        self._done.set()

    def uses(self, connected: socket.socket) -> None:
        """The call goes over this socket now."""
        self._socket = connected

    def _watch(self) -> None:
        while not self._done.wait(max(self._deadline - time.monotonic(), _AGAIN_S)):
            if self.is_over and self._socket is not None:
                self.hung_up = True
                with contextlib.suppress(OSError):
                    # Of the plain socket: a TLS one would have its state changed under the thread that reads from it.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def current() -> Call | None:
    """The call that this thread is making, if any."""
    call: Call | None = getattr(_this_thread, "call", None)
    return call


def limit(session: requests.Session) -> None:
    """From now on the calls of all threads that use `session` keep their deadlines."""
    session.mount("https://", _Adapter())
    session.mount("http://", _Adapter())


def _note_socket(connection: Any) -> None:
    call = current()
    if call is not None and connection.sock is not None:
        call.uses(connection.sock)


class _Connection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _note_socket(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _note_socket(self)
        super().request(*args, **kwargs)


class _SecureConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _note_socket(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _note_socket(self)
        super().request(*args, **kwargs)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager
