"""What the writer and its agent say to each other, over a socket pair: one JSON object a line.

A snapshot is the process's own, and what became of it goes on to the process: wire/process.py has them too.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from trainer.rundir.attempts import CommitRef, Wire

# --- from the agent to the writer


class WriterStart(Wire):
    """The first line the writer reads."""

    type: Literal["writer_start"] = "writer_start"
    run_directory: str
    attempt: int
    nonce: str
    keep: int
    shard_size_bytes: int
    memory_fd: int
    save_timeout_s: float = 60.0
    """How long an interval save is tried: the next one comes soon."""
    last_save_timeout_s: float = 900.0
    """How long a save without a successor (at the end, at a stop) is tried."""


class LastSave(Wire):
    """Agent -> writer: no snapshot follows any more; end when the one in flight is done."""

    type: Literal["last_save"] = "last_save"


class Tensor(Wire):
    """One tensor of a snapshot: where it lies in the memfd, and what it is."""

    key: str
    """Position, not path: model/3, optimizer/0, task/1; of a variable that differs by replica, model/7@replica/0, ..."""
    path: str
    dtype: str
    shape: list[int]
    offset: int
    size_bytes: int


class Snapshot(Wire):
    """The state of one step lies in the memfd, whole. Sent after the copy: from here on the writer owns the bytes."""

    type: Literal["snapshot"] = "snapshot"
    step: int
    epoch: int
    examples_seen: int
    """Position in the endless row of examples: step * global batch size."""
    why: Literal["interval", "stop", "last"]
    tensors: list[Tensor]
    size_bytes: int
    host_state: dict[str, Any] = {}
    """What lives outside variables and must survive: early stopping, last evaluation."""
    seed: int = 0
    world_size: int = 1
    replicas: int = 1
    global_batch_size: int = 0
    versions: dict[str, str] = {}
    seconds: float = 0.0
    """How long training stood still for the copy."""


# --- from the writer to its agent


class Saved(Wire):
    """Writer -> agent -> process: the commit exists and was read back."""

    type: Literal["saved"] = "saved"
    commit: CommitRef
    size_bytes: int
    seconds: float


class SaveFailed(Wire):
    """Writer -> agent -> process: this save is lost; training goes on, the next one tries again."""

    type: Literal["save_failed"] = "save_failed"
    step: int
    error: str
    superseded: bool = False
    """A later attempt exists: this worker has no business here any more."""


class Retained(Wire):
    """Writer -> agent: retention deleted these commits."""

    type: Literal["retained"] = "retained"
    deleted: list[str]


class SaveTrouble(Wire):
    """Writer -> agent: the store makes trouble; this try goes on."""

    type: Literal["save_trouble"] = "save_trouble"
    step: int
    error: str


ToWriter = Annotated[WriterStart | Snapshot | LastSave, Field(discriminator="type")]
FromWriter = Annotated[Saved | SaveFailed | Retained | SaveTrouble, Field(discriminator="type")]

to_writer: TypeAdapter[WriterStart | Snapshot | LastSave] = TypeAdapter(ToWriter)
from_writer: TypeAdapter[Saved | SaveFailed | Retained | SaveTrouble] = TypeAdapter(FromWriter)
