"""The compiled block: one program that does any number of steps, up to its capacity, and gives their mean metrics.

The number of steps is a tensor, so one program serves all lengths, and results do not depend on how steps are cut into
blocks. Metrics are values that leave the program, not state: nothing of them is saved.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from trainer.checkpoint.replicas import Replicas
from trainer.collective import sum_over_replicas
from trainer.data.feed import Feed
from trainer.errors import ConfigError
from trainer.exit_codes import ExitCode, code_of_exception
from trainer.task import Task, overrides, predict

log = logging.getLogger(__name__)

Mode = Literal["xla", "graph", "eager"]

# On CPUs XLA's convolutions are slower than oneDNN's; it cannot compile strings, and unrolls or refuses recurrent layers.
_NOT_FOR_XLA = (
    "BaseConv", "BaseConvTranspose", "BaseDepthwiseConv", "BaseSeparableConv", "RNN", "Bidirectional",
    "TextVectorization", "StringLookup", "IndexLookup", "Hashing", "HashedCrossing", "Discretization",
)  # fmt: skip


def choose_mode(asked: str, model: keras.Model, batch: Any, replicas: int, *, tpu: bool = False) -> Mode:
    """How steps are compiled. A function of model and job alone, never of timing: the choice may show in the last bits.

    auto: xla for one replica and a model without convolutional, recurrent or text layers, else graph. On a TPU always
    graph: what strategy.run compiles there is XLA's already, and jit_compile asks for a device that image does not have.
    """
    if tpu:
        return "graph"
    if asked in ("graph", "eager"):
        return asked  # type: ignore[return-value]
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(batch)]
    if replicas > 1 or any(leaf.dtype.kind in "OSU" for leaf in leaves):
        if asked == "xla":
            log.warning("train.compile xla: several replicas, or text, are compiled as graph")
        return "graph"
    if asked == "xla":
        return "xla"
    kinds = {kind.__name__ for layer in model._flatten_layers() for kind in type(layer).__mro__}
    return "graph" if kinds.intersection(_NOT_FOR_XLA) else "xla"


class Block:
    """Runs blocks of steps of one model on one feed."""

    def __init__(self, strategy: Any, task: Task, model: keras.Model, feed: Feed, mode: Mode) -> None:
        """`model` is compiled and built, its metrics too."""
        self._strategy = strategy
        self._task = task
        self._model = model
        self._feed = feed
        self._own_step = overrides(task, "train_step")
        self._metric_variables = [] if self._own_step else list(model.metrics_variables)
        self.replicas: int = strategy.num_replicas_in_sync
        self._local = len(Replicas(strategy).local_ids)
        self._names: list[str] = []
        self.mode: Mode = mode
        self._program = self._compiled()

    def compile(self, first_step: int) -> None:
        """Compile by running a block of no steps; falls back from xla to graph where XLA refuses the model."""
        arguments, _ = self._feed.block(first_step, 0)
        if self._own_step:
            self._names = self._probe(arguments)
        try:
            self._program(arguments, tf.constant(0))
        except (tf.errors.OpError, ValueError, NotImplementedError) as error:
            if self.mode != "xla" or code_of_exception(error) == ExitCode.LOST_PEER:
                raise
            log.warning("XLA cannot compile this model, going on with graph: %s", _first_line(error))
            self.mode = "graph"
            self._program = self._compiled()
            self._program(arguments, tf.constant(0))

    def run(self, first_step: int, steps: int) -> dict[str, float]:
        """Do `steps` steps from `first_step` on; means over them and over all replicas: loss, and the task's metrics."""
        done = 0
        while done < steps:
            arguments, taken = self._feed.block(first_step + done, steps - done)
            values = self._program(arguments, tf.constant(taken))
            done += taken
        steps = taken
        names, numbers = self._names, values.numpy()
        divisor = np.full(len(names), float(steps))
        if self._own_step:
            divisor *= [1.0 if name == "loss" else float(self.replicas) for name in names]
        elif len(names) > 1:
            divisor[1:] = 1.0
        return dict(zip(names, (numbers / divisor).tolist(), strict=True))

    def _compiled(self) -> Callable[..., Any]:
        if self.mode == "eager":
            return self._steps
        # As in Keras' fit, models are not converted by AutoGraph; a train_step of the user's own is, as in a tf.function.
        return tf.function(self._steps, jit_compile=True if self.mode == "xla" else None, autograph=self._own_step)  # type: ignore[no-any-return]

    def _steps(self, arguments: Any, count: Any) -> Any:
        """The program: float32 [names], summed over `count` steps but for Keras' metrics. In cross-replica context."""
        states = [tf.zeros(variable.shape, variable.dtype) for variable in self._metric_variables]
        sums = [tf.zeros(()) for _ in (self._names if self._own_step else ["loss"])]

        def body(step: Any, sums: Any, states: Any) -> Any:
            outputs, updated = self._on_replicas(arguments, step, states)
            sums = [total + output for total, output in zip(sums, outputs)]  # noqa: B905
            return step + 1, sums, updated

        _, sums, states = tf.while_loop(
            lambda step, sums, states: step < count, body, (tf.constant(0), sums, states), parallel_iterations=1
        )
        sums, states = self._over_workers(sums, states)
        if self._own_step:
            return tf.stack(sums)
        results = metric_results(self._model, self._metric_variables, states)
        self._names = ["loss", *results]
        return tf.stack(sums + [tf.cast(result, tf.float32) for result in results.values()])

    def _on_replicas(self, arguments: Any, step: Any, states: Any) -> Any:
        """One step on every replica of this process: its scalars summed over them, and the new states of the metrics."""
        if self._local == 1:
            return self._strategy.run(self._step, (arguments, step, states))
        # Keras' metrics are additive over replicas, so each of them starts from zero, and what it adds is added up.
        zeros = [tf.zeros_like(state) for state in states]
        outputs, added = self._strategy.run(self._step, (arguments, step, zeros))
        locally = self._strategy.experimental_local_results
        outputs = [tf.add_n(locally(output)) for output in outputs]
        return outputs, [state + tf.add_n(locally(more)) for state, more in zip(states, added)]  # noqa: B905

    def _step(self, arguments: Any, step: Any, states: Any) -> Any:
        """One step on one replica: its scalars, and the new states of the metrics."""
        batch = self._feed.pick(arguments, step)
        if self._own_step:
            outputs = self._task.train_step(self._model, self._model.optimizer, batch)
            return [tf.cast(outputs[name], tf.float32) for name in self._names], states
        model, optimizer = self._model, self._model.optimizer
        with tf.GradientTape() as tape:
            predictions = predict(model, batch, training=True)
            loss, states = loss_and_metrics(model, batch, predictions, self._metric_variables, states, training=True)
            scaled = optimizer.scale_loss(loss)
        weights = model.trainable_weights
        optimizer.apply_gradients(zip(tape.gradient(scaled, weights), weights))  # noqa: B905
        return [tf.cast(loss, tf.float32)], states

    def _over_workers(self, sums: Any, states: Any) -> Any:
        """Sums over the workers: one collective for all of them."""
        if self._local == self.replicas:
            return sums, states
        tensors = [*sums, *states]
        flat = tf.concat([tf.reshape(tf.cast(tensor, tf.float64), [-1]) for tensor in tensors], 0) / self._local
        total = self._strategy.run(sum_over_replicas, (flat,))
        total = self._strategy.experimental_local_results(total)[0]
        parts = tf.split(total, [int(np.prod(tensor.shape)) for tensor in tensors])
        reduced = [
            tf.cast(tf.reshape(part, tensor.shape), tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)
        ]
        return reduced[: len(sums)], reduced[len(sums) :]

    def _probe(self, arguments: Any) -> list[str]:
        """The names that the task's train_step gives, by tracing it once without running it."""
        names: list[str] = []

        def step(arguments: Any) -> None:
            batch = self._feed.pick(arguments, tf.constant(0))
            outputs = self._task.train_step(self._model, self._model.optimizer, batch)
            names[:] = checked_names(outputs, "train_step")

        if self.mode == "eager":
            tf.function(
                lambda arguments: self._strategy.run(step, (arguments,)), autograph=False
            ).get_concrete_function(arguments)
        else:
            tf.function(lambda arguments: self._strategy.run(step, (arguments,))).get_concrete_function(arguments)
        return names


