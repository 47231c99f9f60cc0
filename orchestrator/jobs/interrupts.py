"""Signals that end a command, held back while something is done whole or not at all."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """SIGINT, SIGTERM and SIGHUP do nothing in here until the function that is given is called: it then raises.

    So none of them comes between an object's creation and our knowing of it. What came unasked for is delivered at the end.
    Only the main thread gets signals; in another one nothing is held back.

    The given function raises:
        KeyboardInterrupt: SIGINT came.
        SystemExit: another one came; its code is the shell's, 128 + signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came: list[int] = []

    def raise_if_any() -> None:
        if came:
            number = came[0]
            came.clear()
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in _ENDING}
    try:
        yield raise_if_any
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        os.kill(os.getpid(), came[0])
