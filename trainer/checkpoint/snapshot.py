"""The state of one step, copied into a memfd: the only time that training stands still for a save.

No TensorFlow here: arrays go in, a layout comes out. The memory is made and touched once, before the first save, since
fresh pages cost three times the copy.
"""

import contextlib
import math
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from trainer.checkpoint.shards import dtype_of
from trainer.errors import OrchError
from trainer.wire.writer import Tensor

ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class Item:
    """One variable's value, or one replica's, which is read only when its turn to be copied has come."""

    key: str
    """Position: model/3, optimizer/0, task/1, model/7@replica/0."""
    path: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def size_bytes(self) -> int:
        """Bytes of the value."""
        return math.prod(self.shape) * dtype_of(self.dtype).itemsize


@dataclass(frozen=True)
class NamedArray:
    """A value that is there already."""

    key: str
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

    def release(self) -> None:
        """Give all of it back to the system. Nobody may read it any more: for a reader its pages are gone."""
        self._bytes = None
        self._size = 0
        os.ftruncate(self._fd, 0)

    def copy(self, items: Sequence[Item], layout: Sequence[Tensor], size_bytes: int) -> None:
        """Copy `items` to where `plan` put them, in `size_bytes` in all.

        Raises:
            NotEnoughMemory: as reserve.
        """
        self.reserve(size_bytes)
        for tensor, item in zip(layout, items, strict=True):
            if tensor.size_bytes:
                assert self._bytes is not None
                # One at a time: what reading gives may be a copy, on a GPU or of a variable with sparse updates.
                source = np.ascontiguousarray(item.read()).reshape(-1).view(np.uint8)
                self._bytes[tensor.offset : tensor.offset + tensor.size_bytes] = source

    def write(self, arrays: Sequence[NamedArray]) -> tuple[list[Tensor], int]:
        """Copy values that are there already; their layout, and the bytes used in all. Raises as plan and copy."""
        items = [
            Item(named.key, named.path, named.array.dtype.name, named.array.shape, partial(np.asarray, named.array))
            for named in arrays
        ]
        layout, size_bytes = plan(items)
        self.copy(items, layout, size_bytes)
        return layout, size_bytes


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


def plan(items: Sequence[Item]) -> tuple[list[Tensor], int]:
    """Where `SnapshotMemory.copy` is to put `items`, each at a multiple of 64 bytes, and the bytes used in all.

    Raises:
        ConfigError: a dtype that a checkpoint cannot hold.
    """
    layout: list[Tensor] = []
    end = 0
    for item in items:
        offset = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        size_bytes = item.size_bytes
        layout.append(
            Tensor(
                key=item.key,
                path=item.path,
                dtype=item.dtype,
                shape=list(item.shape),
                offset=offset,
                size_bytes=size_bytes,
            )
        )
        end = offset + size_bytes
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
