"""Several replicas as one: each runs the step on the whole global batch, and only layers split it.

Within `GlobalBatch.program` every outermost call of a layer computes this replica's slice of the batch, and gives the outputs of
all slices. Whatever stands around such calls (losses, metrics, a train_step of the user's own) is computed on the global batch,
alike on every replica, so that it means what it means on one device: a loss of one number, weights, masks, a metric that is a
maximum. Gradients of variables are averaged where a tape gives them, before anything clips or looks at them, and then each
replica's optimizer makes the same update.

How gradients stay right: a value outside of layers has the same, whole gradient on every replica; a value within, which is
one replica's part, has its gradient times the number of replicas. exchange.py translates between the two, and the
mean over replicas of a variable's gradients is then the gradient that one device computes.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.optimizer import TFOptimizer  # no public name for what each backend adds
from keras.src.losses import loss as keras_loss
from keras.src.optimizers.base_optimizer import BaseOptimizer
from tensorflow.python.distribute import values as distributed_values

from trainer.errors import ConfigError
from trainer.program.exchange import (
    Kind,
    combine,
    entering,
    has_gradient,
    is_tensor,
    mean_over_replicas,
    own_rows,
    replica_id,
    rows_change,
    scaled,
    shard,
)
from trainer.replaced import replaced

log = logging.getLogger(__name__)

_SEED_STEP = 0x9E3779B1
"""The distance between the seeds of two replicas (2**32 by the golden ratio)."""


@dataclass
class _Replica:
    """What one replica's thread knows while its program is traced."""

    depth: int = 0
    """Layers within layers: 0 outside of any."""
    split: bool = False
    """Whether the outermost layer call has the replica's slice alone."""
    slices: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    """Gathered outputs by id, each beside the slice it was made of: a layer that takes it next needs no other."""
    losses: dict[int, list[Any]] = field(default_factory=dict)
    """What add_loss was given, by id of the layer. Keras' own lists are shared by the threads of all replicas of a process."""
    added: list[tuple[list[Any], int]] = field(default_factory=list)
    """Where in `losses` the present outermost call put something."""


class TraceAnew(Exception):
    """Parts of the batch cannot be put together as this program would; another trace computes it whole."""


