"""The log of records, RUN/attempts/1.json, 2.json, ...: consecutive, each written once, each an attempt or an end.

The models of a record, and reading and appending through a store; beside them RUN/attempts/K.closed, after which attempt K
acknowledges and deletes nothing. What follows from the records (which commits are true,
how much budget is used) is decided in lineage.py and in the coordinator.
"""

import contextlib
import json
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from trainer.errors import ObjectExists, ObjectNotFound, StoreUnavailable
from trainer.exit_codes import ExitCode
from trainer.rundir.store import Store

PREFIX = "attempts/"


class Wire(BaseModel):
    """A value that travels between processes or lies in the run directory.

    Unknown keys are ignored: a newer version may add some.
    """

    # constants: a loss may be NaN and a best value infinite; as null they would not come back.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")

    def to_json(self) -> bytes:
        """The value as JSON in UTF-8. Halves of surrogate pairs, which file names and messages may hold and UTF-8 cannot, are
        written out: a message that cannot be sent would leave everybody waiting for it."""
        try:
            return self.model_dump_json().encode()
        except ValueError:  # pydantic's own error for it is one
            return json.dumps(_writable(self.model_dump(mode="python")), ensure_ascii=False, default=_as_text).encode()


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    return [_writable(item) for item in value] if isinstance(value, list | tuple) else value


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


class CommitRef(Wire):
    """Names one commit: RUN/checkpoints/commits/step-S.attempt-K.json."""

    step: int
    attempt: int

    @property
    def name(self) -> str:
        """`step-S.attempt-K`, numbers unpadded."""
        return f"step-{self.step}.attempt-{self.attempt}"


class Launch(Wire):
    """One start by a user: a submit, a resume, an `orch run`."""

    id: str
    started: datetime


class Member(Wire):
    """One worker of an attempt and where its training process listens in it."""

    index: int
    uid: str
    address: str
    port: int


class AttemptEnd(Wire):
    """Why an attempt ended, as its culprit told it."""

    attempt: int
    code: int
    reason: str
    """One line for a person, naming the worker."""
    exception: str = ""
    worker: int | None = None
    step: int = 0
    """The last step any worker reported in that attempt."""
    block_steps: int = 0
    """Steps of the culprit's last block: it ended within so many steps of the one it reported."""
    blocks: bool = False
    """Whether a block was finished in that attempt."""
    heard: bool = False
    """Whether any training process of it was left to tell its step."""
    memory_full: bool = False
    """Whether the culprit's last reported memory was above 90 % of its limit."""
    stacks: bool | None = None
    """Whether the culprit's log has the stacks of all threads at its end; None in records of versions that did not tell."""
    at: datetime | None = None

    @property
    def out_of_memory(self) -> bool:
        """Whether the culprit was killed for want of memory, by all that is known."""
        return self.code == ExitCode.KILLED and self.memory_full


class AttemptRecord(Wire):
    """One attempt: who is in it, and from which commit all of them start."""

    kind: Literal["attempt"] = "attempt"
    number: int
    nonce: str
    launch: Launch
    created: datetime
    members: list[Member]
    restore: CommitRef | None
    """The commit to restore; None starts from nothing."""
    fresh: bool = False
    """A fresh start: what lies before this record does not count and is left alone."""
    world_size: int
    command: bool = False
    """Whether a program of the user's own runs, of which orch saves nothing."""
    versions: dict[str, str] = {}
    cpu_flags: str = ""
    """A digest of the CPU's instruction sets on worker 0."""
    bad: list[str] = []
    """Names of commits found damaged, of this and of all earlier attempts."""
    budget_used: int = 0
    """Restarts of this launch that count against restarts.max."""
    restarts: int = 0
    """Restarts of this launch: attempts after its first."""
    previous: AttemptEnd | None = None
    """Why the last attempt ended; None where there was none."""


