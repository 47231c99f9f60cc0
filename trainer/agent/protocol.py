"""The messages between training process and agent, between writer and agent, and between agent and coordinator.

Process and writer talk to their agent over a socket pair, one JSON object a line; agents poll the coordinator by
HTTP POST /v1/poll (AgentReport in, Directive out). Free of TensorFlow.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from trainer.rundir.attempts import AttemptEnd, AttemptRecord, CommitRef, EndRecord, Wire
from trainer.rundir.history import Restart


class Phase(StrEnum):
    """What a training process is doing; each has its own limit before silence counts as a hang."""

    IMPORT = "import"
    RENDEZVOUS = "rendezvous"
    RESTORE = "restore"
    COMPILE = "compile"
    TRAIN = "train"
    DATA = "data"
    """Within training: the next batch is waited for."""
    CALLBACK = "callback"
    EVALUATE = "evaluate"
    SAVE = "save"
    EXPORT = "export"


WITHIN = (Phase.DATA, Phase.CALLBACK)
"""The task's own code is waited for, within another phase. Peers wait too, and must not be taken for hung."""


# --- from the agent to the training process


IMPORTING, SPARE = "orch-spare-new", "orch-spare"
"""What a spare calls itself while it imports beside training, and once it has."""


class Prepare(Wire):
    """The first line a process reads: it imports TensorFlow, and waits for its Start."""

    type: Literal["prepare"] = "prepare"
    config: str
    """Path of the TrainConfig's JSON."""
    spare: bool = False
    """No attempt waits for it yet."""
    beside_training: bool = False
    """Training goes on beside it, which its import must not slow down."""


class Start(Wire):
    """The second line: its assignment."""

    type: Literal["start"] = "start"
    tf_config: str | None
    """TF_CONFIG for its environment; None where it is the only worker."""
    record: AttemptRecord
    index: int
    memory_fd: int | None = None
    """The memfd for snapshots, inherited; None on every worker but the chief."""


class Stop(Wire):
    """End after the present block, with a save: the process raises its flag in the control vector."""

    type: Literal["stop"] = "stop"
    reason: str


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


# --- from the training process to its agent


class PhaseBegan(Wire):
    """The process entered a phase."""

    type: Literal["phase"] = "phase"
    phase: Phase
    step: int = 0
    detail: str = ""
    state_bytes: int = 0
    """Size of the state, once the process knows it: how long a restore may take depends on it."""


class Block(Wire):
    """A block of steps is done."""

    type: Literal["block"] = "block"
    step: int
    """Steps done in all, this block's included."""
    steps: int
    seconds: float
    total_steps: int | None
    epoch: int
    replicas: int
    metrics: dict[str, float] = {}
    """Means over the block and over all replicas: loss, and the task's metrics."""


class Evaluated(Wire):
    """An evaluation is done. Names carry `val_`."""

    type: Literal["evaluated"] = "evaluated"
    step: int
    examples: int
    seconds: float
    metrics: dict[str, float]


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


class SaveSkipped(Wire):
    """A save was due while the last one was still going."""

    type: Literal["save_skipped"] = "save_skipped"
    step: int


class Result(Wire):
    """The chief's last word of a finished training, before it exits 0."""

    type: Literal["result"] = "result"
    step: int
    total_steps: int
    metrics: dict[str, float]
    """Of the last evaluation (names without `val_` prefix are of training)."""
    weights_sha256: str
    export: str | None
    load: str = ""
    """One line of Python that gives the exported model."""
    reason: str = ""
    """Why training ended before train.steps, where it did: stop_when."""


LOG_ONLY = "\x1e"
"""A process begins with it those lines of its output that are for the run directory, and would only bury what matters on a
terminal."""


class Failure(Wire):
    """Why a process is about to exit with anything but 0 or 143. Its output holds the same in full."""

    type: Literal["failure"] = "failure"
    code: int
    exception: str
    message: str
    traceback: str = ""
    step: int = 0
    bad_commit: str | None = None


ToProcess = Annotated[Prepare | Start | Stop | Saved | SaveFailed, Field(discriminator="type")]
FromProcess = Annotated[
    PhaseBegan | Block | Evaluated | Snapshot | SaveSkipped | Result | Failure,
    Field(discriminator="type"),
]


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


class Retained(Wire):
    """Writer -> agent: retention deleted these commits."""

    type: Literal["retained"] = "retained"
    deleted: list[str]


class SaveTrouble(Wire):
    """Writer -> agent: the store makes trouble; this try goes on."""

    type: Literal["save_trouble"] = "save_trouble"
    step: int
    error: str


