"""What Linux tells a container about memory: whether it killed a process for want of it."""

from pathlib import Path

_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))
"""Of the container's own cgroup: version 2, version 1."""


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
