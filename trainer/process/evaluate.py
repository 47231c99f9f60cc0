"""Evaluation on held-out data: every example exactly once, in batches of one size and a smaller one at the end.

All workers take the same batches, each replica its slice of them within layers (program/global_batch.py), so that loss and
metrics are those of one device. They are Keras' own variables, lent by training for the time and given back as they were. Now
and then the workers agree to go on, by which all learn that one of them is to stop.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from trainer.callbacks.hooks import Hooks
from trainer.checkpoint.replicas import Replicas, put_back
from trainer.data import kinds
from trainer.data.checksum import label_checksum
from trainer.data.feed import may_vary
from trainer.data.shares import Shares, on_replicas
from trainer.data.sources import ArraySource, Batch, BatchSource, ByNumber, ExamplesSource, Source
from trainer.errors import ConfigError
from trainer.model.build import fixed_inputs
from trainer.process.collective import Collective, Decision, data_differ
from trainer.process.plan import TARGET_S, Pace
from trainer.program.exchange import on_first_replica
from trainer.program.global_batch import GlobalBatch
from trainer.program.logs import Logs, Scores, as_numbers, as_scores
from trainer.program.ranges import Ranges
from trainer.program.steps import Mode, examples_of
from trainer.task import Task, model_overrides, overrides

_RESIDENT_BYTES_MAX = 1 << 30
_BATCHES_MAX = 1 << 20


@dataclass(frozen=True)
class Evaluation:
    """Scores by name, with `val_`, over all examples."""

    scores: Scores
    examples: int
    seconds: float


class Evaluator:
    """Evaluates one model on one source."""

    def __init__(
        self,
        task: Task,
        model: keras.Model,
        source: Source,
        collective: Collective,
        strategy: tf.distribute.Strategy,
        global_batch: GlobalBatch,
        *,
        batch_size: int,
        mode: Mode,
        metrics: Sequence[keras.Metric] = (),
    ) -> None:
        """`batch_size`: examples of one step over all replicas. `metrics`: those of the task that the model does not know."""
        self._task, self._model, self._source, self._collective = task, model, source, collective
        self._strategy, self._global_batch = strategy, global_batch
        self._replicas = Replicas(strategy)
        self._batch_size = batch_size
        self._own_step = overrides(task, "evaluate_step")
        _check(task, model, own_step=self._own_step)
        fixed = fixed_inputs(model)
        self._fixed: int | None = fixed[0].shape[0] if fixed else None
        self._shares = Shares(strategy, divided=isinstance(source, ExamplesSource))
        self._looks_at_inputs = self._own_step or model_overrides(model, "test_step", "compute_loss", "compute_metrics")
        if self._fixed is not None and not isinstance(source, BatchSource):
            self._check_size(batch_size)
            known = source.examples if isinstance(source, ByNumber) else source.elements.known
            self._check_size((known or 0) % batch_size or batch_size)
        self._ranges = Ranges(strategy, global_batch, "the evaluation batch")
        self._logs = Logs(strategy, model, metrics)
        self._others = list(metrics)
        self._resident: Any = None
        if isinstance(source, ArraySource) and source.dense and source.size_bytes <= _RESIDENT_BYTES_MAX:
            self._resident = on_replicas(strategy, source.arrays)
        self._eager = mode == "eager"
        jit = True if mode == "xla" and self._resident is not None else None
        self._rounds = self._program(self._run_rounds, jit_compile=jit, autograph=self._own_step)
        varying = isinstance(source, BatchSource) and may_vary(source)
        self._one = self._program(self._run_one, autograph=self._own_step, reduce_retracing=varying)
        self._begin = self._program(self._run_begin, autograph=False)
        self._results = self._program(self._run_results, autograph=False)

    def compile(self) -> None:
        """Learn what a step returns, and compile for arrays, by rounds without a batch, so that the first evaluation does not
        take seconds longer. Before `run` and `names`."""
        if self._own_step or model_overrides(self._model, "test_step", "compute_metrics"):
            self._learn()
        if isinstance(self._source, ArraySource) and self._resident is not None:
            full, rest = divmod(self._source.examples, self._batch_size)
            for size in ([self._batch_size] if full else []) + ([rest] if rest else []):
                self._rounds(self._resident, size, tf.constant(0), tf.constant(0))

    def run(
        self,
        stopped: Callable[[], bool],
        *,
        chief: bool = True,
        hooks: Hooks | None = None,
        slice_s: float = TARGET_S,
    ) -> Evaluation | None:
        """Evaluate. All workers call it at the same step. None where it was cut short.

        Args:
            stopped: whether this worker is to stop. One is enough, and all cut it short together.
            chief: whether this worker says how many batches go between two agreements.
            hooks: told of each batch, where they ask for it.
            slice_s: how often workers agree.
        """
        every_batch = hooks is not None and hooks.every_test_batch
        started = time.monotonic()
        with self._lent_metrics():
            self._begin()
            batches = self._batches() if self._resident is None else None
            pace, done, examples, labels = Pace(_BATCHES_MAX, slice_s), 0, 0, 0
            while True:
                wanted = 1 if every_batch else pace.next_steps(_BATCHES_MAX)
                turn = self._collective.agree(Decision(stop=stopped(), next_steps=wanted, labels=labels), chief=chief)
                if not turn.same_labels:
                    raise data_differ("evaluation_data()", f" up to example {examples}")
                if turn.stop:
                    return None
                began = time.monotonic()
                if hooks is not None and every_batch:
                    more, batches = self._peek(batches, examples)
                    if more:
                        hooks.test_batch_begin(done)
                if batches is None:
                    taken, count = self._take_resident(examples, turn.next_steps)
                else:
                    taken, count, labels = self._take_read(batches, done, turn.next_steps)
                if not count:
                    break
                self._ranges.check(0)
                if hooks is not None and every_batch:
                    hooks.test_batch_end(done, self._scores())
                done, examples = done + count, examples + taken
                pace.observe(count, time.monotonic() - began)
            scores = self._scores()
        named: Scores = {f"val_{name}": value for name, value in scores.items()}
        return Evaluation(named, examples, time.monotonic() - started)

    def names(self) -> list[str]:
        """The numbers that `run` will give, with `val_`."""
        return [f"val_{name}" for name in as_numbers(self._scores())]

    def _program(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """A function as a program of its own: what is replaced in Keras while it runs is not for callbacks between two."""
        program = function if self._eager else tf.function(function, **options)

        def run(*arguments: Any) -> Any:
            with self._global_batch.program(), self._ranges.program():
                return program(*arguments)

        return run

    def _learn(self) -> None:
        size = self._batch_size
        batch = self._shares.arguments([self._source.sample(len(self._shares.own(size)))], 1, size)

        def trace(take: Callable[[Any], None]) -> None:
            def step(table: Any) -> None:
                take(self._outputs(self._shares.pick(table, 0, self._join)))

            traced = tf.function(lambda: self._strategy.run(step, (batch,)), autograph=self._own_step)
            with self._global_batch.program(), self._ranges.program():
                traced.get_concrete_function()

        self._logs.learn(trace, "evaluate_step" if self._own_step else "test_step")

    def _lent_metrics(self) -> AbstractContextManager[None]:
        metrics = [*self._model.metrics, *self._others]
        variables = [variable for metric in metrics for variable in metric.variables]
        return put_back([component for variable in variables for component in self._replicas.components(variable)])

    def _peek(self, batches: Iterator[Batch] | None, done: int) -> tuple[bool, Iterator[Batch] | None]:
        """Whether there is a batch after `done` examples, and the batches as they were."""
        if batches is None:
            assert isinstance(self._source, ArraySource)
            return done < self._source.examples, None
        first = list(itertools.islice(batches, 1))
        return bool(first), itertools.chain(first, batches)

    def _take_resident(self, start: int, batches: int) -> tuple[int, int]:
        """Up to `batches` batches from example `start` on: examples and batches that were there."""
        assert isinstance(self._source, ArraySource)
        left = self._source.examples - start
        size = min(self._batch_size, left)
        if not size:
            return 0, 0
        count = min(batches, left // size)
        self._rounds(self._resident, size, tf.constant(start), tf.constant(count))
        self._scores()  # waits for the device
        return count * size, count

    def _take_read(self, batches: Iterator[Batch], first: int, wanted: int) -> tuple[int, int, int]:
        """Examples and batches that were there, and the checksum of their labels."""
        examples = count = labels = 0
        for batch in itertools.islice(batches, wanted):
            number = first + count
            size = self._size_of(number, batch)
            self._check_size(size)
            self._one(self._shares.arguments([batch], 1, size), tf.constant(number))
            examples += size
            count += 1
            if self._strategy.num_replicas_in_sync > 1 and not self._shares.divided:
                labels = label_checksum(batch, labels)
        self._scores()
        return examples, count, labels

    def _size_of(self, number: int, batch: Batch) -> int:
        """The examples of the number-th batch of all workers together, of which `batch` may be this one's part."""
        if not isinstance(self._source, ExamplesSource):
            return kinds.examples_of(batch)
        return min(self._batch_size, self._source.examples - number * self._batch_size)

    def _join(self, part: Any) -> Any:
        return self._global_batch.joined(part, inputs=self._looks_at_inputs)

    def _check_size(self, examples: int) -> None:
        if self._fixed is not None and examples != self._fixed:
            raise ConfigError(
                f"the model takes batches of {self._fixed} examples alone, and an evaluation batch has {examples}",
                remedy=f"Let evaluation_data() have a multiple of {self._fixed} examples, with train.evaluate.batch_size "
                f"{self._fixed}; or build the model without a fixed batch.",
            )

    def _scores(self) -> Scores:
        return as_scores(self._results())

    def _run_begin(self) -> Any:
        self._strategy.run(self._logs.reset)
        return tf.constant(0)

    def _run_results(self) -> Any:
        return on_first_replica(self._strategy, self._logs.results)

    def _run_rounds(self, arrays: Any, size: int, start: Any, count: Any) -> Any:
        """`count` batches of `size` examples from `start` on."""

        def step(arrays: Any, first: Any) -> None:
            rows = first + tf.range(size)
            self._ranges.at(first // self._batch_size)
            self._step(keras.tree.map_structure(lambda array: tf.gather(array, rows), arrays))

        def body(index: Any) -> Any:
            self._strategy.run(step, (arrays, start + index * size))
            return (index + 1,)

        return tf.while_loop(lambda index: index < count, body, (tf.constant(0),), parallel_iterations=1)

    def _run_one(self, batch: Any, number: Any) -> Any:
        def step(table: Any) -> None:
            self._ranges.at(number)
            self._step(self._shares.pick(table, 0, self._join))

        self._strategy.run(step, (batch,))
        return tf.constant(0)

    def _step(self, batch: Any) -> None:
        self._logs.update(self._outputs(batch), examples_of(batch))

    def _outputs(self, batch: Any) -> Any:
        if self._own_step:
            return self._task.evaluate_step(self._model, batch)
        return self._model.test_step(batch)

    def _batches(self) -> Iterator[Batch]:
        source, size = self._source, self._batch_size
        if isinstance(source, ExamplesSource):
            return source.in_order(size, self._shares.own)
        if not isinstance(source, ArraySource):
            return source.part(0, 1, size)
        starts = range(0, source.examples, size)
        return (source.rows(slice(start, min(start + size, source.examples))) for start in starts)


def _check(task: Task, model: keras.Model, *, own_step: bool) -> None:
    if own_step or model_overrides(model, "test_step"):
        return
    no_loss = model._compile_loss is None and not model_overrides(model, "compute_loss") and not model.losses
    of_model = model_overrides(model, "train_step")
    if no_loss and (of_model or overrides(task, "train_step")):
        raise ConfigError(
            f"{type(task).__name__} has evaluation_data, and {type(model if of_model else task).__name__} a train_step of its "
            "own, but nothing says how to evaluate",
            remedy="Give the model a test_step(self, data) or a loss, or the task an evaluate_step(self, model, batch).",
        )
