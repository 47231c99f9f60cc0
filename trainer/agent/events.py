"""What the agent's one thread waits for: messages and output of its children, and whoever wakes it."""

import contextlib
import os
import selectors
from collections.abc import Sequence

from trainer.agent.child import Child


class Events:
    """A selector, and a pipe into it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_read, self.wake_fd = os.pipe()  # whatever is written there wakes, a signal's number too
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self.wake_fd, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)

    def wake(self) -> None:
        """From any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.wake_fd, b"\0")

    def wait(self, timeout_s: float) -> None:
        """Until something is to be read, somebody wakes, or the time is over."""
        for key, _ in self._selector.select(timeout_s):
            if key.fd == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    while os.read(self._wake_read, 4096):
                        pass

    def watch(self, children: Sequence[Child]) -> None:
        """Select on exactly the open files of these."""
        wanted: dict[int, int] = {self._wake_read: selectors.EVENT_READ}
        for child in children:
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
