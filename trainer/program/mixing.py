"""Layers whose result for a row depends on the other rows of the batch: told before several replicas divide it.

A replica's layers see its part of the global batch alone (global_batch.py). A layer that takes a mean over the batch, or
adds a sum over it to the loss, gives then something else than on one device. Found by trying: the step is run once without
compiling it, up to where it asks for gradients; each outermost call of a layer is made with the whole batch, and with its parts.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.optimizers.base_optimizer import BaseOptimizer

from trainer.checkpoint.replicas import Replicas, put_back
from trainer.data.sources import ArraySource, Batch, Source
from trainer.errors import ConfigError
from trainer.model.reach import Reached
from trainer.replaced import replaced
from trainer.task import Task, overrides

log = logging.getLogger(__name__)

_TOLERANCE = 1e-3
_TOLERANCE_HALF = 5e-2
"""Relative to the largest number: of float16 and bfloat16."""
_REMEDY = (
    "Compute it outside of layers, where every replica sees the whole batch (in the loss, compute_loss or a train_step), "
    "or train with one worker and one device."
)


class _Seen(BaseException):
    """The step has come to its gradients: no handler of the user's own is to take this for an error."""


def check_rows(
    strategy: Any, replicas: int, task: Task, model: keras.Model, source: Source, size: int, reached: Reached
) -> None:
    """Try the step on the first `size` examples, as `replicas` would divide them. Everything that it changes is put back.

    Raises:
        ConfigError: a layer mixes the rows of a batch.
    """
    own = overrides(task, "train_step")
    step = (lambda batch: task.train_step(model, model.optimizer, batch)) if own else model.train_step
    check_batch_rows(strategy, replicas, step, keras.tree.map_structure(_tensor, _varied(source, size)), model, reached)


def check_batch_rows(
    strategy: Any, replicas: int, step: Callable[[Any], Any], batch: Any, model: keras.Model, reached: Reached
) -> None:
    """The same of one batch of tensors."""
    parts = next(number for number in range(2, replicas + 1) if replicas % number == 0)
    changing = _changing(Replicas(strategy), model, reached)
    trial = _Trial(parts, changing)
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        with put_back(changing), trial.program():
            step(batch)
    except _Seen:
        pass
    except Exception as error:
        # If the step cannot be run at all, it will say so itself, where it can be explained.
        log.info("whether a layer mixes the rows of a batch could not be tried: %s", str(error).split("\n", 1)[0][:200])
    finally:
        tf.config.run_functions_eagerly(eagerly)
    if trial.found is not None:
        raise trial.found


