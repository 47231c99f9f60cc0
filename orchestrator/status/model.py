"""What was seen of a job, and what is told of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.diagnose.scheduling import NodeRoom
from orchestrator.diagnose.trouble import Trouble
from orchestrator.kube.objects import Manifest
from trainer.agent.protocol import JobState
from trainer.rundir.attempts import AttemptRecord, EndRecord
from trainer.rundir.history import Restart
from trainer.rundir.ledger import Ledger

State = Literal["waiting", "running", "restarting", "succeeded", "failed", "stopped"]


@dataclass(frozen=True)
class Observation:
    """All that was seen of a job at one moment."""

    job: Manifest
    pods: list[Manifest]
    events: list[Manifest] = field(default_factory=list)
    live: JobState | None = None
    """The coordinator's answer, where it could be asked."""
    live_error: str = ""
    records: list[AttemptRecord | EndRecord] | None = None
    """The run directory's, where it was read."""
    records_error: str = ""
    saved_step: int = 0
    """Of the newest checkpoint that counts, where the run directory was read."""
    ledger: Ledger | None = None
    """Where the time went, where the run directory could tell it in time."""
    nodes: Sequence[NodeRoom] = ()
    """What the nodes offer, where a pod finds none and the user may look."""
    hosts: Mapping[str, Manifest] = field(default_factory=dict)
    """Name -> the Node of pods that may be out of reach, where the user may look at it."""
    workload: Manifest | None = None
    """Kueue's object for a queued job."""
    ahead: int | None = None
    """How many jobs wait before it, where Kueue tells."""
    said: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """UID of a pod that the coordinator does not hear -> the last lines of its log."""


@dataclass(frozen=True)
class WorkerStatus:
    """One line of the table of workers."""

    index: int
    state: str
    """pending, starting, waiting, a phase of training, succeeded, failed, ending or gone."""
    pod: str = ""
    node: str = ""
    attempt: int = 0
    step: int = 0
    rate: float = 0.0
    """Steps a second."""
    reason: str = ""
    restarts: int = 0
    """Restarts of this launch that began with this worker."""
    last_event: str = ""
    """What Kubernetes last said about its pod, where that was looked at."""


@dataclass(frozen=True)
class JobStatus:
    """What `orch status` shows."""

    name: str
    state: State
    code: int | None
    reason: str
    step: int
    attempts: int
    restarts: int
    run_directory: str
    metrics: dict[str, float]
    weights_sha256: str | None
    workers: list[WorkerStatus] = field(default_factory=list)
    history: list[Restart] = field(default_factory=list)
    """Restarts of this launch, oldest first; of a running job the newest ones."""
    goodput: float | None = None
    """Time of steps that were kept / time of the job, since its newest fresh start."""
    steps_lost: int | None = None
    save_error: str = ""
    """Why saves fail at the moment."""
    export: str | None = None
    """Where the trained model is."""
    load: str = ""
    """One line of Python that gives it."""
    # For people only.
    total_steps: int | None = None
    rate: float = 0.0
    traceback: str = ""
    remedy: str = ""
    """What the failed worker itself said is to be done."""
    troubles: list[Trouble] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in ("succeeded", "failed")

    def to_json(self) -> dict[str, Any]:
        """The object of `-o json`, the same as for a local run, with the workers."""
        names = (
            "name",
            "state",
            "code",
            "reason",
            "step",
            "attempts",
            "restarts",
            "run_directory",
            "metrics",
            "weights_sha256",
            "goodput",
            "steps_lost",
            "save_error",
            "export",
            "load",
        )
        return {name: getattr(self, name) for name in names} | {
            "troubles": [vars(trouble) | {"text": trouble.text} for trouble in self.troubles],
            "workers": [vars(worker) for worker in self.workers],
            "history": [restart.model_dump(mode="json", exclude={"stacks"}) for restart in self.history],
        }
