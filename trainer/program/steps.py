"""The compiled block: one program that does any number of steps, up to its capacity, by the model's or the task's train_step.

The number of steps is a tensor, so one program serves all lengths, and results do not depend on how steps are cut into
blocks. Metrics are Keras' variables, as in its own steps_per_execution: they begin anew with an epoch, within the program.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from trainer.data.feed import Feed
from trainer.exit_codes import ExitCode, code_of_exception
from trainer.model.corrections import correct
from trainer.program.draws import as_a_graph_draws
from trainer.program.exchange import on_first_replica
from trainer.program.global_batch import GlobalBatch
from trainer.program.logs import Logs, Scores, as_scores, flat
from trainer.program.ranges import Ranges
from trainer.replaced import replaced
from trainer.task import Task, model_overrides, overrides

log = logging.getLogger(__name__)

Mode = Literal["xla", "graph", "eager"]

# On CPUs XLA's convolutions are slower than oneDNN's, and it cannot compile strings.
_NOT_FOR_XLA = (
    "BaseConv", "BaseConvTranspose", "BaseDepthwiseConv", "BaseSeparableConv", "ConvLSTM",
    "TextVectorization", "StringLookup", "IndexLookup", "Hashing", "HashedCrossing", "Discretization",
)  # fmt: skip


def choose_mode(asked: str, model: keras.Model, batch: Any, replicas: int, *, tpu: bool = False) -> Mode:
    """How steps are compiled. A function of model and job alone, never of timing: the choice may show in the last bits.

    auto: eager where the model was compiled with run_eagerly; xla for one replica and a model without convolutional or text
    layers; else graph. A recurrent layer is one loop for XLA, and a step several times faster by it; an unrolled one would take
    long to compile, and a GPU has kernels of its own for it, which XLA cannot call: these are graph. On a TPU always graph: what
    strategy.run compiles there is XLA's already, and jit_compile asks for a device that image does not have.
    """
    if tpu:
        return "graph"
    if asked in ("graph", "eager"):
        return asked  # type: ignore[return-value]
    if asked == "auto" and model.run_eagerly:
        return "eager"
    leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
    if replicas > 1 or any(not isinstance(leaf, np.ndarray) or leaf.dtype.kind in "OSU" for leaf in leaves):
        if asked == "xla":
            log.warning("train.compile xla: several replicas, and text, sparse or ragged arrays, are compiled as graph")
        return "graph"
    if asked == "xla":
        return "xla"
    layers = list(model._flatten_layers())
    kinds = {kind.__name__ for layer in layers for kind in type(layer).__mro__}
    recurrent = [layer for layer in layers if isinstance(layer, keras.layers.RNN)]
    if any(layer.unroll for layer in recurrent) or (recurrent and tf.config.list_logical_devices("GPU")):
        return "graph"
    return "graph" if kinds.intersection(_NOT_FOR_XLA) else "xla"


@dataclass(frozen=True)
class Trained:
    """What a block did."""

    steps: int
    scores: Scores
    """Of the running epoch up to the block's end."""
    not_finite_after: int | None
    """Steps of the block before the first one after which the loss was not finite."""
    labels: int = 0
    """The feed's checksum of its labels."""


