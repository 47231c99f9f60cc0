"""What agents and the coordinator say to each other: POST /v1/poll, AgentReport in, Directive out; GET /v1/state, JobState."""

from typing import Literal

from trainer.rundir.attempts import AttemptEnd, AttemptRecord, CommitRef, EndRecord, Wire
from trainer.rundir.history import Restart
from trainer.wire.process import Phase, Result


class ExitReport(Wire):
    """How a training process ended, as its agent saw it."""

    attempt: int
    code: int
    exception: str = ""
    message: str = ""
    remedy: str = ""
    """What to do next, where orch itself raised what ended it and knows."""
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
