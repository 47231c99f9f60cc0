"""The status of a job: of one on a cluster, of one here, and of what either left in its run directory. One model for all of them,
and so one text (text.py), one JSON, one watch. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.diagnose.trouble import Trouble
from orchestrator.runs.goodput import SaveProblem
from orchestrator.runs.past import Past
from trainer.rundir.attempts import AttemptEnd, EndRecord
from trainer.rundir.history import Restart

if TYPE_CHECKING:
    from orchestrator.status.events import Happening

State = Literal["waiting", "running", "restarting", "succeeded", "failed", "stopped"]


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
    memory_bytes: int = 0
    """What its training process has, as far as its coordinator tells."""


@dataclass(frozen=True)
class JobStatus:
    """What `orch status` shows, and what `orch run` ends with."""

    name: str
    state: State = "waiting"
    code: int | None = None
    """The exit code, once it is over."""
    reason: str = ""
    step: int = 0
    attempts: int = 0
    restarts: int = 0
    run_directory: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    weights_sha256: str | None = None
    total_steps: int | None = None
    rate: float = 0.0
    """Steps a second."""
    export: str | None = None
    """Where the trained model is."""
    load: str = ""
    """One line of Python that gives it."""
    command: bool = False
    """Its program is the user's own (train.command), as far as the run directory tells: orch saves nothing of it."""
    finished_before: bool = False
    """An earlier launch did all of it; this one trained nothing."""
    has_length: bool = True
    """Its job file says how long it is: a script's and a command's do not."""
    traceback: str = ""
    """Of a failed job: the user's own frames, and the message."""
    remedy: str = ""
    """What is to be done, as far as somebody knew more than the code says."""
    cause: AttemptEnd | None = None
    """The end of an attempt for which the job was given up."""
    troubles: Sequence[Trouble] = ()
    goodput: float | None = None
    """Time of steps that were kept / time of the job, since its newest fresh start."""
    steps_lost: int | None = None
    history: Sequence[Restart] = ()
    """Restarts of this launch, oldest first; of a running job the newest ones."""
    broken_off: Sequence[Restart] = ()
    """The launches before this one that ended without a word."""
    save_error: str = ""
    """Why saves fail at the moment."""
    save_troubles: Sequence[SaveProblem] = ()
    """What went wrong with saves of this launch, oldest first, where the run directory tells."""
    unread: str = ""
    """Why the run directory tells nothing."""
    workers: Sequence[WorkerStatus] = ()

    @property
    def over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in ("succeeded", "failed")

    @property
    def eventful(self) -> bool:
        """Whether something went wrong on the way, of which a person should know."""
        return bool(self.history or self.broken_off or self.save_troubles)

    def ended_by(self, end: EndRecord) -> "JobStatus":
        """The same with what the end record says became of the job."""
        return replace(
            self,
            state=end.state,
            code=end.code,
            reason=end.reason,
            step=end.step,
            total_steps=end.total_steps,
            metrics=end.metrics,
            weights_sha256=end.weights_sha256,
            export=end.export,
            load=end.load,
            command=end.command,
            traceback=end.traceback,
            cause=end.cause,
        )

    def with_past(self, past: Past) -> "JobStatus":
        """The same with what went on before."""
        ledger = past.ledger
        return replace(
            self,
            goodput=ledger.goodput if ledger is not None else None,
            steps_lost=ledger.steps_lost if ledger is not None else None,
            broken_off=past.broken_off,
            save_troubles=past.save_troubles,
        )

    def to_json(self) -> dict[str, Any]:
        """The object of `-o json`."""
        plain = (
            *(
                "name",
                "state",
                "code",
                "reason",
                "step",
                "total_steps",
                "rate",
                "attempts",
                "restarts",
                "run_directory",
            ),
            *("metrics", "weights_sha256", "export", "load", "finished_before", "traceback", "remedy"),
            *("goodput", "steps_lost", "save_error", "unread"),
        )
        return {name: getattr(self, name) for name in plain} | {
            "troubles": [vars(trouble) | {"text": trouble.text} for trouble in self.troubles],
            "save_troubles": [vars(trouble) for trouble in self.save_troubles],
            "workers": [vars(worker) for worker in self.workers],
            "history": [_restart(restart) for restart in self.history],
            "broken_off": [_restart(restart) for restart in self.broken_off],
        }


@dataclass(frozen=True)
class Moment:
    """What is known of a job that is watched."""

    status: JobStatus
    happened: "Sequence[Happening]" = ()
    """Oldest first, of a job of a cluster."""
    away: str = ""
    """Why it may be old: who tells it does not answer."""


def _restart(restart: Restart) -> dict[str, Any]:
    return restart.model_dump(mode="json", exclude={"stacks", "command"})
