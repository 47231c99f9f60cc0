"""How much memory a process takes, how much it may take, and whether Linux killed one for want of it. Linux only; elsewhere
nothing is known.
"""

from dataclasses import dataclass
from pathlib import Path

_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))
"""Of the container's own cgroup: version 2, version 1."""
_UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes a number of about 2^63 where there is no limit."""
FULL = 0.9
"""A process that is killed above this share of its limit was killed for its memory."""


@dataclass(frozen=True)
class MemoryUse:
    """What a process has in memory now, and had at most, shared pages included."""

    now_bytes: int
    peak_bytes: int


def of_process(pid: int) -> MemoryUse | None:
    """None where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if line.startswith(("VmHWM", "VmRSS")))
    if "VmRSS" not in fields:
        return None
    return MemoryUse(*(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")))


def free_bytes() -> int | None:
    """What this machine could still give to processes; None where that is not told."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def is_full(used_bytes: int, limit_bytes: int | None) -> bool:
    """Whether so much memory is reason enough to be killed for it."""
    return bool(limit_bytes) and used_bytes > FULL * (limit_bytes or 0)


def limit_of_cgroup(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The least memory limit of the groups this process is in, version 1 or 2; None where there is none."""
    limits = []
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = root if not controllers else root / "memory"
            name = "memory.max" if not controllers else "memory.limit_in_bytes"
            group = top / path.lstrip("/")
            limits += [_limit(folder / name) for folder in (group, *group.parents) if folder.is_relative_to(top)]
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) < _UNLIMITED_BYTES else None


def oom_kills(counters: tuple[Path, ...] = _COUNTERS) -> int | None:
    """How many processes of this container were killed for want of memory; None where that is not told."""
    for path in counters:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None


def in_words(size_bytes: int) -> str:
    """`1.4 GiB`, `300 MiB`."""
    gib = size_bytes / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{size_bytes / 2**20:.0f} MiB"
