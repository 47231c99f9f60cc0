"""A checkpoint as plain safetensors files for other programs: tensors by their Keras path, one shard in memory at a time.

Where replicas hold different values (checkpoints keep one copy for each) the mean is written, unless all are asked for. A JSON
file beside the tensors says what the commit says. Nothing that exists is overwritten unless that is asked for.
"""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import Buffer

from trainer.checkpoint.restore import read_shard
from trainer.checkpoint.shards import by_item_size, header_of
from trainer.errors import ConfigError, DamagedCheckpoint
from trainer.rundir.attempts import CommitRef
from trainer.rundir.commits import Commit, StoredTensor, read_commit
from trainer.rundir.store import Store

PATIENCE_S = 60.0
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Target:
    """One tensor of the export."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    keys: tuple[str, ...]
    """The tensors of the checkpoint that it is made of: one, or the copies of all replicas, whose mean it is."""
    file: int
    """Which file it goes into, from 0: the place of the last shard that it needs."""


@dataclass(frozen=True)
class ExportedFiles:
    """What was written."""

    ref: CommitRef
    files: list[str]
    tensors: int
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """`orch checkpoints export -o json`."""
        return {
            "name": self.ref.name,
            "files": self.files,
            "tensors": self.tensors,
            "size_bytes": self.size_bytes,
        }


def plan(commit: Commit, *, replicas: bool, single: bool) -> list[Target]:
    """What to write, and where. Pure. `replicas`: all copies instead of their mean. `single`: into one file."""
    groups: dict[str, list[StoredTensor]] = {}
    for tensor in commit.tensors:
        key = tensor.key if replicas else tensor.key.partition("@")[0]
        groups.setdefault(key, []).append(tensor)
    names = _names({key: tensors[0].path for key, tensors in groups.items()})
    return [
        Target(
            name=names[key],
            dtype=tensors[0].dtype,
            shape=tuple(tensors[0].shape),
            keys=tuple(tensor.key for tensor in sorted(tensors, key=_replica)),
            file=0 if single else max(tensor.shard for tensor in tensors),
        )
        for key, tensors in groups.items()
    ]


def export(
    store: Store,
    ref: CommitRef,
    to: Path,
    *,
    replicas: bool,
    force: bool,
    progress: Callable[[int, int], None],
) -> ExportedFiles:
    """Write the checkpoint `ref` to one file, where `to` ends with .safetensors, else into the folder `to`.

    Raises:
        ConfigError: something is in the way, or the disk refuses.
        DamagedCheckpoint: the commit or a shard does not verify; nothing is left behind.
        StoreError: the store gave no answer.
    """
    commit = read_commit(store, ref)
    single = to.suffix == SUFFIX
    targets = plan(commit, replicas=replicas, single=single)
    count = 1 if single else len(commit.shards)
    paths = [to] if single else [to / f"tensors-{index + 1}-of-{count}{SUFFIX}" for index in range(count)]
    description = to.with_suffix(".json") if single else to / "checkpoint.json"
    with _errors(to):
        _check_free([*paths, description], force=force)
        (to.parent if single else to).mkdir(parents=True, exist_ok=True)
        files: list[_File] = []
        try:
            for index, path in enumerate(paths):
                files.append(_File(path, [target for target in targets if target.file == index], commit))
            _fill(store, commit, targets, files, progress)
            for file in files:
                file.finish()
        finally:
            for file in files:
                file.close()
        description.write_text(json.dumps(_describe(commit, targets, paths), indent=2) + "\n", encoding="utf-8")
    return ExportedFiles(
        ref, [str(path) for path in [*paths, description]], len(targets), sum(file.size for file in files)
    )


def _fill(
    store: Store,
    commit: Commit,
    targets: Sequence[Target],
    files: "Sequence[_File]",
    progress: Callable[[int, int], None],
) -> None:
    sums: dict[str, _Mean] = {target.name: _Mean(target) for target in targets if len(target.keys) > 1}
    by_key = {key: target for target in targets for key in target.keys}
    done = 0
    for shard in commit.shards:
        # In a call of its own: what it read is let go before the next shard is.
        _fill_from(read_shard(store, commit, shard, patience_s=PATIENCE_S), by_key, sums, files)
        done += shard.size_bytes
        progress(done, commit.size_bytes)


def _fill_from(
    arrays: dict[str, np.ndarray], by_key: dict[str, Target], sums: "dict[str, _Mean]", files: "Sequence[_File]"
) -> None:
    for key, array in arrays.items():
        target = by_key.get(key)
        if target is None:
            continue
        if target.name not in sums:
            files[target.file].write(target.name, array)
        elif (mean := sums[target.name].add(key, array)) is not None:
            files[target.file].write(target.name, mean)


class _Mean:
    """The mean of the copies of all replicas, of integers replica 0's, as a resumed job with another number of them takes it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._left = len(target.keys)
        self._total: np.ndarray | None = None

    def add(self, key: str, array: np.ndarray) -> np.ndarray | None:
        """One more copy; the result with the last one."""
        self._left -= 1
        if array.dtype.kind in "iub":
            if key == self._target.keys[0]:
                self._total = np.array(array)
        else:
            wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
            self._total = wide if self._total is None else self._total + wide
        if self._left:
            return None
        total, self._total = self._total, None
        assert total is not None
        return total if array.dtype.kind in "iub" else np.asarray(total / len(self._target.keys)).astype(array.dtype)


