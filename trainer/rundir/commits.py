"""Commits: the small objects RUN/checkpoints/commits/step-S.attempt-K.json whose existence makes checkpoints real.

The model of a commit, its bytes (JSON whose last field is the crc32c of its own text), and reading and writing through
a store. Which commits count is decided in lineage.py; the data they name is written and read in trainer/checkpoint.
"""

import json
import re
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from trainer.errors import ConfigError, DamagedCheckpoint, ObjectExists, ObjectNotFound
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, Wire, read_records
from trainer.rundir.checksum import crc32c
from trainer.rundir.lineage import line
from trainer.rundir.store import Store

PREFIX = "checkpoints/commits/"
DATA_PREFIX = "checkpoints/data/"

_NAME = re.compile(r"step-(0|[1-9]\d*)\.attempt-([1-9]\d*)\.json")
_DATA = re.compile(r"attempt-([1-9]\d*)/step-(0|[1-9]\d*)/.+")
_SEAL = re.compile(rb',"crc32c":"([A-Za-z0-9+/]{6}==)"}\s*\Z')


class Shard(Wire):
    """One object of a checkpoint's data: a safetensors file, never overwritten."""

    name: str
    generation: int
    size_bytes: int
    crc32c: str


class StoredTensor(Wire):
    """One tensor of a checkpoint: what it is, and which shard holds it."""

    key: str
    """Position, not path, and its name within the shard: model/3, optimizer/0, task/1, model/7@replica/0."""
    path: str
    """The variable's path, for people and for comparison with the model."""
    dtype: str
    shape: list[int]
    shard: int
    """Index into the commit's shards, from 0."""


class Commit(Wire):
    """A checkpoint: where its data lies, and what a resumed job must know beside the tensors."""

    format: Literal[1] = 1
    step: int
    attempt: int
    nonce: str
    """By which its writer knows it again."""
    created: datetime
    epoch: int
    examples_seen: int
    """Position in the endless row of examples: step * global batch size."""
    seed: int
    global_batch_size: int
    world_size: int
    replicas: int
    versions: dict[str, str] = {}
    host_state: dict[str, Any] = {}
    shards: list[Shard]
    tensors: list[StoredTensor]

    @property
    def ref(self) -> CommitRef:
        """Its name, as records give it."""
        return CommitRef(step=self.step, attempt=self.attempt)

    @property
    def needs(self) -> list[CommitRef]:
        """Other commits without which this one cannot be gone on from: of a script, those of its earlier calls of fit."""
        ends = (self.host_state.get("fit") or {}).get("ends") or {}
        return [CommitRef(step=step, attempt=attempt) for step, attempt in ends.values()]

    @property
    def size_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size_bytes for shard in self.shards)


def commit_name(ref: CommitRef) -> str:
    """The object name of a commit: checkpoints/commits/step-200.attempt-1.json."""
    return f"{PREFIX}{ref.name}.json"


def parse_commit_name(name: str) -> CommitRef | None:
    """The commit that an object name stands for, or None for any other object."""
    match = _NAME.fullmatch(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    return CommitRef(step=int(match[1]), attempt=int(match[2])) if match else None


def data_folder(ref: CommitRef) -> str:
    """The prefix of a commit's data: checkpoints/data/attempt-1/step-200/."""
    return f"{DATA_PREFIX}attempt-{ref.attempt}/step-{ref.step}/"


def shard_name(ref: CommitRef, index: int, count: int) -> str:
    """The object name of shard `index` (from 0) of `count`. Names count from 1."""
    return f"{data_folder(ref)}shard-{index + 1}-of-{count}.safetensors"


def parse_data_name(name: str) -> CommitRef | None:
    """The commit that a data object was written for, or None for any other object."""
    match = _DATA.fullmatch(name.removeprefix(DATA_PREFIX)) if name.startswith(DATA_PREFIX) else None
    return CommitRef(step=int(match[2]), attempt=int(match[1])) if match else None


def serialise(commit: Commit) -> bytes:
    """The commit as JSON; its last field, crc32c, is the checksum of the text without that field."""
    text = commit.to_json()
    return text[:-1] + b',"crc32c":"' + crc32c([text]).encode() + b'"}'


def parse(data: bytes, ref: CommitRef) -> Commit:
    """The commit `ref` from its bytes.

    Raises:
        DamagedCheckpoint: the text is cut or changed, or is another commit's.
        ConfigError: it is whole, and of a format that this version does not know.
    """
    seal = _SEAL.search(data)
    text = data[: seal.start()] + b"}" if seal else b""
    if seal is None or crc32c([text]) != seal[1].decode():
        raise DamagedCheckpoint(ref.name, f"the commit {ref.name} is damaged: its text does not match its checksum")
    try:
        commit = Commit.model_validate(json.loads(text))
    except (ValidationError, ValueError) as error:
        raise ConfigError(
            f"the commit {ref.name} is whole, but this version cannot read it: {error}",
            remedy="Resume with the version that wrote it, or with a newer one.",
        ) from None
    if commit.ref != ref:
        raise DamagedCheckpoint(ref.name, f"the commit {ref.name} holds the text of {commit.ref.name}")
    return commit


def list_commits(store: Store) -> list[CommitRef]:
    """All commits that exist, by step and then by attempt, as numbers.

    Raises:
        StoreError: the store did not answer.
    """
    refs = (parse_commit_name(entry.name) for entry in store.list(PREFIX))
    return sorted((ref for ref in refs if ref is not None), key=lambda ref: (ref.step, ref.attempt))


def read_line(store: Store) -> tuple[list[AttemptRecord | EndRecord], list[CommitRef]]:
    """All records, and the commits of their line, newest first.

    Raises:
        StoreError: the store did not answer.
    """
    records = read_records(store)
    return records, line(records, list_commits(store))


def read_commit(store: Store, ref: CommitRef) -> Commit:
    """The commit `ref`, verified.

    Raises:
        DamagedCheckpoint: its text does not verify, also when read again.
        ObjectNotFound: there is no such commit.
        StoreError: the store did not answer.
    """
    try:
        return parse(store.get(commit_name(ref)), ref)
    except DamagedCheckpoint:
        return parse(store.get(commit_name(ref)), ref)


def write_commit(store: Store, commit: Commit) -> Commit:
    """Create the commit, and return the one that is there now: ours, maybe of an earlier try whose acknowledgement was lost.

    Raises:
        ObjectExists: another writer's commit has that name.
        StoreError: the store did not answer; whether the commit exists is unknown, so call again with the same commit.
    """
    try:
        store.put_if_absent(commit_name(commit.ref), serialise(commit))
    except ObjectExists:
        try:
            found = read_commit(store, commit.ref)
        except (ObjectNotFound, DamagedCheckpoint):
            raise ObjectExists(f"the commit {commit.ref.name} exists and is not ours") from None
        if found.nonce != commit.nonce:
            raise ObjectExists(f"the commit {commit.ref.name} was made by another writer") from None
        return found
    return commit
