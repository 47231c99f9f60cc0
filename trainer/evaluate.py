"""Evaluation on held-out data: every example exactly once, whatever the batch and the number of workers.

Each worker takes its own part, in full batches and one smaller one at the end, without any collective; then one sum over
all workers. So nothing is padded, and metrics need no weights. A part that takes long has a sum now and then, by which all
learn that one of them is to stop.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.collective import Collective
from trainer.data.sources import ArraySource, Batch, Source
from trainer.errors import ConfigError
from trainer.plan import TARGET_S, Pace
from trainer.steps import Mode, checked_names, loss_and_metrics, metric_results
from trainer.task import Task, overrides, predict

_RESIDENT_BYTES_MAX = 1 << 30


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, with `val_`, over all examples."""

    metrics: dict[str, float]
    examples: int
    seconds: float


class Evaluator:
    """Evaluates one model on one source, this worker's part on its first device."""

    def __init__(
        self,
        task: Task,
        model: keras.Model,
        source: Source,
        collective: Collective,
        *,
        index: int,
        workers: int,
        batch_size: int,
        mode: Mode,
    ) -> None:
        """`batch_size`: examples of one step over all workers."""
        self._task, self._model, self._source, self._collective = task, model, source, collective
        self._index, self._workers = index, workers
        self._batch_size = max(1, batch_size // workers)
        self._own_step = overrides(task, "evaluate_step")
        if not self._own_step and overrides(task, "train_step") and model._compile_loss is None and not model.losses:
            raise ConfigError(
                f"{type(task).__name__} has evaluation_data and a train_step, but nothing says how to evaluate",
                remedy="Give it an evaluate_step(self, model, batch), or a loss().",
            )
        self._variables = [] if self._own_step else list(model.metrics_variables)
        self._names: list[str] = []
        self._resident: Any = None
        if isinstance(source, ArraySource) and source.size_bytes <= _RESIDENT_BYTES_MAX:
            part = source.rows(self._part(source.examples))
            self._examples = len(keras.tree.flatten(part)[0])
            self._resident = keras.tree.map_structure(tf.constant, part)
        jit = True if mode == "xla" and self._resident is not None else None
        eager = mode == "eager"
        self._rounds = (
            self._run_rounds if eager else tf.function(self._run_rounds, jit_compile=jit, autograph=self._own_step)
        )
        self._one = (
            self._run_batch if eager else tf.function(self._run_batch, reduce_retracing=True, autograph=self._own_step)
        )

    def compile(self) -> None:
        """Compile for arrays, by rounds without a batch, so that the first evaluation does not take seconds longer."""
        if self._own_step:
            self._learn_names()
        if self._resident is None or not self._examples:
            return
        sums, states = self._zeros()
        full, rest = divmod(self._examples, self._batch_size)
        for size in ([self._batch_size] if full else []) + ([rest] if rest else []):
            self._rounds(self._resident, size, tf.constant(0), tf.constant(0), sums, states)

    def run(self, stopped: Callable[[], bool], *, slice_s: float = TARGET_S) -> Evaluation | None:
        """Evaluate. All workers call it at the same step. None where it was cut short.

        Args:
            stopped: whether this worker is to stop. One is enough, and all cut it short together.
            slice_s: how often they tell each other.
        """
        started = time.monotonic()
        if self._own_step:
            self._learn_names()
        own = (0, *self._zeros())
        part = (self._read_part if self._resident is None else self._resident_part)(*own)
        undone = True
        while undone:
            until, left = time.monotonic() + slice_s, True
            while left:
                further = next(part, None)
                left, own = further is not None, further or own
                if stopped() or time.monotonic() >= until:
                    break
            examples, sums, states = own
            values = [stopped(), left, examples, sums, *states]
            totals = self._collective.sum(np.concatenate([np.ravel(value).astype(np.float64) for value in values]))
            undone = totals[1] > 0
            if undone and totals[0] > 0:
                return None
        examples = round(float(totals[2]))
        if self._own_step:
            metrics = dict(zip(self._names, totals[3:] / max(examples, 1), strict=True))
        else:
            metrics = {"loss": totals[3] / max(examples, 1)} | self._results(totals[4:])
        named = {f"val_{name}": float(value) for name, value in metrics.items()}
        return Evaluation(named, examples, time.monotonic() - started)

    def names(self) -> list[str]:
        """What `run` will give, with `val_`."""
        if self._own_step:
            self._learn_names()
            return [f"val_{name}" for name in self._names]
        size = sum(int(np.prod(variable.shape)) for variable in self._variables)
        return [f"val_{name}" for name in ("loss", *self._results(np.zeros(size)))]

    def _learn_names(self) -> None:
        if not self._names:
            probe = tf.function(lambda batch: self._task.evaluate_step(self._model, batch))
            outputs = probe.get_concrete_function(self._source.sample(1)).structured_outputs
            self._names = checked_names(outputs, "evaluate_step")

    def _results(self, flat: np.ndarray) -> dict[str, float]:
        states, at = [], 0
        for variable in self._variables:
            size = int(np.prod(variable.shape))
            states.append(tf.cast(tf.reshape(flat[at : at + size], variable.shape), variable.dtype))
            at += size
        results = metric_results(self._model, self._variables, states)
        return {name: float(result) for name, result in results.items()}

    def _resident_part(self, examples: int, sums: Any, states: list[Any]) -> Iterator[tuple[int, Any, list[Any]]]:
        """This worker's examples so far, its sums over them (of the loss, or of the task's scalars), and its metrics' states;
        from what they are before the first example."""
        pace = Pace(capacity=self._examples)
        while examples < self._examples:
            size = min(self._batch_size, self._examples - examples)
            count, began = pace.next_steps((self._examples - examples) // size), time.monotonic()
            start = tf.constant(examples)
            sums, states = self._rounds(self._resident, size, start, tf.constant(count), sums, states)
            sums.numpy()
            pace.observe(count, time.monotonic() - began)
            examples += count * size
            yield examples, sums, states

    def _read_part(self, examples: int, sums: Any, states: list[Any]) -> Iterator[tuple[int, Any, list[Any]]]:
        """The same, after every batch."""
        for batch in self._batches():
            before = sums
            sums, states = self._one(batch, sums, states)
            before.numpy()  # so that a device is one batch behind, and not all of them
            examples += len(keras.tree.flatten(batch)[0])
            yield examples, sums, states

    def _zeros(self) -> tuple[Any, list[Any]]:
        states = [tf.zeros(variable.shape, variable.dtype) for variable in self._variables]
        return tf.zeros(len(self._names) if self._own_step else 1), states

    def _run_rounds(self, arrays: Any, size: int, start: Any, count: Any, sums: Any, states: Any) -> Any:
        """`count` batches of `size` examples from `start` on."""

        def body(index: Any, sums: Any, states: Any) -> Any:
            rows = start + index * size + tf.range(size)
            batch = keras.tree.map_structure(lambda array: tf.gather(array, rows), arrays)
            sums, states = self._run_batch(batch, sums, states)
            return index + 1, sums, states

        _, sums, states = tf.while_loop(
            lambda index, sums, states: index < count, body, (tf.constant(0), sums, states), parallel_iterations=1
        )
        return sums, states

    def _run_batch(self, batch: Batch, sums: Any, states: Any) -> Any:
        count = tf.shape(keras.tree.flatten(batch)[0])[0]
        weight = tf.cast(count, tf.float32)
        if self._own_step:
            outputs = self._task.evaluate_step(self._model, batch)
            return sums + weight * tf.stack([tf.cast(outputs[name], tf.float32) for name in self._names]), states
        predictions = predict(self._model, batch, training=False)
        loss, states = loss_and_metrics(self._model, batch, predictions, self._variables, states, training=False)
        return sums + weight * tf.cast(loss, tf.float32), states

    def _part(self, examples: int) -> slice:
        return slice(examples * self._index // self._workers, examples * (self._index + 1) // self._workers)

    def _batches(self) -> Iterator[Batch]:
        if not isinstance(self._source, ArraySource):
            yield from self._source.part(self._index, self._workers, self._batch_size)
            return
        part = self._part(self._source.examples)
        for start in range(part.start, part.stop, self._batch_size):
            yield self._source.rows(slice(start, min(start + self._batch_size, part.stop)))
