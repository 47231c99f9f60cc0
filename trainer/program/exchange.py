"""What replicas pass each other within a program: rows, means and sums, with gradients that stay right.

A value outside of layers has the same, whole gradient on every replica; a value within, which is one replica's part, has its
gradient times the number of replicas. `combine` and `shard` translate between the two.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from trainer.data.order import replica_slice

_PACKED_BYTES = 1 << 20
"""Gradients up to this size travel together: a collective of its own for each costs more than the copy."""

Kind = Literal["rows", "mean", "sum"]


def is_tensor(value: Any) -> bool:
    """Whether it is one of the three kinds of TensorFlow."""
    return isinstance(value, tf.Tensor | tf.RaggedTensor | tf.SparseTensor)


def has_gradient(value: Any) -> bool:
    """Whether one can flow through it."""
    return isinstance(value, tf.Tensor) and (value.dtype.is_floating or value.dtype.is_complex)


def replica_id() -> Any:
    """Which replica runs this; a tensor."""
    return tf.distribute.get_replica_context().replica_id_in_sync_group


def on_first_replica(strategy: tf.distribute.Strategy, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run on every replica; what the first of this process gives, since all give the same. In cross-replica context."""
    outputs = strategy.run(function, arguments)
    return keras.tree.map_structure(lambda value: strategy.experimental_local_results(value)[0], outputs)


def own_rows(value: Any, replicas: int) -> Any:
    """This replica's part of the rows, whose number all replicas divide."""
    size = value.shape[0] // replicas
    own = replica_slice(tf.cast(replica_id(), tf.int32), replicas, value.shape[0])
    if isinstance(value, tf.SparseTensor):
        shape = value.shape.as_list()
        begin = tf.concat([[tf.cast(own.start, tf.int64)], tf.zeros(len(shape) - 1, tf.int64)], 0)
        return tf.sparse.slice(value, begin, [size, *shape[1:]])
    if isinstance(value, tf.RaggedTensor):
        return value[own]
    part = value[own]
    part.set_shape([size, *value.shape[1:]])
    return part


def shard(value: Any, replicas: int) -> Any:
    """This replica's rows of a value that is the same on all."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def of_whole(whole: Any) -> Any:
        return own_rows(whole, replicas), lambda upstream: combine([upstream], ["rows"], replicas)[0] / replicas

    return of_whole(value)


def entering(value: Any, replicas: int) -> Any:
    """A value without a batch dimension on its way into a replica's part."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def enter(whole: Any) -> Any:
        return tf.identity(whole), lambda upstream: combine([upstream], ["mean"], replicas)[0]

    return enter(value)


def combine(values: Sequence[Any], kinds: Sequence[Kind], replicas: int) -> list[Any]:
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


def _exchange(values: list[Any], kinds: list[Kind], travels: tf.DType, replicas: int) -> list[Any]:
    if travels == tf.int64:
        return _summed(values, kinds, travels, replicas)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def exchange(*parts: Any) -> Any:
        def backward(*upstream: Any) -> list[Any]:
            # A replica's part has its gradient times the number of replicas (see the top): of a mean that is all of it.
            return [
                shard(gradient, replicas) * replicas if kind == "rows" else gradient
                for gradient, kind in zip(upstream, kinds, strict=True)
            ]

        return _summed(list(parts), kinds, travels, replicas), backward

    return list(exchange(*values))


def _summed(values: list[Any], kinds: list[Kind], travels: tf.DType, replicas: int) -> list[Any]:
    """Everything in one vector, in which each replica fills the places of its own rows, summed."""
    pieces = []
    for value, kind in zip(values, kinds, strict=True):
        flat = tf.reshape(tf.cast(value, travels), [-1])
        if kind == "rows":
            size, at = flat.shape[0], tf.cast(replica_id(), tf.int32)
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


def mean_over_replicas(gradients: list[Any], replicas: int) -> list[Any]:
    """The mean of each; small dense ones travel as one."""
    packs: dict[tf.DType, list[int]] = {}
    alone: list[int] = []
    for index, gradient in enumerate(gradients):
        size = gradient.dtype.size * (gradient.shape.num_elements() or _PACKED_BYTES) if is_tensor(gradient) else 0
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
    reduced = [scaled(total, 1.0 / replicas) for total in _all_reduce(sent)]
    for pack, total in zip(packed, reduced[: len(packed)], strict=True):
        sizes = [gradients[index].shape.num_elements() for index in pack]
        for index, piece in zip(pack, tf.split(total, sizes), strict=True):
            means[index] = tf.reshape(piece, gradients[index].shape)
    for index, total in zip(alone, reduced[len(packed) :], strict=True):
        means[index] = total
    return means


def rows_change(gradient: Any) -> bool:
    """Whether replicas may have it of several numbers of rows, as of ragged inputs to an Embedding, which no collective gathers.
    To add up the rows of each id is no way out: optimizers such as Adam take them one by one."""
    return isinstance(gradient, tf.IndexedSlices) and gradient.values.shape[0] is None


def _all_reduce(values: list[Any]) -> list[Any]:
    context = tf.distribute.get_replica_context()
    # The identity puts a value on the replica's device; without one, TensorFlow finds no destination for the sum.
    sent = [value if isinstance(value, tf.IndexedSlices) else tf.identity(value) for value in values]
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, sent))


def scaled(value: Any, factor: float) -> Any:
    """A gradient times a number, dense or by rows."""
    if isinstance(value, tf.IndexedSlices):
        return tf.IndexedSlices(value.values * factor, value.indices, value.dense_shape)
    return value * tf.cast(factor, value.dtype)