class GlobalBatch:
    """For a strategy of several replicas; does nothing for one."""

    def __init__(self, strategy: tf.distribute.Strategy, *, same_masks: bool = False) -> None:
        """`same_masks`: random layers draw alike on every replica, each for its own slice."""
        self._replicas: int = strategy.num_replicas_in_sync
        self._same_masks = same_masks
        self.whole = False
        """Whether every replica computes all of the batch: set while a program is traced, which is then to be traced anew."""
        if self._replicas > 1:
            _read_as_numbers()
        self._threads = threading.local()

    @contextlib.contextmanager
    def program(self) -> Iterator[None]:
        """While a step's program is traced, or run eagerly."""
        if self._replicas == 1:
            yield
            return
        self._threads = threading.local()
        with contextlib.ExitStack() as stack:
            for owner, name, value in self._replacements():
                stack.enter_context(replaced(owner, name, value))
            yield

    def traced(self, trace: Callable[[], Any], anew: Callable[[], None]) -> Any:
        """What `trace` gives, which traces a step, or may do so; where it finds that every replica has to compute the whole
        batch, of a second time, after `anew` has thrown away what was traced."""
        in_parts = not self.whole
        try:
            return trace()
        except Exception:  # of a task's own train_step AutoGraph makes another one
            if not (in_parts and self.whole):
                raise
            log.warning(
                "every replica computes the whole batch: the gradient of an Embedding has other rows in each step, as ragged "
                "inputs and texts without output_sequence_length have. Padded to a fixed length each would compute its part."
            )
            anew()
            return trace()

    def joined(self, part: Any, *, inputs: bool) -> Any:
        """The global batch of which each replica has its own rows alone, on a replica, while the program is traced.

        Args:
            part: a batch (x, y, sample_weight), or x alone, of the replica's rows.
            inputs: whether something besides layers looks at x. Else the rows of others in it are no numbers: a layer takes
                the replica's own, and no x travels.

        Raises:
            ConfigError: texts would have to travel.
        """
        replica = self._replica()
        if replica is None:
            return part
        x, *beside = part if isinstance(part, tuple) else (part,)
        beside = [keras.tree.map_structure(self._rows_of_all, each) for each in beside]
        if inputs or self.whole:
            x = keras.tree.map_structure(self._rows_of_all, x)
        else:
            x = keras.tree.map_structure(lambda own: self._known_by_its_slice(replica, own), x)
        return (x, *beside) if isinstance(part, tuple) else x

    def _rows_of_all(self, own: Any) -> Any:
        if own.dtype == tf.string:
            raise ConfigError(
                "with several replicas, texts of examples that are read by number can be inputs of a model alone",
                remedy="Make numbers of them in the data's map, or give the model a layer that does, and no train_step or "
                "compute_loss of its own that looks at them.",
            )
        return combine([own], ["rows"], self._replicas)[0]

    def _known_by_its_slice(self, replica: _Replica, own: Any) -> Any:
        whole = tf.fill([own.shape[0] * self._replicas, *own.shape[1:]], _no_value(own.dtype))
        replica.slices[id(whole)] = (whole, own)
        return whole

    def first_row(self, rows: Any) -> Any:
        """Where in the global batch the first of `rows` rows stands that a layer, or what is around layers, has before it."""
        replica = self._replica() if self._replicas > 1 else None
        return tf.cast(replica_id(), tf.int64) * tf.cast(rows, tf.int64) if replica and replica.split else 0

    def _replacements(self) -> list[tuple[Any, str, Any]]:
        call, gradient, next_seed = keras.Layer.__call__, tf.GradientTape.gradient, keras.random.SeedGenerator.next
        update, add_loss = distributed_values._on_write_update_replica, keras.Layer.add_loss
        loss_scale = keras.optimizers.LossScaleOptimizer
        scale_loss = loss_scale.scale_loss
        own_losses, clear_losses = keras.Layer._get_own_losses, keras.Layer._clear_losses

        def layer_call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            return self._call(call, layer, args, kwargs)

        def tape_gradient(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            return self._averaged(sources, gradient(tape, target, sources, *args, **kwargs))

        def seed_next(seeds: Any, *args: Any, **kwargs: Any) -> Any:
            return self._own_seed(next_seed(seeds, *args, **kwargs))

        def assign(variable: Any, update_replica: Any, value: Any, **kwargs: Any) -> Any:
            replica = self._replica()
            if replica is None or replica.depth:
                return update(variable, update_replica, value, **kwargs)
            return update_replica(variable._get_on_device_or_primary(), value, **kwargs)

        def layer_add_loss(layer: Any, loss: Any) -> None:
            if (replica := self._replica()) is None:
                add_loss(layer, loss)
                return
            for each in keras.tree.flatten(loss):
                own = replica.losses.setdefault(id(layer), [])
                replica.added.append((own, len(own)))
                own.append(tf.convert_to_tensor(each))

        def layer_own_losses(layer: Any) -> list[Any]:
            replica = self._replica()
            return own_losses(layer) if replica is None else list(replica.losses.get(id(layer), ()))

        def layer_clear_losses(layer: Any) -> None:
            if (replica := self._replica()) is None:
                clear_losses(layer)
                return
            for each in layer._flatten_layers():
                replica.losses.pop(id(each), None)

        def apply_scaled(optimizer: Any, gradients: Any, variables: Any = None) -> None:
            own = variables or optimizer._trainable_variables
            times_replicas = [
                each
                if each is None or optimizer._overwrite_variable_with_gradient(variable)
                else scaled(each, self._replicas)
                for each, variable in zip(gradients, own, strict=True)
            ]
            optimizer._common_apply(times_replicas, variables)

        optimizers = [(TFOptimizer, name, getattr(BaseOptimizer, name)) for name in _BY_ONE_DEVICE]
        return [
            (keras.Layer, "__call__", layer_call),
            (keras.Layer, "add_loss", layer_add_loss),
            (keras.Layer, "_get_own_losses", layer_own_losses),
            (keras.Layer, "_clear_losses", layer_clear_losses),
            (tf.GradientTape, "gradient", tape_gradient),
            (keras.random.SeedGenerator, "next", seed_next),
            # What the aggregation of a variable would combine is equal on all replicas already.
            (distributed_values, "_on_write_update_replica", assign),
            *optimizers,
            # Gradients within a replica's part are times the number of replicas: without this they would overflow the earlier.
            (loss_scale, "scale_loss", lambda optimizer, loss: scale_loss(optimizer, loss) / self._replicas),
            (loss_scale, "_tf_apply", apply_scaled),
            # Keras' losses are the global batch's: no replica's share has to be made of them.
            (keras_loss, "scale_loss_for_distribution", lambda value: value),
            (keras_loss, "unscale_loss_for_distribution", lambda value: value),
            (tf.nn, "scale_regularization_loss", lambda value: tf.reduce_sum(value)),
        ]

    def _replica(self) -> _Replica | None:
        """This thread's replica; None outside of strategy.run, where other threads and cross-replica code are."""
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync != self._replicas:
            return None
        replica = getattr(self._threads, "replica", None)
        if replica is None:
            replica = self._threads.replica = _Replica()
        return replica

    def _call(self, call: Callable[..., Any], layer: Any, args: Any, kwargs: Any) -> Any:
        replica = self._replica()
        size = _batch_size((args, kwargs))
        if replica is None or replica.depth:
            outputs = call(layer, *args, **kwargs)
            # A gradient of a known number of rows stays what it is on one device: a row for each lookup (rows_change).
            return _with_known_rows(outputs, size) if replica and isinstance(layer, _KEEP_ROWS) else outputs
        split = size is not None and size % self._replicas == 0 and not self.whole
        replica.depth, replica.split, replica.added = 1, split, []
        try:
            if not replica.split:
                # The same on every replica, hence right, at the price of doing it all.
                return call(layer, *args, **kwargs)
            assert size is not None
            metrics = _Metrics(layer)
            args, kwargs = keras.tree.map_structure(lambda value: self._slice(replica, value, size), (args, kwargs))
            outputs = call(layer, *args, **kwargs)
            return self._whole(replica, layer, outputs, size // self._replicas, metrics)
        finally:
            replica.depth, replica.split = 0, False

    def _slice(self, replica: _Replica, value: Any, size: int) -> Any:
        """This replica's part of an argument; all of what has no batch dimension."""
        if id(value) in replica.slices:
            return replica.slices[id(value)][1]
        if not is_tensor(value):
            return value
        if value.shape.rank == 0 or value.shape[0] != size:
            return entering(value, self._replicas) if has_gradient(value) else value
        part = shard(value, self._replicas) if has_gradient(value) else own_rows(value, self._replicas)
        mask = getattr(value, "_keras_mask", None)
        if mask is not None:
            part._keras_mask = own_rows(tf.convert_to_tensor(mask), self._replicas)
        return part

    def _whole(self, replica: _Replica, layer: Any, outputs: Any, size: int, metrics: "_Metrics") -> Any:
        """The outputs for the global batch. What layers added to the loss, and to metrics of theirs, is combined on the way."""
        leaves = [_with_rows(layer, leaf, size) for leaf in keras.tree.flatten(outputs)]
        kinds: list[Kind] = []
        tensors: list[Any] = []

        def add(value: Any, kind: Kind) -> int:
            tensors.append(value)
            kinds.append(kind)
            return len(tensors) - 1

        places: list[tuple[int | None, int | None]] = []
        for leaf in leaves:
            if not is_tensor(leaf):
                places.append((None, None))
                continue
            mask = getattr(leaf, "_keras_mask", None)
            rows = bool(leaf.shape.rank) and leaf.shape[0] == size
            if not rows and not leaf.dtype.is_floating:
                places.append((None, None))
                continue
            places.append(
                (
                    add(leaf, "rows" if rows else "mean"),
                    add(tf.convert_to_tensor(mask), "rows") if mask is not None and rows else None,
                )
            )
        added = list(replica.added)
        losses = [add(own[at], "mean") for own, at in added]
        changes = [add(change, "sum") for change in metrics.changes()]
        combined = combine(tensors, kinds, self._replicas)
        for (own, at), place in zip(added, losses, strict=True):
            own[at] = combined[place]
        metrics.set_changes([combined[place] for place in changes])
        whole = []
        for leaf, (at_leaf, at_mask) in zip(leaves, places, strict=True):
            value = leaf if at_leaf is None else combined[at_leaf]
            if at_mask is not None:
                value._keras_mask = combined[at_mask]
            if at_leaf is not None and kinds[at_leaf] == "rows":
                replica.slices[id(value)] = (value, leaf)
            whole.append(value)
        return keras.tree.pack_sequence_as(outputs, whole)

    def _averaged(self, sources: Any, gradients: Any) -> Any:
        """The gradients of variables, averaged over replicas; those of anything else as they are."""
        replica = self._replica()
        if replica is None or replica.depth:
            return gradients
        leaves = tf.nest.flatten(gradients)
        chosen = [
            index
            for index, (source, leaf) in enumerate(zip(tf.nest.flatten(sources), leaves, strict=True))
            if leaf is not None and isinstance(source, tf.Variable | keras.Variable)
        ]
        if any(rows_change(leaves[index]) for index in chosen) and not self.whole:
            self.whole = True
            raise TraceAnew
        # Computed whole, such a gradient is the same on every replica.
        chosen = [index for index in chosen if not rows_change(leaves[index])]
        for index, mean in zip(chosen, mean_over_replicas([leaves[at] for at in chosen], self._replicas), strict=True):
            leaves[index] = mean
        return tf.nest.pack_sequence_as(gradients, leaves)

    def _own_seed(self, seed: Any) -> Any:
        replica = self._replica()
        if replica is None or not replica.split or self._same_masks:
            return seed
        # The generator's state stays the same on all replicas, so that a checkpoint fits any number of them.
        shift = tf.cast(tf.cast(replica_id(), tf.int64) * _SEED_STEP % (1 << 31), seed.dtype)
        return seed + tf.stack([shift, tf.zeros_like(shift)])


def _no_value(dtype: tf.DType) -> Any:
    """What shows where somebody computes with it: not a number, or the largest one. Texts and booleans have none such."""
    if dtype.is_floating or dtype.is_complex:
        return tf.constant(float("nan"), dtype)
    return tf.constant(dtype.max, dtype) if dtype.is_integer else tf.zeros([], dtype)


_BY_ONE_DEVICE = (
    "_apply_weight_decay",
    "_backend_update_step",
    "_backend_increment_gradient_accumulators",
    "_overwrite_model_variables_with_average_value",
)
"""What Keras' optimizers do in the strategy's way, with a merge of all replicas: each by itself now."""


class _Metrics:
    """The metrics that a layer and those within it own, around a call of it."""

    def __init__(self, layer: Any) -> None:
        metrics = [metric for each in layer._flatten_layers() for metric in each._metrics]
        self._variables = [variable for metric in metrics for variable in metric.variables]
        self._before = [tf.identity(variable.value) for variable in self._variables]

    def changes(self) -> list[Any]:
        """By how much each state has changed. Keras' own metrics add, so these can be added up over replicas."""
        return [variable.value - before for variable, before in zip(self._variables, self._before, strict=True)]

    def set_changes(self, changes: list[Any]) -> None:
        for variable, before, change in zip(self._variables, self._before, changes, strict=True):
            variable.assign(before + change)


def _read_as_numbers() -> None:
    """Let int(optimizer.iterations) and the like, as callbacks have it, work for a variable with a copy on each replica."""
    kind = distributed_values.DistributedVariable
    if not hasattr(kind, "__int__"):
        kind.__int__ = lambda variable: int(variable._get_on_device_or_primary().numpy())
        kind.__float__ = lambda variable: float(variable._get_on_device_or_primary().numpy())


def _batch_size(arguments: Any) -> int | None:
    """The first dimension of the first tensor that has one, where those of all are known."""
    sizes = [leaf.shape[0] for leaf in keras.tree.flatten(arguments) if is_tensor(leaf) and leaf.shape.rank != 0]
    return None if None in sizes or not sizes else sizes[0]


_KEEP_ROWS = (
    keras.layers.TextVectorization,
    keras.layers.StringLookup,
    keras.layers.IntegerLookup,
    keras.layers.Hashing,
)
"""Layers with a row of output for each of input that lose its number."""


def _with_known_rows(output: Any, size: int | None) -> Any:
    """The output of such a layer, with the number of rows in its shape where the other dimensions are known."""
    unknown = isinstance(output, tf.Tensor) and output.shape.rank and output.shape[0] is None
    if size is None or not unknown or None in output.shape[1:]:
        return output
    return tf.ensure_shape(output, (size, *output.shape[1:]))


def _with_rows(layer: Any, output: Any, size: int) -> Any:
    """An output of a layer for `size` rows, with that number in its shape."""
    if not is_tensor(output) or (isinstance(output, tf.Tensor) and output.shape.is_fully_defined()):
        return output
    if not isinstance(output, tf.Tensor) or output.shape.rank is None or None in output.shape[1:]:
        kind = f"shape {output.shape}" if isinstance(output, tf.Tensor) else f"a {type(output).__name__}"
        raise ConfigError(
            f"the layer {layer.name} gives {kind}: several replicas can only put together rows of one known length",
            remedy="Give it a fixed length (as output_sequence_length does), call it within a layer or model whose output has "
            "one, or train with one worker and one device.",
        )
    known = tf.ensure_shape(output, (size, *output.shape[1:]))
    mask = getattr(output, "_keras_mask", None)
    if mask is not None:
        known._keras_mask = tf.ensure_shape(tf.convert_to_tensor(mask), known.shape[: mask.shape.rank])
    return known
