"""Which examples a step sees: a pure function of (seed, step, global batch size), whatever the number of workers.

All examples stand in one endless row, an epoch's permutation after the other. Step S (counted from 0) takes positions S*B to
S*B+B-1 of it, so a batch may span two epochs. An epoch ends with the step that takes its last example. Free of TensorFlow.
"""

from dataclasses import dataclass, field

import numpy as np


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
    """When epochs begin and end, in steps. `examples` is None where the length of an epoch is unknown: then there is one."""

    examples: int | None
    global_batch_size: int

    def epoch_of(self, step: int) -> int:
        """The epoch, from 1, that the last of the first `step` steps ended, or else was in; 0 before the first step."""
        if step == 0:
            return 0
        return self.epochs_done(step) + (0 if self.ends_epoch(step) else 1)

    def epochs_done(self, step: int) -> int:
        """Epochs whose last example is among those that the first `step` steps took."""
        return 0 if self.examples is None else step * self.global_batch_size // self.examples

    def end_of(self, epoch: int) -> int | None:
        """Steps done when the last example of `epoch` (from 1) has been taken: ceil(epoch * N / B)."""
        return None if self.examples is None else -(-epoch * self.examples // self.global_batch_size)

    def next_end(self, step: int) -> int | None:
        """The first epoch end after `step` steps."""
        if self.examples is None:
            return None
        return self.end_of(self.epochs_done(step) + 1)

    def begins_epochs(self, first_step: int, steps: int) -> np.ndarray:
        """Which of the `steps` steps from `first_step` on begin an epoch: bool [steps]. The very first one does."""
        begins = np.zeros(steps, bool)
        if first_step == 0 and steps:
            begins[0] = True
        end = first_step if self.ends_epoch(first_step) else self.next_end(first_step)
        while end is not None and end < first_step + steps:
            begins[end - first_step] = True
            end = self.next_end(end)
        return begins

    def ends_epoch(self, step: int) -> bool:
        """Whether the last of the first `step` steps took the last example of an epoch."""
        return step > 0 and self.next_end(step - 1) == step


@dataclass
class Order:
    """The order of a source with random access."""

    examples: int
    global_batch_size: int
    seed: int
    _permutations: dict[int, np.ndarray] = field(default_factory=dict)

    def rows(self, first_step: int, steps: int) -> np.ndarray:
        """The examples of `steps` steps from `first_step` (from 0) on: int64 [steps, global_batch_size]."""
        self.prepare(first_step, steps)
        start = first_step * self.global_batch_size
        end = start + steps * self.global_batch_size
        parts = []
        for epoch in range(start // self.examples, -(-end // self.examples)):
            first = epoch * self.examples
            parts.append(self._permutation(epoch)[max(start - first, 0) : end - first])
        flat = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return flat.reshape(steps, self.global_batch_size)

    def prepare(self, first_step: int, steps: int) -> None:
        """Work out the permutations that `rows` will need for these steps, and forget those of earlier ones."""
        start = first_step * self.global_batch_size
        end = start + steps * self.global_batch_size
        epochs = range(start // self.examples, -(-end // self.examples))
        for epoch in [epoch for epoch in self._permutations if epoch < epochs.start]:
            del self._permutations[epoch]
        for epoch in epochs:
            self._permutation(epoch)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            self._permutations[epoch] = permutation(self.seed, epoch, self.examples)
        return self._permutations[epoch]


def replica_slice(replica: int, replicas: int, global_batch_size: int) -> slice:
    """The part of each global batch that `replica` computes: the replica-th of `replicas` contiguous slices."""
    size = global_batch_size // replicas
    return slice(replica * size, (replica + 1) * size)


def total_steps(calendar: Calendar, steps: int | None, epochs: int | None) -> int | None:
    """Steps to train for: `steps`, or ceil(epochs * N / B). None when that needs the unknown length of an epoch."""
    if steps is not None:
        return steps
    return calendar.end_of(epochs) if epochs is not None else None
