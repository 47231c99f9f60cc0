"""A commit read back: every shard verified, by size and crc32c, before anything is believed. Free of TensorFlow.

Bytes that are wrong twice, or are not there, are damage, if the store's listing says so too: another commit may do. A store
that does not answer, or not with the whole object, is no damage: it is asked again for minutes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from trainer.checkpoint import shards
from trainer.errors import DamagedCheckpoint, ObjectNotFound, StoreUnavailable
from trainer.rundir.attempts import PREFIX as RECORDS
from trainer.rundir.attempts import CommitRef
from trainer.rundir.checksum import crc32c
from trainer.rundir.commits import Commit, Shard, commit_name, parse, read_commit
from trainer.rundir.patience import patiently
from trainer.rundir.store import Store

PATIENCE_S = 600.0


@dataclass(frozen=True)
class Restored:
    """A verified checkpoint in memory."""

    commit: Commit
    arrays: dict[str, np.ndarray]
    """By key (model/3, optimizer/0, model/7@replica/1, ...), read-only."""


def load(store: Store, ref: CommitRef, *, patience_s: float = PATIENCE_S) -> Restored:
    """The checkpoint `ref`, verified.

    Raises:
        DamagedCheckpoint: the commit or a shard is missing, or its bytes are wrong twice.
        StoreUnavailable, StoreDenied: the store gave no answer for `patience_s`.
    """
    deadline = time.monotonic() + patience_s
    commit = patiently(lambda: _read_commit(store, ref), deadline, "restore")
    arrays: dict[str, np.ndarray] = {}
    for shard in commit.shards:
        arrays |= _parsed(ref, shard, patiently(partial(_read_shard, store, ref, shard), deadline, "restore"))
    missing = [tensor.key for tensor in commit.tensors if tensor.key not in arrays]
    if missing:
        raise DamagedCheckpoint(ref.name, f"the shards of {ref.name} lack {', '.join(missing[:5])}")
    return Restored(commit, arrays)


def commit_of(store: Store, ref: CommitRef, *, patience_s: float = PATIENCE_S) -> Commit:
    """The commit alone, nothing of its shards. Raises as load."""
    return patiently(lambda: _read_commit(store, ref), time.monotonic() + patience_s, "restore")


def verify(
    store: Store,
    ref: CommitRef,
    *,
    patience_s: float = PATIENCE_S,
    on_shard: Callable[[Commit, Shard], None] = lambda commit, shard: None,
) -> Commit:
    """As load, one shard in memory at a time, and nothing kept of it. `on_shard` is told of each that is good."""
    deadline = time.monotonic() + patience_s
    commit = patiently(lambda: _read_commit(store, ref), deadline, "restore")
    for shard in commit.shards:
        patiently(partial(_read_shard, store, ref, shard), deadline, "restore")
        on_shard(commit, shard)
    return commit


def read_shard(store: Store, commit: Commit, shard: Shard, *, patience_s: float = PATIENCE_S) -> dict[str, np.ndarray]:
    """The tensors of one shard, verified: views of the bytes that were read. Raises as load."""
    data = patiently(partial(_read_shard, store, commit.ref, shard), time.monotonic() + patience_s, "restore")
    return _parsed(commit.ref, shard, data)


def _parsed(ref: CommitRef, shard: Shard, data: bytes) -> dict[str, np.ndarray]:
    try:
        return shards.parse(data)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(ref.name, f"{shard.name} of {ref.name} cannot be read: {error}") from None


def _read_commit(store: Store, ref: CommitRef) -> Commit:
    name = commit_name(ref)
    try:
        return read_commit(store, ref)
    except ObjectNotFound:
        _check_answer(store, name, None)
        raise DamagedCheckpoint(ref.name, f"the commit {ref.name} does not exist in {store.url}") from None
    except DamagedCheckpoint:
        data = store.get(name)
        _check_answer(store, name, len(data))
        return parse(data, ref)


def _read_shard(store: Store, ref: CommitRef, shard: Shard) -> bytes:
    what, answered = "", None
    # The second read asks for whatever generation is there: in a run directory that was copied to another place, the
    # generations are new and the bytes are the same, which is what counts.
    for generation in (shard.generation, None):
        try:
            data = store.get(shard.name, generation=generation)
        except ObjectNotFound:
            what = what or "is missing"
            continue
        answered = len(data)
        if answered != shard.size_bytes:
            what = f"has {answered} bytes instead of {shard.size_bytes}"
        elif crc32c([data]) != shard.crc32c:
            what = "does not match its checksum"
        else:
            return data
    _check_answer(store, shard.name, answered)
    raise DamagedCheckpoint(ref.name, f"the checkpoint {ref.name} is damaged: {shard.name} {what}")


def _check_answer(store: Store, name: str, answered: int | None) -> None:
    """Before damage is believed: whether the store's listing stands by its answer, `answered` bytes or None for no object.

    Raises:
        StoreUnavailable: it does not, so the answer was cut short on its way; or the run directory is not what it was.
    """
    listed = {entry.name: entry.size_bytes for entry in store.list(name)}.get(name)
    if listed != answered:
        said, got = ("nothing" if size is None else f"{size} bytes" for size in (listed, answered))
        raise StoreUnavailable(f"{name} in {store.url}: the listing shows {said}, the answer was {got}")
    if listed is None and not store.list(RECORDS):
        # A checkpoint is named by a record. Where all are gone, a volume is not mounted, or objects are hidden.
        raise StoreUnavailable(f"{store.url} has no records of attempts: is it mounted, and whole?")