class _File:
    """One safetensors file: first under another name, so that half an export is never taken for a whole one."""

    def __init__(self, path: Path, targets: Sequence[Target], commit: Commit) -> None:
        self._path = path
        self._part: Path | None = path.with_name(path.name + ".part")
        ordered = sorted(targets, key=lambda target: by_item_size(target.dtype))
        metadata = {"format": "tf", "step": str(commit.step), "checkpoint": commit.ref.name}
        header, begins = header_of([(item.name, item.dtype, item.shape) for item in ordered], metadata)
        self._begins = {target.name: begin for target, begin in zip(ordered, begins, strict=True)}
        self._descriptor = os.open(self._part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        self._missing = {target.name: target for target in targets}
        self._commit = commit.ref.name
        self.size = 0
        self._write(header, 0)

    def write(self, name: str, array: np.ndarray) -> None:
        """The bytes of one tensor.

        Raises:
            DamagedCheckpoint: it is not what the commit says.
        """
        target = self._missing.pop(name)
        if (array.dtype.name, array.shape) != (target.dtype, target.shape):
            raise DamagedCheckpoint(
                self._commit,
                f"{name} is {array.dtype.name} {list(array.shape)} in a shard, and in the commit {self._commit} "
                f"{target.dtype} {list(target.shape)}",
            )
        if array.nbytes:
            self._write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, self._begins[name])

    def _write(self, data: Buffer, at: int) -> None:
        left = memoryview(data)
        while left:
            written = os.pwrite(self._descriptor, left, at)
            left, at, self.size = left[written:], at + written, self.size + written

    def finish(self) -> None:
        """All is written: give it its name.

        Raises:
            DamagedCheckpoint: something is not.
        """
        if self._missing:
            raise DamagedCheckpoint(
                self._commit, f"the shards of {self._commit} lack {', '.join(list(self._missing)[:5])}"
            )
        assert self._part is not None
        os.replace(self._part, self._path)
        self._part = None

    def close(self) -> None:
        """Leave nothing half done behind."""
        os.close(self._descriptor)
        if self._part is not None:
            self._part.unlink(missing_ok=True)


def _describe(commit: Commit, targets: Sequence[Target], paths: Sequence[Path]) -> dict[str, Any]:
    about = commit.model_dump(mode="json", exclude={"shards", "tensors", "nonce", "format"})
    files = {
        target.name: {"file": paths[target.file].name, "keys": list(target.keys), "mean": len(target.keys) > 1}
        for target in targets
    }
    return {"checkpoint": commit.ref.name, **about, "tensors": files}


def _names(paths: dict[str, str]) -> dict[str, str]:
    """A name for each key: its path where no other has the same, else the key. Copies of one replica carry its number."""
    named = {key: path + (f"@{key.partition('@')[2]}" if "@" in key else "") for key, path in paths.items()}
    often = Counter(named.values())
    return {key: name if often[name] == 1 and name not in paths else key for key, name in named.items()}


def _replica(tensor: StoredTensor) -> int:
    return int(tensor.key.partition("@replica/")[2] or 0)


def _check_free(paths: Sequence[Path], *, force: bool) -> None:
    taken = [str(path) for path in paths if path.exists()]
    if taken and not force:
        raise ConfigError(f"{taken[0]} exists already", remedy="Choose another --to, or add --force to overwrite it.")


@contextlib.contextmanager
def _errors(to: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename or to}: {error.strerror or error}", remedy="Choose another --to."
        ) from error
