"""What a job leaves on this machine when it is over: nothing but its lock."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from support_run import command_of, environment_of

from tests.chaos.leg import Leg
from trainer import faults
from trainer.rundir.attempts import AttemptRecord

GRACE_S = 5.0
"""A process that was killed a moment ago may still be there."""
MEMORY = "/memfd:orch-snapshot"


def of(leg: Leg, attempts: Sequence[AttemptRecord], *, saved: bool) -> list[str]:
    """Processes, memory, ports and files of the job that are still there. `saved`: whether its last attempt committed."""
    deadline = time.monotonic() + GRACE_S
    while True:
        found = _now(leg, attempts, saved=saved)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def _now(leg: Leg, attempts: Sequence[AttemptRecord], *, saved: bool) -> list[str]:
    mine = set(_processes_of(leg))
    found = [f"process {pid}: {command_of(pid)}" for pid in mine]
    found += [f"memory of a snapshot, held by process {pid}" for pid in mine if _memories(pid)]
    listening = _listening({member.port for attempt in attempts for member in attempt.members})
    for pid in mine:
        found += [f"port {listening[inode]}, held by process {pid}" for inode in _sockets(pid) & listening.keys()]
    for folder in (leg.temporary, *leg.folder.glob("tmp-*")):
        found += [f"{path}" for path in folder.rglob("*") if not _may_stay(path, folder)]
    if not leg.directory.startswith("gs://"):
        found += list(_temporary_of_the_store(Path(leg.directory, "tmp"), attempts[-1], saved=saved))
    return found


def memories(leg: Leg) -> list[str]:
    """While it trains: agents that hold the memory of attempts that are over."""
    found = []
    for worker in range(leg.workers):
        pid = leg.agent(worker)
        held = _filled_memories(pid) if pid is not None else 0
        if held > (worker == 0):
            found.append(f"the agent of worker {worker} holds the memory of {held} snapshots")
    return found


def _processes_of(leg: Leg) -> Iterator[int]:
    """By their environment, and by the folder they run in: one of them may be clean."""
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        if pid == os.getpid():
            continue
        folder = ""
        with contextlib.suppress(OSError):
            folder = os.readlink(f"/proc/{pid}/cwd")
        if environment_of(pid).get(faults.VARIABLE) == str(leg.faults) or f"{folder}/".startswith(f"{leg.folder}/"):
            yield pid


def _files(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for item in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{item}")


def _memories(pid: int) -> int:
    return sum(name.startswith(MEMORY) for name in _files(pid))


def _filled_memories(pid: int) -> int:
    """Without the empty one that waits with the spare process for its attempt."""
    held = 0
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                held += os.readlink(path).startswith(MEMORY) and path.stat().st_size > 0
    return held


def _sockets(pid: int) -> set[str]:
    return {name[len("socket:[") : -1] for name in _files(pid) if name.startswith("socket:[")}


def _listening(ports: set[int]) -> dict[str, int]:
    """Inode -> port, of those of `ports` on which somebody listens."""
    found = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for row in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = row.split()
                port = int(fields[1].rpartition(":")[2], 16)
                if fields[3] == "0A" and port in ports:
                    found[fields[9]] = port
    return found


def _may_stay(path: Path, folder: Path) -> bool:
    """The folder of this user, and in it the locks of run directories in buckets."""
    own = folder / f"orch-{os.getuid()}"
    return path == own or (path.parent == own and path.suffix == ".lock")


def _temporary_of_the_store(folder: Path, last: AttemptRecord, *, saved: bool) -> Iterator[str]:
    """Files of killed writers: the first save of each attempt clears away what those before it left."""
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if saved and path.stat().st_mtime < last.created.timestamp():
                yield f"{path}"
