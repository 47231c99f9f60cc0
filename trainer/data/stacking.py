"""Batches of equal shape stacked into a table with room for a fixed number of steps, and one step's batch picked from it."""

from typing import Any

import numpy as np

from trainer.data.kinds import Batch


def shape_of(batch: Batch) -> tuple[Any, ...]:
    """What batches must agree in to be stacked. Of what is ragged, only its first dimension counts."""
    import keras

    return tuple(_shape(leaf) for leaf in keras.tree.flatten(batch))


def stack_batches(batches: list[Batch], capacity: int) -> Any:
    """A table of at least one batch: on the first dimension of each array `capacity` steps, of which the last are empty."""
    import keras

    return keras.tree.map_structure(lambda *leaves: _stacked(leaves, capacity), *batches)


def pick_batch(table: Any, step: Any) -> Batch:
    """Within a program: the batch of the table's `step`-th step."""
    import keras

    return keras.tree.map_structure(lambda leaf: _picked(leaf, step), table)


def _shape(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, np.ndarray):
        return leaf.shape, "text" if leaf.dtype.kind in "OSU" else leaf.dtype.name
    if hasattr(leaf, "flat_values"):
        return int(leaf.shape[0]), tuple(leaf.flat_values.shape[1:]), leaf.ragged_rank, leaf.dtype.name
    return tuple(leaf.shape), leaf.dtype.name


def _stacked(leaves: tuple[Any, ...], capacity: int) -> Any:
    import tensorflow as tf

    first = leaves[0]
    if isinstance(first, np.ndarray):
        text = first.dtype.kind in "OSU"
        shape = (capacity, *first.shape)
        table = np.full(shape, b"", object) if text else np.zeros(shape, first.dtype)
        for row, leaf in zip(table, leaves, strict=False):
            row[...] = np.char.encode(leaf, "utf-8") if leaf.dtype.kind == "U" else leaf
        return tf.constant(table, tf.string if text else None)
    if isinstance(first, tf.RaggedTensor):
        size, missing = int(first.shape[0]), (capacity - len(leaves)) * int(first.shape[0])
        lengths = tf.zeros([missing], first.row_splits.dtype)
        rows = tf.concat([*leaves, tf.RaggedTensor.from_row_lengths(first.values[:0], lengths)], 0)
        return tf.RaggedTensor.from_uniform_row_length(rows, size)
    coordinates = [
        np.insert(leaf.indices.numpy(), 0, step, axis=1) for step, leaf in enumerate(leaves) if len(leaf.indices)
    ]
    values = np.concatenate([leaf.values.numpy() for leaf in leaves])
    indices = np.concatenate(coordinates) if coordinates else np.empty((0, first.shape.rank + 1), np.int64)
    return tf.SparseTensor(indices, tf.constant(values, first.dtype), (capacity, *first.shape))


def _picked(table: Any, step: Any) -> Any:
    import tensorflow as tf

    if not isinstance(table, tf.SparseTensor):
        return table[step]
    shape = table.shape.as_list()
    start = tf.concat([[tf.cast(step, tf.int64)], tf.zeros([len(shape) - 1], tf.int64)], 0)
    return tf.sparse.reshape(tf.sparse.slice(table, start, [1, *shape[1:]]), shape[1:])