# --- what the chief's agent adds of its own to the metrics of the run directory


class Stalled(Wire):
    """Training stood still for the copy of a save."""

    type: Literal["stalled"] = "stalled"
    step: int
    why: Literal["interval", "stop", "last"]
    seconds: float
    size_bytes: int


class ProcessEnded(Wire):
    """The chief's training process has ended."""

    type: Literal["ended"] = "ended"
    code: int
    step: int
    exception: str = ""


class Alive(Wire):
    """Nothing new was told for a while, and the agent is there."""

    type: Literal["alive"] = "alive"
    step: int


ToWriter = Annotated[WriterStart | Snapshot | LastSave, Field(discriminator="type")]
FromWriter = Annotated[Saved | SaveFailed | Retained | SaveTrouble, Field(discriminator="type")]

to_process: TypeAdapter[Prepare | Start | Stop | Saved | SaveFailed] = TypeAdapter(ToProcess)
from_process: TypeAdapter[PhaseBegan | Block | Evaluated | Snapshot | SaveSkipped | Result | Failure] = TypeAdapter(
    FromProcess
)
to_writer: TypeAdapter[WriterStart | Snapshot | LastSave] = TypeAdapter(ToWriter)
from_writer: TypeAdapter[Saved | SaveFailed | Retained | SaveTrouble] = TypeAdapter(FromWriter)


def encode(message: Wire) -> bytes:
    """One line."""
    return message.to_json() + b"\n"


# --- between agents and the coordinator


class ExitReport(Wire):
    """How a training process ended, as its agent saw it."""

    attempt: int
    code: int
    exception: str = ""
    message: str = ""
    traceback: str = ""
    step: int = 0
    block_steps: int = 0
    """Steps of its last block."""
    blocks: bool = False
    silent_s: float = 0.0
    """Seconds between its last sign of life and its end, when its agent had to kill it; else 0."""
    killed_by_agent: bool = False
    asked: bool = False
    """Its agent was told to leave (SIGTERM) while it ran, and asked it to end."""
    bad_commit: str | None = None
    memory_peak_bytes: int = 0
    out_of_memory: bool = False
    """Linux killed it for want of memory, and spared its agent."""
    stacks: bool = False
    """Its log has the stacks of all threads at its end."""


class AgentReport(Wire):
    """One poll: all that the coordinator knows of this worker."""

    launch: str
    index: int
    uid: str
    address: str
    port: int
    """Where this worker's training process will listen in the next attempt."""
    state: Literal["idle", "running", "leaving"]
    attempt: int
    """The attempt that runs, or the last one that ended here; 0 for none."""
    last_exit: ExitReport | None = None
    """With state idle or leaving: how attempt `attempt` ended here."""
    phase: Phase | None = None
    phase_s: float = 0.0
    step: int = 0
    total_steps: int | None = None
    epoch: int = 0
    rate: float = 0.0
    """Steps a second over the last blocks."""
    metrics: dict[str, float] = {}
    last_commit: CommitRef | None = None
    save_error: str = ""
    saves_skipped: int = 0
    saves_failed: int = 0
    result: Result | None = None
    """The chief's, once its process finished."""
    node: str = ""
    memory_bytes: int = 0


class Directive(Wire):
    """The coordinator's answer to a poll."""

    kind: Literal["wait", "run", "end", "leave", "exit"]
    coordinator: str
    """UID of the coordinator."""
    attempt: int
    """The newest attempt."""
    record: AttemptRecord | None = None
    """With kind run: start this attempt."""
    end: EndRecord | None = None
    """With kind exit: the end record; leave with its code."""
    code: int = 143
    """With kind leave: the code to leave with."""
    reason: str = ""
    remedy: str = ""
    """With kind leave: what a person can do about it, where the coordinator knows."""
    peers_wait: bool = False
    """Another worker waits for its data or a callback, and so this one may be silent."""
    poll_after_s: float = 0.25


class JobState(Wire):
    """GET /v1/state of the coordinator: what `orch status` shows of a running job."""

    name: str
    launch: str
    state: Literal["waiting", "running", "restarting", "succeeded", "failed", "stopped"]
    reason: str
    attempt: int
    restarts: int
    budget_used: int
    budget_max: int
    step: int
    total_steps: int | None
    rate: float
    metrics: dict[str, float]
    workers: list[AgentReport]
    last_end: AttemptEnd | None = None
    history: list[Restart] = []
    """The newest restarts of this launch, oldest first."""
    end: EndRecord | None = None
    since_s: float = 0.0
