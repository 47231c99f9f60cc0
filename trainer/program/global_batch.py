"""Several replicas as one: each runs the step on the whole global batch, and only layers split it.

Within `GlobalBatch.program` every outermost call of a layer computes this replica's slice of the batch, and gives the outputs of
all slices. Whatever stands around such calls (losses, metrics, a train_step of the user's own) is computed on the global batch,
alike on every replica, so that it means what it means on one device: a loss of one number, weights, masks, a metric that is a
maximum. Gradients of variables are averaged where a tape gives them, before anything clips or looks at them, and then each
replica's optimizer makes the same update.

How gradients stay right: a value outside of layers has the same, whole gradient on every replica; a value within, which is
one replica's part, has its gradient times the number of replicas. `_exchange` and `_shard` translate between the two, and the
mean over replicas of a variable's gradients is then the gradient that one device computes.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.optimizer import TFOptimizer  # no public name for what each backend adds
from keras.src.losses import loss as keras_loss
from keras.src.optimizers.base_optimizer import BaseOptimizer
from tensorflow.python.distribute import values as distributed_values

from trainer.data.order import replica_slice
from trainer.errors import ConfigError
from trainer.replaced import replaced

_PACKED_BYTES = 1 << 20
"""Gradients up to this size travel together: a collective of its own for each costs more than the copy."""
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

    def first_row(self, rows: Any) -> Any:
        """Where in the global batch the first of `rows` rows stands that a layer, or what is around layers, has before it."""
        replica = self._replica() if self._replicas > 1 else None
        return tf.cast(_replica_id(), tf.int64) * tf.cast(rows, tf.int64) if replica and replica.split else 0

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
            scaled = [
                each
                if each is None or optimizer._overwrite_variable_with_gradient(variable)
                else _scaled(each, self._replicas)
                for each, variable in zip(gradients, own, strict=True)
            ]
            optimizer._common_apply(scaled, variables)

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
            # A gradient of a known number of rows stays what it is on one device: a row for each lookup (_rows_change).
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
        if not _is_tensor(value):
            return value
        if value.shape.rank == 0 or value.shape[0] != size:
            return _entering(value, self._replicas) if _has_gradient(value) else value
        part = _shard(value, self._replicas) if _has_gradient(value) else _own_rows(value, self._replicas)
        mask = getattr(value, "_keras_mask", None)
        if mask is not None:
            part._keras_mask = _own_rows(tf.convert_to_tensor(mask), self._replicas)
        return part

    def _whole(self, replica: _Replica, layer: Any, outputs: Any, size: int, metrics: "_Metrics") -> Any:
        """The outputs for the global batch. What layers added to the loss, and to metrics of theirs, is combined on the way."""
        leaves = [_with_rows(layer, leaf, size) for leaf in keras.tree.flatten(outputs)]
        kinds: list[_Kind] = []
        tensors: list[Any] = []

        def add(value: Any, kind: _Kind) -> int:
            tensors.append(value)
            kinds.append(kind)
            return len(tensors) - 1

        places: list[tuple[int | None, int | None]] = []
        for leaf in leaves:
            if not _is_tensor(leaf):
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
        combined = _combine(tensors, kinds, self._replicas)
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
        if any(_rows_change(leaves[index]) for index in chosen) and not self.whole:
            self.whole = True
            raise TraceAnew
        # Computed whole, such a gradient is the same on every replica.
        chosen = [index for index in chosen if not _rows_change(leaves[index])]
        for index, mean in zip(chosen, _mean_over_replicas([leaves[at] for at in chosen], self._replicas), strict=True):
            leaves[index] = mean
        return tf.nest.pack_sequence_as(gradients, leaves)

    def _own_seed(self, seed: Any) -> Any:
        replica = self._replica()
        if replica is None or not replica.split or self._same_masks:
            return seed
        # The generator's state stays the same on all replicas, so that a checkpoint fits any number of them.
        shift = tf.cast(tf.cast(_replica_id(), tf.int64) * _SEED_STEP % (1 << 31), seed.dtype)
        return seed + tf.stack([shift, tf.zeros_like(shift)])


_BY_ONE_DEVICE = (
    "_apply_weight_decay",
    "_backend_update_step",
    "_backend_increment_gradient_accumulators",
    "_overwrite_model_variables_with_average_value",
)
"""What Keras' optimizers do in the strategy's way, with a merge of all replicas: each by itself now."""

_Kind = Literal["rows", "mean", "sum"]


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


def _is_tensor(value: Any) -> bool:
    return isinstance(value, tf.Tensor | tf.RaggedTensor | tf.SparseTensor)


def _has_gradient(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and (value.dtype.is_floating or value.dtype.is_complex)


def _batch_size(arguments: Any) -> int | None:
    """The first dimension of the first tensor that has one, where those of all are known."""
    sizes = [leaf.shape[0] for leaf in keras.tree.flatten(arguments) if _is_tensor(leaf) and leaf.shape.rank != 0]
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
    if not _is_tensor(output) or (isinstance(output, tf.Tensor) and output.shape.is_fully_defined()):
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


def _replica_id() -> Any:
    return tf.distribute.get_replica_context().replica_id_in_sync_group


def _own_rows(value: Any, replicas: int) -> Any:
    size = value.shape[0] // replicas
    own = replica_slice(tf.cast(_replica_id(), tf.int32), replicas, value.shape[0])
    if isinstance(value, tf.SparseTensor):
        shape = value.shape.as_list()
        begin = tf.concat([[tf.cast(own.start, tf.int64)], tf.zeros(len(shape) - 1, tf.int64)], 0)
        return tf.sparse.slice(value, begin, [size, *shape[1:]])
    if isinstance(value, tf.RaggedTensor):
        return value[own]
    part = value[own]
    part.set_shape([size, *value.shape[1:]])
    return part


def _shard(value: Any, replicas: int) -> Any:
    """This replica's rows of a value that is the same on all."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def shard(whole: Any) -> Any:
        return _own_rows(whole, replicas), lambda upstream: _combine([upstream], ["rows"], replicas)[0] / replicas

    return shard(value)