class CompiledBlock:
    """Runs blocks of steps of one model on one feed."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        task: Task,
        model: keras.Model,
        feed: Feed,
        mode: Mode,
        global_batch: GlobalBatch,
        ranges: Ranges,
        begins: Callable[[int, int], np.ndarray],
        metrics: Sequence[keras.Metric] = (),
        compiling: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`model` is compiled and built, its metrics too.

        Args:
            begins: of the steps (first, number), which begin an epoch: bool [capacity].
            metrics: those of the task that the model does not know.
            compiling: a context for blocks of shapes that no block had before, and that are compiled for on the way.
        """
        self._strategy = strategy
        self._task = task
        self._model = model
        self._feed = feed
        self._global_batch = global_batch
        self._ranges = ranges
        self._begins = begins
        self._own_step = overrides(task, "train_step")
        self._looks_at_inputs = self._own_step or model_overrides(
            model, "train_step", "compute_loss", "compute_metrics"
        )
        self._logs = Logs(strategy, model, metrics)
        self.replicas: int = strategy.num_replicas_in_sync
        self.mode: Mode = mode
        self._program = self._compiled()
        self._compiling = compiling
        self._compiled_for: set[tuple[str, ...]] = set()

    @property
    def averages(self) -> list[keras.Metric]:
        """Metrics made for values that a train_step of the user's own returns."""
        return list(self._logs.averages)

    def build_optimizers(self, first_step: int, unbuilt: Sequence[keras.optimizers.Optimizer]) -> None:
        """Make the variables of optimizers that a step of the user's own uses beside the model's. Before `learn`.

        As in fit, they get the variables that they are first applied to: known by tracing a step without running it.
        """
        arguments, _ = self._feed.block(first_step, 0)
        build_applied(
            self._strategy, unbuilt, lambda: self._traced(lambda: self._trace(arguments, lambda outputs: None)), correct
        )

    def learn(self, first_step: int) -> None:
        """Learn what a train_step of the user's own returns: makes `averages`. Before `compile`."""
        if self._own_step or model_overrides(self._model, "train_step", "compute_metrics"):
            arguments, _ = self._feed.block(first_step, 0)
            self._traced(lambda: self._logs.learn(lambda take: self._trace(arguments, take), "train_step"))

    def compile(self, first_step: int) -> None:
        """Compile by running a block of no steps; falls back from xla to graph where XLA refuses the model."""
        begins = tf.zeros(self._feed.capacity, tf.bool)
        blank = self._feed.blank_blocks(first_step)

        def run_blank() -> None:
            for arguments in blank:
                self._program(arguments, begins, tf.constant(0))

        try:
            self._traced(run_blank)
        except (tf.errors.OpError, ValueError, NotImplementedError) as error:
            if self.mode != "xla" or code_of_exception(error) == ExitCode.LOST_PEER:
                raise
            log.warning("XLA cannot compile this model, going on with graph: %s", _first_line(error))
            self.mode = "graph"
            self._program = self._compiled()
            self._traced(run_blank)
        self._compiled_for.update(self._shapes(arguments) for arguments in blank)

    def variables(self) -> list[tf.Variable]:
        """Those that the compiled program uses, each replica's; none where nothing is compiled. After `compile`."""
        if self.mode == "eager":
            return []
        arguments = self._feed.blank_blocks(0)[0]
        with self._context():
            traced = self._program.get_concrete_function(  # type: ignore[attr-defined]
                arguments, tf.zeros(self._feed.capacity, tf.bool), tf.constant(0)
            )
        return [variable for variable in traced.variables if not self._ranges.owns(variable)]

    def run(self, first_step: int, steps: int) -> Trained:
        """Do up to `steps` steps from `first_step` on: as many as the feed has of one shape."""
        arguments, taken = self._feed.block(first_step, steps)
        begins = self._begins(first_step, taken)
        shapes = self._shapes(arguments)
        compiling = nullcontext() if shapes in self._compiled_for else self._compiling()
        with compiling, self._context():
            bad, results = self._program(arguments, tf.constant(begins), tf.constant(taken))
        self._compiled_for.add(shapes)
        self._ranges.check(first_step)
        at = int(bad)
        return Trained(taken, as_scores(results), at if at >= 0 else None, self._feed.labels)

    def _traced(self, trace: Callable[[], None]) -> None:
        """Run what traces a step; again, where it finds that every replica has to compute the whole batch."""

        def in_context() -> None:
            with self._context():
                trace()

        def anew() -> None:
            self._program = self._compiled()

        self._global_batch.traced(in_context, anew)

    @contextmanager
    def _context(self) -> Iterator[None]:
        """In it the program is traced, and so run."""
        draws = as_a_graph_draws() if self.mode == "xla" else nullcontext()
        with self._global_batch.program(), self._ranges.program(), draws:
            yield

    def _shapes(self, arguments: Any) -> tuple[str, ...]:
        """By what the program is compiled for a block's arguments."""
        return tuple(
            str(self._strategy.experimental_local_results(leaf)[0].shape) for leaf in keras.tree.flatten(arguments)
        )

    def _compiled(self) -> Callable[..., Any]:
        if self.mode == "eager":
            return self._steps
        # As in Keras' fit, models are not converted by AutoGraph; a train_step of the task is, as in a tf.function.
        return tf.function(  # type: ignore[no-any-return]
            self._steps,
            jit_compile=True if self.mode == "xla" else None,
            autograph=self._own_step,
            reduce_retracing=self._feed.shapes_vary,
        )

    def _steps(self, arguments: Any, begins: Any, count: Any) -> Any:
        """The program. In cross-replica context.

        Args:
            arguments: the feed's.
            begins: bool [capacity], whether a step is the first of an epoch.
            count: how many steps.
        """

        def body(step: Any, bad: Any) -> Any:
            finite = on_first_replica(self._strategy, self._step, arguments, begins, step)
            return step + 1, tf.where((bad < 0) & ~finite, step, bad)

        _, bad = tf.while_loop(
            lambda step, bad: step < count, body, (tf.constant(0), tf.constant(-1)), parallel_iterations=1
        )
        return bad, on_first_replica(self._strategy, self._logs.results)

    def _step(self, arguments: Any, begins: Any, step: Any) -> Any:
        """One step on one replica: whether its loss is finite."""
        tf.cond(begins[step], self._begin_epoch, lambda: tf.constant(0))
        self._ranges.at(step)
        batch = self._feed.pick(arguments, step, self._join)
        outputs = self._train(batch)
        self._logs.update(outputs, examples_of(batch))
        return _finite(outputs)

    def _join(self, part: Any) -> Any:
        return self._global_batch.joined(part, inputs=self._looks_at_inputs)

    def _begin_epoch(self) -> Any:
        self._logs.reset()
        return tf.constant(0)

    def _train(self, batch: Any) -> Any:
        if self._own_step:
            return self._task.train_step(self._model, self._model.optimizer, batch)
        return self._model.train_step(batch)

    def _trace(self, arguments: Any, take: Callable[[Any], None]) -> None:
        """Trace a step without running it."""

        def step(arguments: Any) -> None:
            take(self._train(self._feed.pick(arguments, tf.constant(0), self._join)))

        traced = tf.function(lambda: self._strategy.run(step, (arguments,)), autograph=self._own_step)
        traced.get_concrete_function()


