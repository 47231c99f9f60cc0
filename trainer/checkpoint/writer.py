"""The writer: `python -P -m trainer.checkpoint.writer`, a child of the chief's agent, one per attempt.

Uploads each snapshot from the memfd, makes it real by its commit, reads it back, and only then lets older ones go. A
process of its own, so that saving costs training neither its interpreter's lock nor its life. No TensorFlow.
"""

import faulthandler
import logging
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import BinaryIO

from trainer import faults
from trainer.checkpoint import retention, shards
from trainer.errors import (
    ConfigError,
    DamagedCheckpoint,
    ObjectExists,
    ObjectNotFound,
    OrchError,
    StoreDenied,
    StoreError,
    StoreUnavailable,
)
from trainer.lifeline import die_with_parent
from trainer.retry import Backoff
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, is_closed, now, read_record, record_name
from trainer.rundir.bucket import is_bucket
from trainer.rundir.checksum import crc32c
from trainer.rundir.commits import (
    DATA_PREFIX,
    Commit,
    Shard,
    StoredTensor,
    commit_name,
    data_folder,
    list_commits,
    read_commit,
    serialise,
    shard_name,
    write_commit,
)
from trainer.rundir.lineage import line
from trainer.rundir.local_store import LocalStore
from trainer.rundir.open import open_store
from trainer.rundir.store import Entry, Store
from trainer.wire.lines import encode
from trainer.wire.writer import LastSave, Retained, Saved, SaveFailed, SaveTrouble, Snapshot, WriterStart, to_writer

log = logging.getLogger("writer")

_CALL_TIMEOUT_S = 30.0
_NICENESS = 5


class AttemptClosed(Exception):
    """This writer's attempt was closed: another worker 0 took over."""


