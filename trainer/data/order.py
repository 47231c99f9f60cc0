"""Which examples a step sees: a pure function of (seed, step, global batch size), whatever the number of workers.

All examples stand in one endless row, an epoch's permutation after the other. What becomes of an epoch's last examples, where
they fill no batch, is `remainder`: carry (the batch is filled from the next epoch), drop (they are left out), keep (a smaller
batch). An epoch ends with the step that takes its last example. Free of TensorFlow.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from trainer.errors import ConfigError

Remainder = Literal["carry", "drop", "keep"]


def permutation(seed: int, epoch: int, examples: int) -> np.ndarray:
    """The order of `examples` in `epoch` (from 0): int64 [examples], a permutation of 0..examples-1.

    The same for every version of NumPy: the raw words of Philox (whose stream NumPy guarantees, unlike those of
    Generator.permutation), keyed by (seed, epoch), with each example's number in its low bits, sorted.
    """
    bits = max(1, (examples - 1).bit_length())
    mask = np.uint64((1 << bits) - 1)
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(examples)
    keys = (words & ~mask) | np.arange(examples, dtype=np.uint64)
    keys.sort()
    return (keys & mask).astype(np.int64)


@dataclass(frozen=True)
class Calendar:
    """When epochs begin and end, in steps. `examples` is None where the length of an epoch is unknown: then there is one.

    For data that comes in batches of its own, a batch counts as one example, and the batch size is 1.
    """

    examples: int | None
    global_batch_size: int
    remainder: Remainder = "carry"

    def __post_init__(self) -> None:
        if self.remainder == "drop" and self.examples is not None and self.examples < self.global_batch_size:
            raise ConfigError(
                f"train.remainder is drop, and the {self.examples} examples of an epoch fill no batch of "
                f"{self.global_batch_size}",
                remedy=f"Set train.global_batch_size to {self.examples} or less, or train.remainder to carry or keep.",
            )

    @property
    def epoch_steps(self) -> int | None:
        """The steps of an epoch; None where epochs differ in it, or their length is unknown."""
        if self.examples is None:
            return None
        full, rest = divmod(self.examples, self.global_batch_size)
        if not rest:
            return full
        return {"carry": None, "drop": full, "keep": full + 1}[self.remainder]

    def epoch_of(self, step: int) -> int:
        """The epoch, from 1, that the last of the first `step` steps ended, or else was in; 0 before the first step."""
        if step == 0:
            return 0
        return self.epochs_done(step) + (0 if self.ends_epoch(step) else 1)

    def epochs_done(self, step: int) -> int:
        """Epochs that the first `step` steps came to the end of."""
        if self.examples is None:
            return 0
        return step // self.epoch_steps if self.epoch_steps else step * self.global_batch_size // self.examples

    def end_of(self, epoch: int) -> int | None:
        """Steps done at the end of `epoch` (from 1): with remainder carry ceil(epoch * N / B)."""
        if self.examples is None:
            return None
        return epoch * self.epoch_steps if self.epoch_steps else -(-epoch * self.examples // self.global_batch_size)

    def next_end(self, step: int) -> int | None:
        """The first epoch end after `step` steps."""
        if self.examples is None:
            return None
        return self.end_of(self.epochs_done(step) + 1)

    def ends_epoch(self, step: int) -> bool:
        """Whether the last of the first `step` steps was the last one of an epoch."""
        return step > 0 and self.next_end(step - 1) == step

    def begins_epoch(self, step: int) -> bool:
        """Whether the step after the first `step` steps is the first one of an epoch."""
        return step == 0 or self.ends_epoch(step)

    def examples_taken(self, step: int) -> int:
        """Examples that the first `step` steps took, each time anew."""
        if self.remainder != "keep" or not self.epoch_steps:
            return step * self.global_batch_size
        assert self.examples is not None
        epochs, rest = divmod(step, self.epoch_steps)
        return epochs * self.examples + rest * self.global_batch_size


@dataclass
class Order:
    """The order of a source with random access."""

    examples: int
    global_batch_size: int
    seed: int
    remainder: Remainder = "carry"
    calendar: Calendar = field(init=False)
    _permutations: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.calendar = Calendar(self.examples, self.global_batch_size, self.remainder)
        self._epoch_steps = self.calendar.epoch_steps
        rest = self.examples % self.global_batch_size
        self._last_size = rest if self.remainder == "keep" and rest else 0
        self._used = self.examples - rest if self.remainder == "drop" else self.examples

    @property
    def sizes(self) -> list[int]:
        """The batch sizes that occur, the usual one first."""
        if not self._last_size:
            return [self.global_batch_size]
        return [size for size in (self.global_batch_size, self._last_size) if size <= self.examples]

    def rows(self, first_step: int, steps: int) -> np.ndarray:
        """The examples of at most `steps` steps from `first_step` (from 0) on: int64 [steps taken, batch size].

        Fewer steps than asked for where the size of the batch changes: before and after an epoch's last one, with keep.
        """
        if not self._last_size:
            return self._row(first_step * self.global_batch_size, steps, self.global_batch_size, self._used)
        assert self._epoch_steps is not None
        epoch, place = divmod(first_step, self._epoch_steps)
        start = epoch * self.examples + place * self.global_batch_size
        if place == self._epoch_steps - 1:
            return self._row(start, min(steps, 1), self._last_size, self.examples)
        taken = min(steps, self._epoch_steps - 1 - place)
        return self._row(start, taken, self.global_batch_size, self.examples)

    def size_of(self, step: int) -> int:
        """The examples of a step's batch."""
        last = self._last_size and self._epoch_steps and step % self._epoch_steps == self._epoch_steps - 1
        return self._last_size if last else self.global_batch_size

    def epochs(self, step: int) -> np.ndarray:
        """The epoch, from 0, that each example of a step belongs to: int64 [batch size]."""
        if self._last_size:
            assert self._epoch_steps is not None
            return np.full(self.size_of(step), step // self._epoch_steps)
        start = step * self.global_batch_size
        return np.arange(start, start + self.global_batch_size) // self._used

    def prepare(self, first_step: int, steps: int) -> None:
        """Work out the permutations that `rows` will need for these steps."""
        if self._last_size:
            assert self._epoch_steps is not None
            self._prepare(first_step // self._epoch_steps, -(-(first_step + steps) // self._epoch_steps))
        else:
            start, end = first_step * self.global_batch_size, (first_step + steps) * self.global_batch_size
            self._prepare(start // self._used, -(-end // self._used))

    def _row(self, start: int, steps: int, size: int, used: int) -> np.ndarray:
        """`steps` batches of `size` from position `start` of the row on, to which each epoch gives its first `used`."""
        end = start + steps * size
        self._prepare(start // used, -(-end // used))
        parts = []
        for epoch in range(start // used, -(-end // used)):
            first = epoch * used
            parts.append(self._permutation(epoch)[:used][max(start - first, 0) : end - first])
        flat = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return flat.reshape(steps, size)

    def _prepare(self, epoch: int, end: int) -> None:
        """Those of the epochs from `epoch` to before `end`; those of earlier ones are forgotten."""
        for earlier in [known for known in self._permutations if known < epoch]:
            del self._permutations[earlier]
        for later in range(epoch, end):
            self._permutation(later)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            self._permutations[epoch] = permutation(self.seed, epoch, self.examples)
        return self._permutations[epoch]


def replica_slice(replica: Any, replicas: int, global_batch_size: int) -> slice:
    """The part of each global batch that `replica` computes: the replica-th of `replicas` contiguous slices."""
    size = global_batch_size // replicas
    return slice(replica * size, (replica + 1) * size)


def total_steps(calendar: Calendar, steps: int | None, epochs: int | None) -> int | None:
    """Steps to train for: `steps`, or those to the end of `epochs`. None when that needs the unknown length of an epoch."""
    if steps is not None:
        return steps
    return calendar.end_of(epochs) if epochs is not None else None