def build_applied(
    strategy: tf.distribute.Strategy,
    unbuilt: Sequence[keras.optimizers.Optimizer],
    trace: Callable[[], None],
    then: Callable[[Any], None] = lambda optimizer: None,
) -> None:
    """Make the variables of optimizers for what they are first applied to in a step, which `trace` traces without running it;
    with each of them `then` is called."""
    wanted: dict[int, list[Any]] = {}

    def noting(optimizer: Any) -> Callable[..., None]:
        def apply(gradients: Any, trainable_variables: Any = None) -> None:
            wanted.setdefault(id(optimizer), list(trainable_variables or ()))

        return apply

    with ExitStack() as stack:
        for optimizer in unbuilt:
            stack.enter_context(replaced(optimizer, "apply", noting(optimizer)))
        trace()
    with strategy.scope():
        for optimizer in unbuilt:
            if wanted.get(id(optimizer)):
                optimizer.build(wanted[id(optimizer)])
                then(optimizer)


def examples_of(batch: Any) -> Any:
    """How many examples a batch has: a number where its shape tells, else a tensor."""
    first = keras.tree.flatten(batch)[0]
    size = first.shape[0]
    return tf.shape(first)[0] if size is None else size


def _finite(outputs: Any) -> Any:
    """Whether the loss that a step returned is finite; where it names none, all that it returned."""
    chosen = [outputs["loss"]] if "loss" in outputs else list(flat(outputs).values())
    finite = [
        tf.reduce_all(tf.math.is_finite(value))
        for value in map(tf.convert_to_tensor, chosen)
        if value.dtype.is_floating
    ]
    return tf.reduce_all(finite) if finite else tf.constant(True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
