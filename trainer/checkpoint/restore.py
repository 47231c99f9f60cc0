"""A commit read back: every shard verified, by size and crc32c, before anything is believed. Free of TensorFlow.

Bytes that are wrong twice, or are not there, are damage: another commit may do. A store that does not answer is no
damage: it is asked again for minutes.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from trainer.checkpoint import shards
from trainer.errors import DamagedCheckpoint, ObjectNotFound, StoreDenied, StoreUnavailable
from trainer.rundir.attempts import CommitRef
from trainer.rundir.checksum import crc32c
from trainer.rundir.commits import Commit, Shard, read_commit
from trainer.rundir.store import Store

log = logging.getLogger(__name__)

PATIENCE_S = 600.0
_LONGEST_PAUSE_S = 30.0
_T = TypeVar("_T")


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
    commit = _commit(store, ref, deadline)
    arrays: dict[str, np.ndarray] = {}
    for shard in commit.shards:
        arrays |= _parsed(ref, shard, _verified(store, ref, shard, deadline))
    missing = [tensor.key for tensor in commit.tensors if tensor.key not in arrays]
    if missing:
        raise DamagedCheckpoint(ref.name, f"the shards of {ref.name} lack {', '.join(missing[:5])}")
    return Restored(commit, arrays)


def verify(
    store: Store,
    ref: CommitRef,
    *,
    patience_s: float = PATIENCE_S,
    on_shard: Callable[[Commit, Shard], None] = lambda commit, shard: None,
) -> Commit:
    """As load, one shard in memory at a time, and nothing kept of it. `on_shard` is told of each that is good."""
    deadline = time.monotonic() + patience_s
    commit = _commit(store, ref, deadline)
    for shard in commit.shards:
        _verified(store, ref, shard, deadline)
        on_shard(commit, shard)
    return commit


def read_shard(store: Store, commit: Commit, shard: Shard, *, patience_s: float = PATIENCE_S) -> dict[str, np.ndarray]:
    """The tensors of one shard, verified: views of the bytes that were read. Raises as load."""
    return _parsed(commit.ref, shard, _verified(store, commit.ref, shard, time.monotonic() + patience_s))


def _commit(store: Store, ref: CommitRef, deadline: float) -> Commit:
    try:
        return _patiently(lambda: read_commit(store, ref), deadline)
    except ObjectNotFound:
        raise DamagedCheckpoint(ref.name, f"the commit {ref.name} does not exist in {store.url}") from None


def _parsed(ref: CommitRef, shard: Shard, data: bytes) -> dict[str, np.ndarray]:
    try:
        return shards.parse(data)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(ref.name, f"{shard.name} of {ref.name} cannot be read: {error}") from None


def _verified(store: Store, ref: CommitRef, shard: Shard, deadline: float) -> bytes:
    what = ""
    # The second read asks for whatever generation is there: in a run directory that was copied to another place, the
    # generations are new and the bytes are the same, which is what counts.
    for generation in (shard.generation, None):
        try:
            data = _patiently(partial(store.get, shard.name, generation=generation), deadline)
        except ObjectNotFound:
            what = what or "is missing"
            continue
        if len(data) != shard.size_bytes:
            what = f"has {len(data)} bytes instead of {shard.size_bytes}"
        elif crc32c([data]) != shard.crc32c:
            what = "does not match its checksum"
        else:
            return data
    raise DamagedCheckpoint(ref.name, f"the checkpoint {ref.name} is damaged: {shard.name} {what}")


def _patiently(action: Callable[[], _T], deadline: float) -> _T:
    """Try again while the store does not answer, or refuses (the rights of a new pod may need a minute)."""
    pause_s = 0.5
    while True:
        try:
            return action()
        except (StoreUnavailable, StoreDenied) as error:
            if time.monotonic() + pause_s > deadline:
                raise
            log.warning("restore waits for the store: %s", error.message)
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