def _entering(value: Any, replicas: int) -> Any:
    """A value without a batch dimension on its way into a replica's part."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def enter(whole: Any) -> Any:
        return tf.identity(whole), lambda upstream: _combine([upstream], ["mean"], replicas)[0]

    return enter(value)


def _combine(values: Sequence[Any], kinds: Sequence[_Kind], replicas: int) -> list[Any]:
    """Over all replicas: their rows one below the other, or the mean, or the sum. One collective for each type of number."""
    outputs: dict[int, Any] = {}
    for travels in (tf.float32, tf.float64, tf.int64):
        chosen = [index for index, value in enumerate(values) if _travels_as(value.dtype) == travels]
        if chosen:
            part = [values[index] for index in chosen]
            outputs |= zip(chosen, _exchange(part, [kinds[index] for index in chosen], travels, replicas), strict=True)
    return [outputs[index] for index in range(len(values))]


def _travels_as(dtype: tf.DType) -> tf.DType:
    if dtype == tf.float64:
        return tf.float64
    return tf.float32 if dtype.is_floating else tf.int64


def _exchange(values: list[Any], kinds: list[_Kind], travels: tf.DType, replicas: int) -> list[Any]:
    if travels == tf.int64:
        return _summed(values, kinds, travels, replicas)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def exchange(*parts: Any) -> Any:
        def backward(*upstream: Any) -> list[Any]:
            # A replica's part has its gradient times the number of replicas (see above): of a mean that is all of it.
            return [
                _shard(gradient, replicas) * replicas if kind == "rows" else gradient
                for gradient, kind in zip(upstream, kinds, strict=True)
            ]

        return _summed(list(parts), kinds, travels, replicas), backward

    return list(exchange(*values))


def _summed(values: list[Any], kinds: list[_Kind], travels: tf.DType, replicas: int) -> list[Any]:
    """Everything in one vector, in which each replica fills the places of its own rows, summed."""
    pieces = []
    for value, kind in zip(values, kinds, strict=True):
        flat = tf.reshape(tf.cast(value, travels), [-1])
        if kind == "rows":
            size, at = flat.shape[0], tf.cast(_replica_id(), tf.int32)
            flat = tf.pad(flat, [[at * size, (replicas - 1 - at) * size]])
            flat = tf.reshape(flat, [replicas * size])
        pieces.append(flat)
    total = _all_reduce([tf.concat(pieces, 0)])[0]
    results = []
    for value, kind, piece in zip(values, kinds, tf.split(total, [piece.shape[0] for piece in pieces]), strict=True):
        shape = value.shape.as_list()
        if kind == "rows":
            shape[0] *= replicas
        elif kind == "mean":
            piece = piece / replicas
        results.append(tf.cast(tf.reshape(piece, shape), value.dtype))
    return results


def _mean_over_replicas(gradients: list[Any], replicas: int) -> list[Any]:
    """The mean of each; small dense ones travel as one."""
    packs: dict[tf.DType, list[int]] = {}
    alone: list[int] = []
    for index, gradient in enumerate(gradients):
        size = gradient.dtype.size * (gradient.shape.num_elements() or _PACKED_BYTES) if _is_tensor(gradient) else 0
        if 0 < size <= _PACKED_BYTES:
            packs.setdefault(gradient.dtype, []).append(index)
        else:
            alone.append(index)
    packed = list(packs.values())
    sent = [tf.concat([tf.reshape(gradients[index], [-1]) for index in pack], 0) for pack in packed]
    sent += [gradients[index] for index in alone]
    if not sent:
        return []
    means = list(gradients)
    reduced = [_scaled(total, 1.0 / replicas) for total in _all_reduce(sent)]
    for pack, total in zip(packed, reduced[: len(packed)], strict=True):
        sizes = [gradients[index].shape.num_elements() for index in pack]
        for index, piece in zip(pack, tf.split(total, sizes), strict=True):
            means[index] = tf.reshape(piece, gradients[index].shape)
    for index, total in zip(alone, reduced[len(packed) :], strict=True):
        means[index] = total
    return means


def _rows_change(gradient: Any) -> bool:
    """Whether replicas may have it of several numbers of rows, as of ragged inputs to an Embedding, which no collective gathers.
    To add up the rows of each id is no way out: optimizers such as Adam take them one by one."""
    return isinstance(gradient, tf.IndexedSlices) and gradient.values.shape[0] is None


def _all_reduce(values: list[Any]) -> list[Any]:
    context = tf.distribute.get_replica_context()
    # The identity puts a value on the replica's device; without one, TensorFlow finds no destination for the sum.
    sent = [value if isinstance(value, tf.IndexedSlices) else tf.identity(value) for value in values]
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, sent))


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, tf.IndexedSlices):
        return tf.IndexedSlices(value.values * factor, value.indices, value.dense_shape)
    return value * tf.cast(factor, value.dtype)
