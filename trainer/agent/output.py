"""Where the output of the processes goes: this agent's own stdout, and segments in the run directory.

Neither may ever hold training up: a reader that does not read, or a store that does not answer, costs lines, which are counted.
"""

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from trainer.errors import OrchError
from trainer.rundir.store import Store

log = logging.getLogger(__name__)

SEGMENT_BYTES = 1 << 20
SEGMENT_S = 60.0
KEEP_FAILED_BYTES = 8 << 20
QUEUE_BYTES = 4 << 20
T = TypeVar("T")


class LossyQueue(Generic[T]):
    """Between one who must never wait and one who may be slow: bounded in bytes, what does not fit is dropped and counted."""

    def __init__(self, capacity_bytes: int = QUEUE_BYTES) -> None:
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._capacity_bytes = capacity_bytes
        self._changed = threading.Condition()
        self._closed = False
        self._dropped = 0

    def put(self, item: T, size_bytes: int) -> None:
        """Queue the item, or count it as dropped; returns at once."""
        with self._changed:
            if self._bytes + size_bytes > self._capacity_bytes:
                self._dropped += 1
                return
            self._items.append((item, size_bytes))
            self._bytes += size_bytes
            self._changed.notify()

    def get(self) -> T | None:
        """The next item; waits for it. None once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            if not self._items:
                return None
            item, size_bytes = self._items.popleft()
            self._bytes -= size_bytes
            return item

    def take_dropped(self) -> int:
        """How many items were dropped since the last call."""
        with self._changed:
            dropped, self._dropped = self._dropped, 0
            return dropped

    def close(self) -> None:
        """No item follows."""
        with self._changed:
            self._closed = True
            self._changed.notify()


class LossyPipe:
    """Writes lines to a file descriptor from a thread of its own; drops them while the reader does not read."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._queue: LossyQueue[bytes] = LossyQueue()
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue a line; counts it as dropped when the queue is full."""
        self._queue.put(line, len(line))

    def close(self, timeout_s: float) -> None:
        """Give what is queued so long to leave."""
        self._queue.close()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            if dropped := self._queue.take_dropped():
                line = b"[%d lines dropped: the reader was too slow]\n" % dropped + line
            try:
                while line:
                    select.select([], [self._fd], [])
                    line = line[os.write(self._fd, line) :]
            except OSError:
                return


class Segments:
    """Appends text to numbered objects under a prefix: segment-000001.log and so on, from a thread of its own.

    On a local path the open segment is rewritten every second, so that a follower sees it grow; in a bucket it is written when
    it is full or `SEGMENT_S` old.
    """

    def __init__(
        self, store: Store, prefix: str, suffix: str, *, immediate: bool, hold: Callable[[], bool] = lambda: False
    ):
        """`immediate`: rewrite the open segment every second. `hold`: while true nothing is written, only kept."""
        self._store = store
        self._prefix = prefix
        self._suffix = suffix
        self._interval_s = 1.0 if immediate else SEGMENT_S
        self._immediate = immediate
        self._hold = hold
        self._lock = threading.Lock()
        self._open = bytearray()
        self._number = 1
        self._dirty = False
        self._wake = threading.Event()
        self._closed = False
        self._dropped_bytes = 0
        self._thread = threading.Thread(target=self._run, name=f"segments {prefix}", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Append; returns at once. What is too much is dropped: of what is held back the oldest, since the end tells most."""
        with self._lock:
            if len(self._open) + len(data) > KEEP_FAILED_BYTES:
                if not self._hold():
                    self._dropped_bytes += len(data)
                    return
                least = len(self._open) + len(data) - KEEP_FAILED_BYTES // 2
                cut = self._open.find(b"\n", min(least, len(self._open))) + 1 or len(self._open)
                del self._open[:cut]
                self._dropped_bytes += cut
            self._open += data
            self._dirty = True
            if len(self._open) >= SEGMENT_BYTES:
                self._wake.set()

    def flush(self) -> None:
        """Write what there is soon, held back or not."""
        self._hold = lambda: False
        self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Write the rest; give it so long."""
        self._closed = True
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            closed = self._closed
            if not self._hold():
                self._write_open(final=closed)
            if closed:
                return

    def _write_open(self, *, final: bool) -> None:
        with self._lock:
            if not self._dirty:
                return
            if self._dropped_bytes:
                self._open[:0] = b"[%d bytes of output were dropped here]\n" % self._dropped_bytes
                self._dropped_bytes = 0
            data = bytes(self._open)
            self._dirty = False
        name = f"{self._prefix}segment-{self._number:06d}{self._suffix}"
        try:
            self._store.put(name, data)
        except OrchError as error:
            log.debug("segment not written name=%s error=%s", name, error)
            with self._lock:
                self._dirty = True
            if not final:
                time.sleep(1.0)
            return
        if not self._immediate or len(data) >= SEGMENT_BYTES:
            with self._lock:
                del self._open[: len(data)]
                self._number += 1
