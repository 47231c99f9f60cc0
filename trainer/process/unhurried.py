"""An import beside training that takes next to nothing from it.

A lower priority alone is not enough: on two busy cores it still cost a third of the rate while it lasted, and under a CPU limit
it takes part of the quota. So it works in pieces, and rests long after each unless a core is idle.
"""

import contextlib
import importlib.abc
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

WORK_S = 0.1
"""CPU time of a piece, at least: a module is not interrupted."""
LOOK_S = 0.1
"""So long it rests after each, and looks whether a core is idle."""
SHARE = 0.1
"""Of the time, where none is."""
IDLE_CORES = 0.8
"""So much of a core counts as an idle one."""

_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
"""Of the container's own cgroup: version 2, version 1."""


def run_beside_training(imports: Callable[[], None]) -> None:
    """Run a function that imports modules, in a thread of the lowest priority that rests between them."""
    import numpy  # noqa: F401  (the threads that it starts keep the priority of the one that imports it)

    # A thread without privileges cannot raise its priority again; so one that ends has the low one.
    with ThreadPoolExecutor(1, "import", initializer=_give_way) as importing, _resting(Rests()):
        importing.submit(imports).result()


def _give_way() -> None:
    """From here on this thread runs where nothing else wants the core. Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class Rests:
    """Asked again and again by a thread that works, it lets that thread sleep."""

    def __init__(
        self,
        worked_s: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], None] = time.sleep,
        idle_core_s: Callable[[], float | None] | None = None,
    ) -> None:
        """`worked_s`: the thread's CPU time; `idle_core_s`: what all cores together were idle, None where that says nothing."""
        self._worked_s = worked_s
        self._sleep = sleep
        self._idle_core_s = idle_core_s or _idle_core_s
        self._before: float | None = None

    def rest(self) -> None:
        """Sleep, where it is time to."""
        now = self._worked_s()
        if self._before is None:
            self._before = now
        worked = now - self._before
        if worked < WORK_S:
            return
        idle_before = self._idle_core_s()
        self._sleep(LOOK_S)
        idle = self._idle_core_s()
        if idle is None or idle_before is None or idle - idle_before < IDLE_CORES * LOOK_S:
            self._sleep(max(0.0, worked * (1 / SHARE - 1) - LOOK_S))
        self._before = self._worked_s()


class _BeforeEachModule(importlib.abc.MetaPathFinder):
    """Finds none."""

    def __init__(self, rests: Rests) -> None:
        self._rests = rests
        self._in_it = False

    def find_spec(self, *_: Any) -> None:
        if not self._in_it:  # to rest may import too
            self._in_it = True
            try:
                self._rests.rest()
            finally:
                self._in_it = False


@contextlib.contextmanager
def _resting(rests: Rests) -> Iterator[None]:
    finder = _BeforeEachModule(rests)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _idle_core_s() -> float | None:
    """The machine's; None under a CPU limit: what is idle there is not this container's."""
    for path in _QUOTAS:
        with contextlib.suppress(OSError):
            if not path.read_text(encoding="ascii").startswith(("max", "-1")):
                return None
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None