class EndRecord(Wire):
    """The end of the job. It and a new attempt race for one name, and only one of them exists."""

    kind: Literal["end"] = "end"
    number: int
    nonce: str
    launch: Launch
    created: datetime
    state: Literal["succeeded", "failed"]
    code: int
    reason: str
    step: int
    total_steps: int | None = None
    attempts: int = 0
    """The number of the last attempt."""
    restarts: int = 0
    command: bool = False
    """As of an AttemptRecord."""
    steps_asked: int | None = None
    """train.steps of the job that ended, if it gave steps."""
    epochs_asked: int | None = None
    commit: CommitRef | None = None
    metrics: dict[str, float] = {}
    weights_sha256: str | None = None
    export: str | None = None
    load: str = ""
    """One line of Python that gives the exported model."""
    bad: list[str] = []
    traceback: str = ""
    previous: AttemptEnd | None = None
    """Why the last attempt ended, as of an AttemptRecord."""

    @property
    def cause(self) -> AttemptEnd | None:
        """The end of an attempt for which the job was given up; None where it ended otherwise."""
        return self.previous if self.code == ExitCode.GIVEN_UP else None


class Closed(Wire):
    """RUN/attempts/K.closed. That it exists is what counts; its text is for people."""

    number: int
    by: str
    """UID of the coordinator that closed it first."""
    created: datetime


Record = Annotated[AttemptRecord | EndRecord, Field(discriminator="kind")]
_RECORD: TypeAdapter[AttemptRecord | EndRecord] = TypeAdapter(Record)


def new_nonce() -> str:
    """A fresh random mark by which a writer knows its own object again."""
    return secrets.token_hex(16)


def now() -> datetime:
    """The time of day, UTC. Only ever for people: no decision compares the clocks of two machines."""
    return datetime.now(UTC)


def parse_record(data: bytes) -> AttemptRecord | EndRecord:
    """A record from its JSON."""
    return _RECORD.validate_json(data)


def record_name(number: int) -> str:
    """The object name of a record: attempts/7.json."""
    return f"{PREFIX}{number}.json"


def read_record(store: Store, number: int) -> AttemptRecord | EndRecord | None:
    """Record `number`, or None when it does not exist (yet).

    Raises:
        StoreError: the store did not answer, or with something else than a record.
    """
    try:
        return _get_record(store, number)
    except ObjectNotFound:
        return None


def read_records(store: Store) -> list[AttemptRecord | EndRecord]:
    """All records, in order of number. A gap would mean that somebody deleted some: the rest is returned as it is."""
    numbers = sorted(
        int(entry.name[len(PREFIX) : -len(".json")])
        for entry in store.list(PREFIX)
        if entry.name.endswith(".json") and entry.name[len(PREFIX) : -len(".json")].isdecimal()
    )
    return [_get_record(store, number) for number in numbers]


def _get_record(store: Store, number: int) -> AttemptRecord | EndRecord:
    try:
        return parse_record(store.get(record_name(number)))
    except ValidationError as error:
        # Records are written whole: an answer that was cut short, or a record of a later version. Both may pass.
        what = error.errors()[0]["msg"]
        raise StoreUnavailable(f"{record_name(number)} in {store.url} cannot be read: {what}") from None


def append_record(store: Store, record: AttemptRecord | EndRecord) -> AttemptRecord | EndRecord:
    """Write `record` under its number, or return the record that holds that number already.

    The answer is `record` itself when we won, also when an earlier try of ours won and its acknowledgement was lost.

    Raises:
        StoreError: the store did not answer; whether the record was written is unknown, so call again with the same record.
    """
    try:
        store.put_if_absent(record_name(record.number), record.to_json())
    except ObjectExists:
        found = read_record(store, record.number)
        if found is None:
            raise StoreUnavailable(f"{record_name(record.number)} exists and cannot be read") from None
        if found.nonce != record.nonce:
            return found
    return record


def close_attempt(store: Store, number: int, *, by: str) -> None:
    """Close attempt `number`: from here on its writer, wherever it still runs, acknowledges no commit and deletes nothing.

    A coordinator does this before it lists the commits among which the next attempt's restore point is chosen. What an old
    writer acknowledged is then in the list, and what it deletes is older than what is.

    Raises:
        StoreError: the store did not answer; whether the attempt is closed is unknown, so call again.
    """
    # Closed twice is closed.
    with contextlib.suppress(ObjectExists):
        store.put_if_absent(_closed_name(number), Closed(number=number, by=by, created=now()).to_json())


def is_closed(store: Store, number: int) -> bool:
    """Whether attempt `number` was closed.

    Raises:
        StoreError: the store did not answer.
    """
    try:
        store.get(_closed_name(number))
    except ObjectNotFound:
        return False
    return True


def _closed_name(number: int) -> str:
    return f"{PREFIX}{number}.closed"