def loss_and_metrics(
    model: keras.Model, batch: Any, predictions: Any, variables: Sequence[Any], states: Sequence[Any], *, training: bool
) -> tuple[Any, list[Any]]:
    """The loss of a batch, and the states of the metrics after it, which are values here: no variable is written."""
    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    # Within a scope, a model knows neither the losses of add_loss, since the forward pass was outside of it, nor the values
    # of regularised weights: it is told. build.py compares the result with that of an ordinary call.
    model._losses_override[:] = model.losses
    try:
        with keras.StatelessScope(state_mapping=list(zip(variables, states, strict=True))) as scope:
            loss = model.compute_loss(x=x, y=y, y_pred=predictions, sample_weight=weights, training=training)
            model.compute_metrics(x, y, predictions, sample_weight=weights)
    finally:
        model._losses_override.clear()
    after = [scope.get_current_value(variable) for variable in variables]
    return loss, [before if new is None else new for before, new in zip(states, after, strict=True)]


def metric_results(model: keras.Model, variables: Sequence[Any], states: Sequence[Any]) -> dict[str, Any]:
    """The metrics by name, without the loss, from their states."""
    with keras.StatelessScope(state_mapping=list(zip(variables, states, strict=True))):
        results = model.get_metrics_result()
    return {name: result for name, result in results.items() if name != "loss"}


def checked_names(outputs: Any, method: str) -> list[str]:
    """The names of a task's scalars.

    Raises:
        ConfigError: not a dict of scalars.
    """
    if not isinstance(outputs, dict) or not all(len(np.shape(value)) == 0 for value in outputs.values()):
        raise ConfigError(
            f"{method}() returned {type(outputs).__name__}, not scalars by name",
            remedy='Return a dict of scalar tensors: {"loss": loss}.',
        )
    return [str(name) for name in outputs]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