class Writer:
    """Saves snapshots of one attempt, one at a time."""

    def __init__(self, start: WriterStart, send: Callable[[Saved | SaveFailed | Retained | SaveTrouble], None]) -> None:
        self._start = start
        self._opened: Store | None = None
        self._send = send
        self._memory: memoryview | None = None
        self._superseded = False
        self._saving: int | None = None
        self._saved: dict[CommitRef, Saved] = {}
        self._records: dict[int, AttemptRecord | EndRecord] = {}
        self._commits: dict[CommitRef, Commit] = {}

    def save(self, snapshot: Snapshot) -> bool:
        """Commit `snapshot`, answering Saved or SaveFailed. Whether a new commit exists."""
        ref = CommitRef(step=snapshot.step, attempt=self._start.attempt)
        if (saved := self._saved.get(ref)) is not None:
            self._send(saved)  # the same step again (a stop right after an interval save): the commit stands
            return False
        began = time.monotonic()
        start = self._start
        deadline = began + (start.save_timeout_s if snapshot.why == "interval" else start.last_save_timeout_s)
        backoff = Backoff()
        attempt = _Save(ref, snapshot)
        self._saving = snapshot.step
        while True:
            try:
                commit = self._try(attempt)
                break
            except (StoreUnavailable, StoreDenied) as error:
                if time.monotonic() + backoff.pause_s > deadline:
                    tried = f"{error.message} (tried for {time.monotonic() - began:.0f} s)"
                    return self._fail(snapshot, _one_line(tried, error.remedy))
                self._troubled(_one_line(error.message, error.remedy))
            except AttemptClosed as error:
                self._superseded = True
                return self._fail(snapshot, str(error), superseded=True)
            except OrchError as error:
                return self._fail(snapshot, _one_line(error.message, error.remedy))
            except Exception as error:
                log.exception("save of step %d failed", snapshot.step)
                return self._fail(snapshot, f"{type(error).__name__}: {error}")
            time.sleep(min(backoff.next_s(), max(0.0, deadline - time.monotonic())))
        self._saving = None
        self._commits[ref] = commit
        self._saved[ref] = Saved(commit=ref, size_bytes=commit.size_bytes, seconds=time.monotonic() - began)
        self._send(self._saved[ref])
        return True

    def retain(self) -> None:
        """Delete what is outdated, answering Retained where commits went. Trouble is logged: the next save goes on."""
        try:
            deleted = self._retain()
        except AttemptClosed as error:
            self._superseded = True
            log.warning("nothing is deleted: %s", error)
        except StoreError as error:
            log.warning("retention: %s", error.message)
        else:
            if deleted:
                self._send(Retained(deleted=[ref.name for ref in deleted]))

    @property
    def _store(self) -> Store:
        # Opened by the first save and not before: what is in its way (credentials) is then reported and tried again.
        if self._opened is None:
            self._opened = open_store(self._start.run_directory, timeout_s=_CALL_TIMEOUT_S, on_trouble=self._troubled)
            if isinstance(self._opened, LocalStore):
                self._opened.clear_temporary()
        return self._opened

    def _try(self, save: "_Save") -> Commit:
        if self._superseded:
            raise AttemptClosed(f"attempt {self._start.attempt} is over")
        memory = self._map(save.snapshot.size_bytes)
        if not save.files:
            save.divide(memory, self._start.shard_size_bytes)
        for index in range(len(save.shards), len(save.files)):
            name = shard_name(save.ref, index, len(save.files))
            faults.reach("writer.before-shard")
            save.shards.append(self._put_shard(name, save.files[index]))
            faults.reach("writer.after-shard")
        commit = save.commit(self._start.nonce)
        self._check_not_closed()
        faults.reach("writer.before-commit")
        commit = write_commit(self._store, commit)
        faults.reach("writer.after-commit")
        # Only now does it count: whoever closed the attempt before may have listed the commits without this one. And what
        # retention does next is the same to whoever closes it later: this commit will be in that list.
        self._check_not_closed()
        faults.reach("writer.before-read-back")
        self._read_back(commit)
        return commit

    def _put_shard(self, name: str, file: shards.ShardFile) -> Shard:
        checksum = crc32c(file.parts)
        try:
            entry = self._store.put_if_absent(name, file.parts)
        except ObjectExists:
            # Ours, if its acknowledgement was lost or an earlier try of this step got so far: the bytes tell.
            listed = {found.name: found for found in self._store.list(name)}
            if name not in listed:
                raise StoreUnavailable(f"{name} exists and is not listed") from None
            entry = listed[name]
            found = entry.crc32c or crc32c([self._store.get(name, generation=entry.generation)])
            if entry.size_bytes != file.size_bytes or found != checksum:
                raise ObjectExists(f"{name} exists with other bytes, written by another process") from None
        return Shard(name=name, generation=entry.generation, size_bytes=file.size_bytes, crc32c=checksum)

    def _read_back(self, commit: Commit) -> None:
        """Only what is really there counts as saved."""
        try:
            found = self._store.get(commit_name(commit.ref))
        except ObjectNotFound:
            found = b""
        if found != serialise(commit):
            raise StoreUnavailable(f"the commit {commit.ref.name} does not read back as it was written")
        listed = {entry.name: entry for entry in self._store.list(data_folder(commit.ref))}
        if not retention.verifies(commit, listed):
            raise DamagedCheckpoint(
                commit.ref.name, f"the shards of {commit.ref.name} are not there as they were written"
            )

    def _retain(self) -> tuple[CommitRef, ...]:
        records = self._read_records()
        commits = list_commits(self._store)
        data = self._store.list(DATA_PREFIX)
        listed = {entry.name: entry for entry in data}
        verified: set[CommitRef] = set()
        for ref in line(records, commits):
            if len(verified) >= max(self._start.keep, retention.LEAST_KEPT):
                break
            if self._verifies(ref, listed):
                verified.add(ref)
        needed = {ref for kept in verified for ref in self._commits[kept].needs}
        plan = retention.decide(records, self._start.attempt, commits, data, verified, self._start.keep, needed)
        if plan.commits or plan.data:
            self._check_not_closed()
            retention.execute(self._store, plan)
        for ref in plan.commits:
            self._commits.pop(ref, None)
        return plan.commits

    def _verifies(self, ref: CommitRef, listed: dict[str, Entry]) -> bool:
        if ref not in self._commits:
            try:
                self._commits[ref] = read_commit(self._store, ref)
            except (ObjectNotFound, DamagedCheckpoint, ConfigError):
                return False
        return retention.verifies(self._commits[ref], listed)

    def _read_records(self) -> list[AttemptRecord | EndRecord]:
        """All records up to our own; each is read once, since none ever changes."""
        for number in range(1, self._start.attempt + 1):
            if number not in self._records and (record := read_record(self._store, number)) is not None:
                self._records[number] = record
        return list(self._records.values())

    def _check_not_closed(self) -> None:
        """Right before what counts.

        Raises:
            AttemptClosed: the attempt is over. StoreUnavailable: what we look at is not the run directory any more.
        """
        number = self._start.attempt
        if not is_bucket(self._store.url) and read_record(self._store, number) is None:
            # A volume that is not mounted any more shows an empty folder: nothing in it is closed.
            raise StoreUnavailable(f"{self._store.url} has lost {record_name(number)}: is it mounted?")
        if is_closed(self._store, number):
            raise AttemptClosed(f"attempt {number} is over: another worker 0 closed it")

    def _map(self, size_bytes: int) -> memoryview:
        if not size_bytes:
            return memoryview(b"")
        if self._memory is None or self._memory.nbytes < size_bytes:
            self._memory = memoryview(mmap.mmap(self._start.memory_fd, size_bytes, prot=mmap.PROT_READ))
        return self._memory

    def _troubled(self, error: str) -> None:
        """The store makes trouble, and is asked again: told at once, not only when the save has failed."""
        if self._saving is None:
            raise StoreUnavailable(error)  # retention can wait: the next save must not wait for it
        self._send(SaveTrouble(step=self._saving, error=error))

    def _fail(self, snapshot: Snapshot, error: str, *, superseded: bool = False) -> bool:
        self._saving = None
        log.error("step %d is not saved: %s", snapshot.step, error)
        self._send(SaveFailed(step=snapshot.step, error=error, superseded=superseded))
        return False


