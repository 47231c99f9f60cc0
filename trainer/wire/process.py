"""What the training process and its agent say to each other, over a socket pair: one JSON object a line."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from trainer.rundir.attempts import AttemptRecord, Wire
from trainer.wire.writer import Saved, SaveFailed, Snapshot


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
    SCRIPT = "script"
    """Lines of a script outside of its calls of fit."""


WITHIN = (Phase.DATA, Phase.CALLBACK)
"""The task's own code is waited for, within another phase. Peers wait too, and must not be taken for hung."""


# --- from the agent to the training process; beside these: Saved and SaveFailed


SPARE = "orch-spare"
"""What a process calls itself that no attempt waits for yet."""


class Prepare(Wire):
    """The first line a process reads: it imports TensorFlow, and waits for its Start."""

    type: Literal["prepare"] = "prepare"
    config: str
    """Path of the TrainConfig's JSON."""
    spare: bool = False
    """No attempt waits for it yet."""
    memory_fd: int | None = None
    """The memfd for snapshots, inherited; None on every worker but the chief."""


class Copy(Wire):
    """Before its Start: it leaves a copy of itself for the next attempt. With the line come the copy's files: its socket, its
    output, and on the chief a memfd."""

    type: Literal["copy"] = "copy"
    scratch: str
    """The copy's temporary folder."""


class Start(Wire):
    """The last of the first lines: its assignment."""

    type: Literal["start"] = "start"
    tf_config: str | None
    """TF_CONFIG for its environment; None where it is the only worker."""
    record: AttemptRecord
    index: int
    memory_fd: int | None = None
    """The memfd for snapshots, as the process knows it; None on every worker but the chief."""


class Stop(Wire):
    """End after the present block, with a save: the process raises its flag in the control vector."""

    type: Literal["stop"] = "stop"
    reason: str


# --- from the training process to its agent; beside these: Snapshot


class Copied(Wire):
    """The first line of a copy: it is there, and waits."""

    type: Literal["copied"] = "copied"
    pid: int


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
    """What happened, and below it what to do next where orch knows."""
    remedy: str = ""
    """What to do next, alone."""
    traceback: str = ""
    step: int = 0
    bad_commit: str | None = None


ToProcess = Annotated[Prepare | Copy | Start | Stop | Saved | SaveFailed, Field(discriminator="type")]
FromProcess = Annotated[
    Copied | PhaseBegan | Block | Evaluated | Snapshot | SaveSkipped | Result | Failure,
    Field(discriminator="type"),
]

to_process: TypeAdapter[Prepare | Copy | Start | Stop | Saved | SaveFailed] = TypeAdapter(ToProcess)
from_process: TypeAdapter[Copied | PhaseBegan | Block | Evaluated | Snapshot | SaveSkipped | Result | Failure] = (
    TypeAdapter(FromProcess)
)
