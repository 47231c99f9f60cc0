"""Where training is, when things are due, and how long blocks are: pure, steps and seconds in, answers out.

Free of TensorFlow.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.config import StopWhen
from trainer.data.order import Calendar

Scores = dict[str, Any]
"""Numbers by name, or arrays where a metric has several values."""

TARGET_S = 0.75
"""How long a block should take: metrics, stop requests and heartbeats wait for its end."""
FIRST_STEPS = 1
"""Nobody knows yet how long a step takes."""
GROWTH = 8


@dataclass(frozen=True)
class Plan:
    """The steps at which a block must end."""

    total_steps: int
    calendar: Calendar
    evaluate_every: int | Literal["epoch"] | None = None
    save_every_steps: int | None = None
    cut_at_epochs: bool = False
    """Blocks end with epochs too: callbacks are called there."""

    def evaluate_at(self, step: int) -> bool:
        """Whether an evaluation is due after `step` steps. The one at the very end is not meant."""
        if self.evaluate_every is None or step == 0:
            return False
        if self.evaluate_every == "epoch":
            return self.calendar.ends_epoch(step)
        return step % self.evaluate_every == 0

    def save_at(self, step: int) -> bool:
        """Whether a save that goes by steps is due after `step` steps."""
        return self.save_every_steps is not None and step > 0 and step % self.save_every_steps == 0

    def steps_until_cut(self, step: int) -> int:
        """Steps from `step` to the next one at which a block must end."""
        cuts = [self.total_steps]
        cuts += [
            (step // every + 1) * every
            for every in (self.evaluate_every, self.save_every_steps)
            if isinstance(every, int)
        ]
        if self.cut_at_epochs or self.evaluate_every == "epoch":
            end = self.calendar.next_end(step)
            cuts += [end] if end is not None else []
        return min(cuts) - step


@dataclass
class Progress:
    """Where training is, and what a checkpoint must know of it beside the variables."""

    step: int = 0
    evaluation: dict[str, Any] | None = None
    """The last evaluation: step, metrics."""
    finished: str = ""
    """Why training ended before its last step; empty where it did not."""
    scores: Scores = field(default_factory=dict)
    """Of the running epoch."""

    @property
    def validation(self) -> Scores | None:
        """The scores of the evaluation of the present step, if there was one."""
        return self.evaluation["metrics"] if self.evaluation and self.evaluation["step"] == self.step else None


@dataclass
class Pace:
    """How many steps the next block has, from how long the last one took."""

    capacity: int
    target_s: float = TARGET_S
    _steps: int = FIRST_STEPS

    def observe(self, steps: int, seconds: float) -> None:
        """A block of `steps` took `seconds`."""
        fitting = int(self.target_s * steps / max(seconds, 1e-9))
        # What is due may have cut the block short: growth counts from the length that was aimed at.
        self._steps = max(1, min(fitting, self.capacity, GROWTH * max(self._steps, steps)))

    def next_steps(self, until_cut: int) -> int:
        """The length of the next block."""
        return max(1, min(self._steps, self.capacity, until_cut))


@dataclass
class EarlyStopping:
    """Follows one metric over evaluations. Its state is part of every checkpoint."""

    rule: StopWhen
    best: float | None = None
    since_best: int = 0
    """Evaluations since the best one."""
    _smaller_is_better: bool = field(init=False)

    def __post_init__(self) -> None:
        name = self.rule.metric.lower()
        larger = any(word in name for word in ("acc", "auc", "precision", "recall", "f1"))
        self._smaller_is_better = self.rule.mode == "min" or (self.rule.mode == "auto" and not larger)

    def observe(self, value: float) -> None:
        """The metric of one more evaluation. What is not a number is no improvement."""
        change = 0.0 if self.best is None else (self.best - value if self._smaller_is_better else value - self.best)
        if value == value and (self.best is None or change > self.rule.min_delta):
            self.best, self.since_best = value, 0
        else:
            self.since_best += 1

    @property
    def exhausted(self) -> bool:
        """Whether training should stop."""
        return self.since_best > 0 and self.since_best >= self.rule.patience

    @property
    def reason(self) -> str:
        """For a person."""
        evaluations = "evaluation" if self.since_best == 1 else "evaluations"
        return f"stop_when: {self.rule.metric} has not improved on {self.best} for {self.since_best} {evaluations}"

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"metric": self.rule.metric, "best": self.best, "since_best": self.since_best}

    def restore(self, state: dict[str, Any] | None) -> None:
        """From a checkpoint; the state of another metric counts for nothing."""
        if state and state.get("metric") == self.rule.metric:
            self.best, self.since_best = state["best"], int(state["since_best"])