def _one_line(message: str, remedy: str) -> str:
    return f"{message}. {remedy}" if remedy else message


class _Save:
    """How far the save of one snapshot got: what is done is not done again by the next try."""

    def __init__(self, ref: CommitRef, snapshot: Snapshot) -> None:
        self.ref = ref
        self.snapshot = snapshot
        self.files: list[shards.ShardFile] = []
        self.shards: list[Shard] = []
        self._commit: Commit | None = None

    def divide(self, memory: memoryview, shard_size_bytes: int) -> None:
        """Lay out the files; nothing is copied."""
        metadata = {"step": str(self.ref.step), "attempt": str(self.ref.attempt)}
        groups = shards.divide(self.snapshot.tensors, shard_size_bytes)
        self.files = [shards.build(group, memory, metadata) for group in groups]

    def commit(self, nonce: str) -> Commit:
        """The commit; the same one for every try, so that a lost acknowledgement finds equal bytes."""
        if self._commit is None:
            snapshot = self.snapshot
            self._commit = Commit(
                step=self.ref.step,
                attempt=self.ref.attempt,
                nonce=nonce,
                created=now(),
                epoch=snapshot.epoch,
                examples_seen=snapshot.examples_seen,
                seed=snapshot.seed,
                global_batch_size=snapshot.global_batch_size,
                world_size=snapshot.world_size,
                replicas=snapshot.replicas,
                versions=snapshot.versions,
                host_state=snapshot.host_state,
                shards=self.shards,
                tensors=[
                    StoredTensor(key=item.key, path=item.path, dtype=item.dtype, shape=item.shape, shard=index)
                    for index, file in enumerate(self.files)
                    for item in file.tensors
                ],
            )
        return self._commit


def serve(lines: BinaryIO, send: Callable[[Saved | SaveFailed | Retained | SaveTrouble], None]) -> int:
    """Read messages until LastSave or the end of the channel; the exit code."""
    first = to_writer.validate_json(lines.readline())
    if not isinstance(first, WriterStart):
        raise ValueError(f"the first line must be writer_start, not {first.type}")
    if is_bucket(first.run_directory):
        import google.cloud.storage  # noqa: F401  (2 s on a busy machine: better now than in the first save)
    writer = Writer(first, send)
    for text in lines:
        message = to_writer.validate_json(text)
        if isinstance(message, LastSave):
            break
        if isinstance(message, Snapshot) and writer.save(message):
            writer.retain()
    return 0


def main() -> int:
    """The process: its channel is the socket ORCH_CHANNEL_FD."""
    die_with_parent()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's business
    os.nice(_NICENESS)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    channel = socket.socket(fileno=int(os.environ["ORCH_CHANNEL_FD"]))
    with channel, channel.makefile("rb") as lines:
        return serve(lines, lambda message: channel.sendall(encode(message)))


if __name__ == "__main__":
    sys.exit(main())
