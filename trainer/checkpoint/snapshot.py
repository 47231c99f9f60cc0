"""The state of one step, copied into a memfd: the only time that training stands still for a save.

No TensorFlow here: arrays go in, a layout comes out. The memory is made and touched once, before the first save, since
fresh pages cost three times the copy.
"""

import contextlib
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.agent.protocol import Tensor
from trainer.checkpoint.shards import dtype_of
from trainer.errors import OrchError

ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class NamedArray:
    """One variable's value, or one replica's."""

    key: str
    """Position: model/3, optimizer/0, task/1, model/7@replica/0."""
    path: str
    array: np.ndarray


class NotEnoughMemory(OrchError):
    """The staging copy of a save does not fit."""


class SnapshotMemory:
    """The memfd that a training process shares with the writer."""

    def __init__(self, fd: int) -> None:
        """`fd` is a memfd, or another file that can be mapped. It stays open, and is not closed here."""
        self._fd = fd
        self._size = 0
        self._bytes: np.ndarray | None = None

    def reserve(self, size_bytes: int) -> None:
        """Make room for `size_bytes`, with every page in place. Does nothing where there is room already.

        Raises:
            NotEnoughMemory: the machine, or the pod's limit, has no room for it.
        """
        if size_bytes <= self._size:
            return
        size = -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        # Asked before anything is allocated: a memfd has no limit of its own, so a request that does not fit would take
        # the whole machine's memory, and the kernel would kill others for it.
        free = available_bytes()
        if free is not None and size - self._size > free:
            raise _too_large(size, f"{free / 1e6:.0f} MB are free")
        try:
            # Allocated here and now: pages missing later would be a SIGBUS in the middle of a copy.
            os.ftruncate(self._fd, size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, 0, size)
            populate = getattr(mmap, "MAP_POPULATE", 0)
            mapped = mmap.mmap(self._fd, size, mmap.MAP_SHARED | populate, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            raise _too_large(size, error.strerror or str(error)) from error
        self._bytes = np.frombuffer(mapped, np.uint8)
        self._size = size

    def write(self, arrays: Sequence[NamedArray]) -> tuple[list[Tensor], int]:
        """Copy `arrays`, each at a multiple of 64 bytes; their layout, and the bytes used in all.

        Raises:
            ConfigError: a dtype that a checkpoint cannot hold.
            NotEnoughMemory: as reserve.
        """
        layout, size = plan(arrays)
        self.reserve(size)
        for tensor, named in zip(layout, arrays, strict=True):
            if tensor.size_bytes:
                assert self._bytes is not None
                source = np.ascontiguousarray(named.array).reshape(-1).view(np.uint8)
                self._bytes[tensor.offset : tensor.offset + tensor.size_bytes] = source
        return layout, size


def available_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that can be had now: the machine's, or what a container's limit (cgroup v2 or v1) leaves of it.

    None where the system does not tell. The container's page cache can be reclaimed, and so counts as free.
    """
    candidates: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
        candidates.append(int(line.split()[1]) * 1024)
    for limit, used in (
        (cgroup / "memory.max", cgroup / "memory.current"),
        (cgroup / "memory" / "memory.limit_in_bytes", cgroup / "memory" / "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: there is no limit
            candidates.append(int(limit.read_text()) - int(used.read_text()) + _cache_bytes(limit))
    return min(candidates, default=None)


def plan(arrays: Sequence[NamedArray]) -> tuple[list[Tensor], int]:
    """Where `SnapshotMemory.write` will put `arrays`, and the bytes it needs."""
    layout: list[Tensor] = []
    end = 0
    for named in arrays:
        offset = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        dtype_of(named.array.dtype.name)
        layout.append(
            Tensor(
                key=named.key,
                path=named.path,
                dtype=named.array.dtype.name,
                shape=list(named.array.shape),
                offset=offset,
                size_bytes=named.array.nbytes,
            )
        )
        end = offset + named.array.nbytes
    return layout, end


def _cache_bytes(limit: Path) -> int:
    """Reclaimable page cache of the control group whose limit lies in `limit`."""
    fields = dict(line.split() for line in (limit.parent / "memory.stat").read_text().splitlines())
    whole = "total_" if "total_inactive_file" in fields else ""  # cgroup v1: with its children
    return sum(int(fields.get(f"{whole}{name}", 0)) for name in ("inactive_file", "active_file"))


def _too_large(size_bytes: int, reason: str) -> NotEnoughMemory:
    return NotEnoughMemory(
        f"no room for the copy of {size_bytes / 1e6:.0f} MB that a save makes: {reason}",
        remedy="Raise resources.memory: a worker needs its state twice, one shard, and 0.6 GB for TensorFlow.",
    )
