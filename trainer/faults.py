"""Fault points with names: places in the code where a test may kill, freeze or delay a process, or raise.

Off, and a call of an empty function, unless ORCH_FAULTS names a folder when the process starts. A file in it named POINT (any
worker) or POINT.worker-I holds an action; who reaches the point and unlinks the file first performs it, so each fires
once, and a test may arm points at any time while a job runs.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

VARIABLE = "ORCH_FAULTS"

POINTS = (
    # The writer (checkpoint/writer.py, checkpoint/retention.py).
    "writer.before-shard",
    "writer.after-shard",
    "writer.before-commit",  # it has just seen that its attempt is not closed
    "writer.after-commit",
    "writer.before-read-back",
    "writer.before-delete",  # of a commit, and of each object of its data
    "writer.after-delete",
    # The coordinator (coordinator/driver.py).
    "coordinator.before-append",
    "coordinator.after-append",  # the record is written, and the coordinator does not know it yet
    # The training process. A name in the past tense stands right behind what it names.
    "process.imported",
    "process.rendezvous",
    "process.restored",  # also where there was nothing to restore
    "process.compiled",
    "process.block",  # after each block
    "process.before-copy",
    "process.after-copy",  # before the Snapshot message
    "process.evaluated",
    "process.last-saved",
    "process.exported",
    "process.reported",  # the chief's Result is sent
    "process.left",
    # The agent (agent/main.py).
    "agent.attempt-began",
    "agent.process-ended",  # nobody was told yet
    "agent.end-known",
    "agent.before-exit",
)


class FaultRaised(Exception):
    """What the action `raise` raises."""


def arm(folder: Path, point: str, action: str, *, worker: int | None = None, passes: int = 0) -> Path:
    """Arm `point`, for tests; returns the file, which is gone once the fault fired.

    Args:
        action: `kill` (SIGKILL to itself), `stop` (SIGSTOP to itself), `sleep SECONDS`, or `raise`.
        worker: of this worker only.
        passes: how many times a process may pass the point before it fires.

    Raises:
        ValueError: an unknown point or action.
    """
    _check_point(point)
    _parse(action)
    path = folder / (point if worker is None else f"{point}.worker-{worker}")
    written = folder / f".{path.name}"
    written.write_text(f"{action}\n{passes}\n")
    return written.rename(path)


def _check_point(point: str) -> None:
    if point not in POINTS:
        raise ValueError(f"{point!r} is no fault point; there are {', '.join(POINTS)}")


def _parse(action: str) -> tuple[str, float]:
    verb, _, seconds = action.partition(" ")
    if verb not in ("kill", "stop", "sleep", "raise") or (verb == "sleep") != bool(seconds):
        raise ValueError(f"{action!r} is no fault: kill, stop, sleep SECONDS or raise")
    return verb, float(seconds or 0)


class Faults:
    """The armed points of one folder, as one process meets them."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._worker = worker
        self._passed: dict[Path, int] = {}

    def reach(self, point: str) -> None:
        """Perform what is armed for `point`, if anything is."""
        _check_point(point)
        for path in (self._folder / f"{point}.worker-{self._worker}", self._folder / point):
            with contextlib.suppress(FileNotFoundError):
                action, passes = path.read_text().splitlines()
                if self._passed.get(path, 0) < int(passes):
                    self._passed[path] = self._passed.get(path, 0) + 1
                    continue
                path.unlink()  # of several that reach it, one gets past this line
                self._passed.pop(path, None)
                self._perform(point, *_parse(action))

    @staticmethod
    def _perform(point: str, verb: str, seconds: float) -> None:
        match verb:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "sleep":
                time.sleep(seconds)
            case _:
                raise FaultRaised(f"the fault point {point}")


def _nothing(point: str) -> None:
    """Faults are off."""


def _from_environment() -> Callable[[str], None]:
    folder = os.environ.get(VARIABLE)
    if not folder:
        return _nothing
    return Faults(Path(folder), os.environ.get("ORCH_INDEX") or os.environ.get("JOB_COMPLETION_INDEX", "")).reach


reach: Callable[[str], None] = _from_environment()
"""`reach(point)` is called where a point is."""