class _Trial:
    """Calls of layers, each compared with the calls on parts of its batch."""

    def __init__(self, parts: int, changing: Sequence[tf.Variable]) -> None:
        """`changing`: what a call may change."""
        self._parts, self._changing = parts, changing
        self._within = False
        self.found: ConfigError | None = None

    @contextlib.contextmanager
    def program(self) -> Iterator[None]:
        call = keras.Layer.__call__

        def layer_call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if _differs_by_itself(layer) and layer._call_has_training_arg:
                kwargs["training"] = False
            if self._within:
                return call(layer, *args, **kwargs)
            self._within = True
            try:
                return self._compared(lambda args, kwargs: call(layer, *args, **kwargs), layer, args, kwargs)
            finally:
                self._within = False

        def stop(*args: Any, **kwargs: Any) -> Any:
            raise _Seen

        with (
            replaced(keras.Layer, "__call__", layer_call),
            replaced(tf.GradientTape, "gradient", stop),
            replaced(BaseOptimizer, "apply", stop),
        ):
            yield

    def _compared(self, call: Any, layer: Any, args: Any, kwargs: Any) -> Any:
        leaves = [leaf for leaf in keras.tree.flatten((args, kwargs)) if _has_rows(leaf)]
        if not leaves or leaves[0].shape[0] % self._parts:
            return call(args, kwargs)
        size = leaves[0].shape[0]
        kept = list(layer.non_trainable_weights)
        # Seeds, which are integers, go on: what is drawn is told by its being another number in each call.
        changing = [variable for variable in self._changing if variable.dtype.is_floating]
        before = [tf.identity(variable) for variable in changing]

        def tried(args: Any, kwargs: Any) -> tuple[Any, list[Any], list[Any]]:
            """A call from the same state as any other: what it gives, adds to the loss, and makes of the state."""
            for variable, value in zip(changing, before, strict=True):
                variable.assign(value)
            outputs = call(args, kwargs)
            return outputs, list(layer.losses), [tf.identity(variable.value) for variable in kept]

        again, again_losses, again_state = tried(args, kwargs)
        whole, losses, state = tried(args, kwargs)
        outputs, added, states = [], [], []
        for part in range(self._parts):
            rows = slice(part * size // self._parts, (part + 1) * size // self._parts)
            sliced = keras.tree.map_structure(
                lambda leaf, rows=rows: leaf[rows] if _has_rows(leaf) and leaf.shape[0] == size else leaf,
                (args, kwargs),
            )
            of_part = tried(*sliced)
            outputs.append(keras.tree.flatten(of_part[0]))
            added.append(of_part[1])
            states.append(of_part[2])
        # What differs between two calls with the same batch draws numbers: nothing to compare.
        for loss, twice, of_parts in zip(losses, again_losses, zip(*added, strict=True), strict=True):
            if not _difference(loss, twice):
                self._compare_loss(layer, loss, of_parts)
        for variable, after, twice, of_parts in zip(kept, state, again_state, zip(*states, strict=True), strict=True):
            if after.dtype.is_floating and not _difference(after, twice):
                self._compare_state(layer, variable, after, of_parts)
        rows_of = zip(keras.tree.flatten(whole), keras.tree.flatten(again), zip(*outputs, strict=True), strict=True)
        for leaf, twice, of_parts in rows_of:
            if isinstance(leaf, tf.Tensor) and not _difference(leaf, twice):
                self._compare_output(layer, leaf, of_parts, size)
        return whole

    def _compare_loss(self, layer: Any, loss: Any, parts: Sequence[Any]) -> None:
        mean = tf.add_n([tf.cast(each, loss.dtype) for each in parts]) / self._parts
        if _difference(loss, mean):
            self._tell(
                f"the layer {layer.name}, or one within it, adds {float(loss):.4g} to the loss of a batch, and "
                f"{float(mean):.4g} on average to that of each of its {self._parts} parts, which several replicas train on",
                "Add a mean over the batch (tf.reduce_mean), no sum. " + _REMEDY,
            )

    def _compare_state(self, layer: Any, variable: Any, after: Any, parts: Sequence[Any]) -> None:
        """What replicas keep apart is saved for each, and exported as their mean."""
        if _difference(after, tf.add_n(list(parts)) / self._parts):
            self._tell(
                f"the layer {layer.name}, or one within it, keeps something of a batch in {variable.path} that is no mean over "
                "its rows, and several replicas divide the batch",
                _REMEDY,
            )

    def _compare_output(self, layer: Any, leaf: Any, parts: Sequence[Any], size: int) -> None:
        if leaf.shape.rank and leaf.shape[0] == size:
            same_form = all(part.shape[0] * self._parts == size for part in parts)
            if not same_form or _difference(leaf, tf.concat(parts, 0)):
                self._tell(
                    f"the layer {layer.name}, or one within it, gives a row of the batch another result when other rows are "
                    "beside it, and several replicas divide the batch",
                    "Of Keras' own BatchNormalization that is known, and synchronized=True makes it the whole batch's. "
                    + _REMEDY,
                )
        elif any(part.shape != leaf.shape for part in parts):
            self._tell(
                f"the layer {layer.name} gives an output of shape {tuple(leaf.shape)} for {size} rows: several replicas cannot "
                "put theirs together",
                "Give it one row for each of its input as its first dimension. " + _REMEDY,
            )
        else:
            mean = tf.add_n(list(parts)) / self._parts if leaf.dtype.is_floating else parts[0]
            if _difference(leaf, mean):
                self._tell(
                    f"the layer {layer.name} gives one output for a whole batch, which is no mean over its rows, and several "
                    "replicas divide the batch",
                    _REMEDY,
                )

    def _tell(self, what: str, remedy: str) -> None:
        self.found = ConfigError(what, remedy=remedy)
        raise _Seen


def _differs_by_itself(layer: Any) -> bool:
    """Keras' own layers that draw numbers, or take means over a batch, in training: known, and not what is looked for."""
    keras_own = type(layer).__module__.startswith("keras.")
    return keras_own and (not layer._layers or isinstance(layer, keras.layers.SpectralNormalization))


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, tf.Tensor | tf.RaggedTensor) and bool(leaf.shape.rank) and leaf.shape[0] is not None


def _difference(one: Any, other: Any) -> bool:
    """Whether two tensors of one shape differ by more than another order of sums would give."""
    if not (one.dtype.is_floating or one.dtype.is_complex):
        return not np.array_equal(one.numpy(), other.numpy())
    wide = np.complex128 if one.dtype.is_complex else np.float64
    a, b = np.asarray(one).astype(wide), np.asarray(other).astype(wide)
    tolerance = _TOLERANCE_HALF if one.dtype.size == 2 else _TOLERANCE
    finite = np.isfinite(a) & np.isfinite(b)
    return bool(finite.any() and np.abs(a - b)[finite].max() > tolerance * np.abs(a[finite]).max())


def _varied(source: Source, size: int) -> Batch:
    """A batch whose rows differ: of a stream, whose first example alone is known, by dividing it."""
    batch = source.sample(size)
    if isinstance(source, ArraySource):
        return batch

    def vary(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "iuf":
            return leaf
        by = (1 + np.arange(len(leaf)) % 3).reshape(-1, *[1] * (leaf.ndim - 1))
        return (leaf / by if leaf.dtype.kind == "f" else leaf // by).astype(leaf.dtype)

    return keras.tree.map_structure(vary, batch)


def _tensor(leaf: Any) -> Any:
    return leaf if leaf is None or isinstance(leaf, tf.SparseTensor | tf.RaggedTensor) else tf.convert_to_tensor(leaf)


def _changing(replicas: Replicas, model: keras.Model, reached: Reached) -> list[tf.Variable]:
    """The plain variables that a step may change before it has gradients: all but what is trained, and optimizers'."""
    of_optimizers = [variable for optimizer in reached.optimizers for variable in optimizer.variables]
    later = {id(variable.value) for variable in [*model.trainable_variables, *of_optimizers]}
    metrics = [variable for metric in [*model.metrics, *reached.metrics] for variable in metric.variables]
    return [
        component
        for variable in [*reached.variables.values(), *metrics]
        if id(variable.value if isinstance(variable, keras.Variable) else variable) not in later
        for component in replicas.components(variable)
    ]
