"""The checkpoints of a run directory as its owner sees them: which there are, which count, whether their bytes are whole.

Judging is pure (`judge`); reading goes through the store. What a restart takes is asked of trainer/rundir/lineage.py, as the
coordinator asks. Writing tensors elsewhere is in export.py.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orchestrator.runs.view import no_run
from trainer.checkpoint.restore import verify
from trainer.errors import ConfigError, DamagedCheckpoint, ObjectNotFound
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, read_records
from trainer.rundir.commits import DATA_PREFIX, Commit, Shard, list_commits, read_commit
from trainer.rundir.lineage import NoGoodCommit, first_attempt, line, restore_point
from trainer.rundir.open import open_store
from trainer.rundir.store import Entry, Store

PATIENCE_S = 60.0
"""How long a store that does not answer is asked again."""
_CALL_S = 30.0

Records = Sequence[AttemptRecord | EndRecord]


class State(StrEnum):
    """What a checkpoint is to the job."""

    ON_LINE = "on the line"
    STALE = "stale"
    BAD = "listed as bad"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Checkpoint:
    """One commit, and what is to be said of it."""

    ref: CommitRef
    state: State
    why: str
    """Why it does not count, where it does not."""
    commit: Commit | None
    """None where its text cannot be read."""

    def to_json(self) -> dict[str, Any]:
        """An entry of `orch checkpoints list -o json`."""
        commit = self.commit
        return {
            "name": self.ref.name,
            "step": self.ref.step,
            "attempt": self.ref.attempt,
            "created": commit.created.isoformat() if commit else None,
            "size_bytes": commit.size_bytes if commit else None,
            "shards": len(commit.shards) if commit else None,
            "state": self.state.value,
            "why": self.why,
        }


@dataclass(frozen=True)
class RestartPoint:
    """What a restart would begin with."""

    ref: CommitRef | None
    """None: it starts from nothing, or not at all."""
    text: str
    possible: bool = True
    """Whether it would begin at all."""

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {"from": self.ref.name if self.ref else None, "text": self.text}


@dataclass(frozen=True)
class Overview:
    """All checkpoints of a run directory, newest attempt first, and within it the highest step first."""

    directory: str
    checkpoints: list[Checkpoint]
    restart: RestartPoint

    def to_json(self) -> dict[str, Any]:
        """`orch checkpoints list -o json`."""
        return {
            "run_directory": self.directory,
            "restart": self.restart.to_json(),
            "checkpoints": [checkpoint.to_json() for checkpoint in self.checkpoints],
        }


@dataclass(frozen=True)
class Verdict:
    """What verifying one checkpoint found."""

    ref: CommitRef
    damage: str
    """Empty where it is whole."""
    size_bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """An entry of `orch checkpoints verify -o json`."""
        return {
            "name": self.ref.name,
            "whole": not self.damage,
            "damage": self.damage,
            "size_bytes": self.size_bytes,
            "seconds": round(self.seconds, 3),
        }


class Run:
    """A run directory with its records, read once."""

    def __init__(self, directory: str) -> None:
        """Read the records and list the commits.

        Raises:
            ConfigError: there is no run in it. StoreError: it cannot be read.
        """
        self.store: Store = open_store(directory, timeout_s=_CALL_S)
        self.records: Records = read_records(self.store)
        if not self.records:
            raise no_run(directory)
        self.refs = list_commits(self.store)

    def overview(self) -> Overview:
        """What there is, by the commits and the listing of the data. Shards are not read: verify does that.

        Raises:
            StoreError: the store did not answer.
        """
        listed = {entry.name: entry for entry in self.store.list(DATA_PREFIX)}
        commits: dict[CommitRef, Commit | str] = {}
        for ref in self.refs:
            try:
                commits[ref] = read_commit(self.store, ref)
            except ObjectNotFound:
                continue  # retention was quicker
            except (DamagedCheckpoint, ConfigError) as error:
                commits[ref] = error.message
        return Overview(self.store.url, *judge(self.records, commits, listed))

    def line(self) -> list[CommitRef]:
        """The commits that count, newest first."""
        return line(self.records, self.refs)

    def restart(self, damaged: Iterable[CommitRef] = ()) -> RestartPoint:
        """What a restart would take, knowing that some are damaged."""
        return _restart(self.records, self.refs, damaged)

    def find(self, wanted: str) -> CommitRef:
        """The commit that a step or a name means: 200, step-200.attempt-1. A step means the commit of the line, if it has one.

        Raises:
            ConfigError: there is none, or several of that step and none on the line.
        """
        found = [ref for ref in self.refs if wanted in (str(ref.step), ref.name)]
        found = [ref for ref in found if ref in self.line()] or found
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(
                f"step {wanted} was saved by several attempts, and none of them counts",
                remedy=f"Give a name: {', '.join(ref.name for ref in found)}.",
            )
        some = ", ".join(ref.name for ref in sorted(self.refs, key=_age)[:6]) or "none"
        raise ConfigError(
            f"there is no checkpoint {wanted} in {self.store.url}",
            remedy=f"There are: {some}. Give a step or a name; `orch checkpoints list` shows all.",
        )

    def verify(self, ref: CommitRef, progress: Callable[[int, int], None]) -> Verdict:
        """Read every shard of a commit, twice where the first time is not right.

        `progress` gets the bytes that were read and all there are.

        Raises:
            StoreError: the store gave no answer: that is no damage.
        """
        began, done = time.monotonic(), 0

        def on_shard(commit: Commit, shard: Shard) -> None:
            nonlocal done
            done += shard.size_bytes
            progress(done, commit.size_bytes)

        damage = ""
        try:
            verify(self.store, ref, patience_s=PATIENCE_S, on_shard=on_shard)
        except (DamagedCheckpoint, ConfigError) as error:
            damage = error.message
        return Verdict(ref, damage, done, time.monotonic() - began)


def judge(
    records: Records, commits: Mapping[CommitRef, Commit | str], listed: Mapping[str, Entry]
) -> tuple[list[Checkpoint], RestartPoint]:
    """Every commit with what it is to the job, newest first, and what a restart would take. Pure.

    `commits` holds what could not be read as the reason; `listed` is the data there is, by name.
    """
    on_line = set(line(records, commits))
    bad_since = {name: record.number for record in reversed(records) for name in record.bad}
    checkpoints, damaged = [], []
    for ref in sorted(commits, key=_age):
        found = commits[ref]
        commit = found if isinstance(found, Commit) else None
        damage = _missing(commit, listed) if commit else str(found)
        if ref.name in bad_since:
            state, why = State.BAD, f"since attempt {bad_since[ref.name]}: its bytes did not verify"
        elif ref not in on_line:
            state, why = State.STALE, _why_stale(records, ref)
        elif damage:
            state, why = State.DAMAGED, damage
            damaged.append(ref)
        else:
            state, why = State.ON_LINE, ""
        checkpoints.append(Checkpoint(ref, state, why, commit))
    return checkpoints, _restart(records, commits, damaged)


def _restart(records: Records, refs: Iterable[CommitRef], damaged: Iterable[CommitRef]) -> RestartPoint:
    found = restore_point(records, refs, bad=[ref.name for ref in damaged])
    if isinstance(found, NoGoodCommit):
        return RestartPoint(None, f"a restart would end with 78: {found.reason}", possible=False)
    if found is None:
        return RestartPoint(None, "a restart would start from nothing: no checkpoint counts yet")
    return RestartPoint(found, f"a restart would go on from {found.name}")


def _why_stale(records: Records, ref: CommitRef) -> str:
    attempts = {record.number: record for record in records if isinstance(record, AttemptRecord)}
    if ref.attempt not in attempts:
        return f"there is no record of attempt {ref.attempt}"
    first = first_attempt(records)
    if ref.attempt < first:
        return f"from before attempt {first}, which started from nothing"
    for number in sorted(number for number in attempts if number > ref.attempt):
        source = attempts[number].restore
        if source is None:
            return f"attempt {number} started from nothing"
        if (source.attempt, source.step) < (ref.attempt, ref.step):
            return f"attempt {number} went on from {source.name}"
    return "no attempt went on from it"


def _missing(commit: Commit, listed: Mapping[str, Entry]) -> str:
    """What a listing alone shows to be wrong with the data of a commit. Generations are not compared: a copy has others."""
    for shard in commit.shards:
        entry = listed.get(shard.name)
        if entry is None:
            return f"{shard.name} is missing"
        if entry.size_bytes != shard.size_bytes:
            return f"{shard.name} has {entry.size_bytes} bytes instead of {shard.size_bytes}"
        if entry.crc32c is not None and entry.crc32c != shard.crc32c:
            return f"{shard.name} does not match its checksum"
    return ""


def _age(ref: CommitRef) -> tuple[int, int]:
    return (-ref.attempt, -ref.step)
