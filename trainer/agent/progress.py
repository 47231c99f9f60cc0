"""What a training process and its writer told of themselves in one attempt, message by message. Pure; what follows from one is
done in attempt.py."""

from dataclasses import dataclass, field

from trainer.rundir.attempts import CommitRef, Wire
from trainer.wire.coordinator import AgentReport
from trainer.wire.process import Block, Evaluated, Failure, Phase, PhaseBegan, Result, SaveSkipped
from trainer.wire.writer import Saved, SaveFailed, SaveTrouble, Snapshot


@dataclass
class AttemptProgress:
    """As of the last message."""

    step: int = 0
    phase: Phase = Phase.IMPORT
    phase_since_s: float = 0.0
    total_steps: int | None = None
    epoch: int = 0
    rate: float = 0.0
    """Steps a second over the last blocks."""
    metrics: dict[str, float] = field(default_factory=dict)
    blocks: bool = False
    """Whether one is done."""
    block_steps: int = 0
    last_commit: CommitRef | None = None
    stall_s: float = 0.0
    """How long the copy of the last save took."""
    save_s: float | None = None
    """The last save, from the beginning of its copy to its commit."""
    save_error: str = ""
    saves_skipped: int = 0
    saves_failed: int = 0
    result: Result | None = None
    failure: Failure | None = None
    superseded: str = ""
    """Why the writer may not go on: its attempt is closed."""
    memory_bytes: int = 0
    memory_peak_bytes: int = 0

    def apply(self, message: Wire, now: float) -> None:
        """A message of the process or of the writer."""
        match message:
            case PhaseBegan():
                if message.phase is not self.phase:
                    self.phase_since_s = now
                self.phase = message.phase
                self.step = max(self.step, message.step)
            case Block():
                self.step, self.total_steps, self.epoch = message.step, message.total_steps, message.epoch
                self.rate = _smooth(self.rate, message.steps / max(message.seconds, 1e-9))
                self.metrics = {**self.metrics, **message.metrics}
                self.blocks, self.block_steps = True, message.steps
            case Evaluated():
                self.metrics = {**self.metrics, **message.metrics}
            case Snapshot():
                self.stall_s = message.seconds
            case SaveSkipped():
                self.saves_skipped += 1
            case Result():
                self.result = message
            case Failure():
                self.failure = message
            case Saved():
                self.last_commit, self.save_error = message.commit, ""
                self.save_s = self.stall_s + message.seconds
            case SaveFailed():
                self.save_error = message.error
                self.saves_failed += 1
                self.superseded = message.error if message.superseded else self.superseded
            case SaveTrouble():
                self.save_error = message.error

    def fill(self, report: AgentReport, attempt: int, now: float) -> AgentReport:
        """The report of a worker on which this attempt runs."""
        return report.model_copy(
            update={
                "attempt": attempt,
                "phase": self.phase,
                "phase_s": now - self.phase_since_s,
                "step": self.step,
                "total_steps": self.total_steps,
                "epoch": self.epoch,
                "rate": self.rate,
                "metrics": self.metrics,
                "last_commit": self.last_commit,
                "save_error": self.save_error,
                "saves_skipped": self.saves_skipped,
                "saves_failed": self.saves_failed,
                "result": self.result,
                "memory_bytes": self.memory_bytes,
            }
        )


def _smooth(rate: float, sample: float) -> float:
    return sample if rate == 0 else 0.7 * rate + 0.3 * sample
