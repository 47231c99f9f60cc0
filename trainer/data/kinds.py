"""The kinds of arrays that a task's data may hold, and what is said of those that it may not.

What comes out is of three kinds: NumPy arrays (text as arrays of bytes objects), sparse rows, and tf.RaggedTensor. As in
Keras' `fit`, floats become Keras' floatx, a DataFrame an array, and a Series an array of one column.
"""

import numbers
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np

from trainer.errors import ConfigError

Batch = Any
"""A structure (tuple, dict, array) of arrays whose first dimension counts examples."""

_PARTS = ("x", "y", "sample_weight")
_REMEDY = (
    "Return (x, y), (x, y, sample_weight), a tf.data.Dataset, a keras.utils.PyDataset, or a generator; several inputs go "
    "into one dict or list: ([a, b], y)."
)


class Level(Enum):
    """What a value of a task is."""

    ALL = "all examples"
    BATCH = "a batch"
    EXAMPLE = "one example"


class SparseRows:
    """A sparse array of any rank of which examples can be taken, which a tf.SparseTensor does not allow."""

    def __init__(self, coordinates: np.ndarray, values: np.ndarray, shape: tuple[int, ...]) -> None:
        """`coordinates`: int64 [values, rank], each at most once."""
        by_row = np.lexsort(coordinates.T[::-1])
        self._inner = coordinates[by_row, 1:]
        self._values = values[by_row]
        self._splits = np.concatenate([[0], np.cumsum(np.bincount(coordinates[:, 0], minlength=shape[0]))])
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory of coordinates and values."""
        return self._inner.nbytes + self._values.nbytes + self._splits.nbytes

    def rows(self, indices: np.ndarray) -> Any:
        """The examples of `indices`, as a tf.SparseTensor."""
        import tensorflow as tf

        starts = self._splits[indices]
        counts = self._splits[indices + 1] - starts
        places = np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        row = np.repeat(np.arange(len(indices)), counts)[:, None]
        coordinates = np.concatenate([row, self._inner[places]], axis=1)
        return tf.SparseTensor(coordinates, self._values[places], (len(indices), *self.shape[1:]))


def standard(value: Any, what: str, level: Level) -> Any:
    """A task's data, or one batch or example of it, in the kinds above.

    Args:
        value: a structure of arrays; a list at its top counts as a tuple, and parts that are None are left out at its end.
        what: the method of the task that gave it, for errors.

    Raises:
        ConfigError: it holds something else; the column and the remedy are named.
    """
    if isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, tuple):
        return _each(value, "x", what, level)
    while len(value) > 1 and value[-1] is None:
        value = value[:-1]
    names = _PARTS if len(value) <= len(_PARTS) else [f"part {number}" for number in range(len(value))]
    return tuple(_each(part, name, what, level) for part, name in zip(value, names, strict=False))


def named_leaves(value: Any) -> list[tuple[str, Any]]:
    """The arrays of data that went through `standard`, with the names that errors use."""
    found: list[tuple[str, Any]] = []

    def add(leaf: Any, name: str) -> Any:
        found.append((name, leaf))
        return leaf

    parts = zip(_PARTS, value, strict=False) if isinstance(value, tuple) else [("x", value)]
    for name, part in parts:
        _walk(part, name, add)
    return found


def take(leaf: Any, indices: np.ndarray | slice) -> Any:
    """The examples of `indices` of one array."""
    if isinstance(leaf, np.ndarray):
        return leaf[indices]
    if isinstance(indices, slice):
        indices = np.arange(*indices.indices(count(leaf)))
    if isinstance(leaf, SparseRows):
        return leaf.rows(indices)
    import tensorflow as tf

    return tf.gather(leaf, indices)


def count(leaf: Any) -> int:
    """The examples of one array, or of one array of a batch."""
    return len(leaf) if isinstance(leaf, np.ndarray | SparseRows) else int(leaf.shape[0])


def examples_of(batch: Batch) -> int:
    """The examples of a batch."""
    import keras

    return count(keras.tree.flatten(batch)[0])


def size_bytes(leaf: Any) -> int:
    """The memory that one array takes, about."""
    if isinstance(leaf, np.ndarray):
        return int(leaf.nbytes) + (sum(map(len, leaf.ravel())) if leaf.dtype == object else 0)
    if isinstance(leaf, SparseRows):
        return leaf.nbytes
    values = getattr(leaf, "flat_values", None)
    values = leaf.values if values is None else values
    return int(np.prod(values.shape)) * int(max(1, values.dtype.size))


def is_pandas(value: Any, kind: str) -> bool:
    """Whether it is pandas' DataFrame or Series, without importing pandas."""
    return any(each.__name__ == kind and each.__module__.split(".")[0] == "pandas" for each in type(value).__mro__)


def _each(part: Any, name: str, what: str, level: Level) -> Any:
    if level is Level.EXAMPLE and _is_list_of_scalars(part):
        part = np.asarray(part)
    return _walk(part, name, lambda leaf, name: _leaf(leaf, name, what, level))


def _walk(value: Any, name: str, convert: Callable[[Any, str], Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _walk(each, f"'{key}' of {name}", convert) for key, each in value.items()}
    if isinstance(value, list | tuple) and not _is_list_of_scalars(value):
        parts = [_walk(each, f"part {number} of {name}", convert) for number, each in enumerate(value)]
        return parts if isinstance(value, list) else tuple(parts)
    return convert(value, name)


def _is_list_of_scalars(value: Any) -> bool:
    scalars = (int, float, str, bytes, np.number, np.bool_)
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, scalars) for each in value)


def _leaf(value: Any, name: str, what: str, level: Level) -> Any:
    import keras
    import tensorflow as tf

    if isinstance(value, list | tuple):
        raise _error(
            what,
            f"{name} is a Python {type(value).__name__} of numbers or texts",
            "Make it an array: numpy.array.",
        )
    if value is None:
        raise _error(what, f"{name} is None", _REMEDY)
    if isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        value = tf.cast(value, keras.config.floatx()) if value.dtype == tf.float64 else value
        if isinstance(value, tf.RaggedTensor) or level is Level.BATCH:
            return value
        if level is Level.EXAMPLE:
            return tf.sparse.to_dense(value).numpy()
        return SparseRows(value.indices.numpy(), value.values.numpy(), tuple(value.dense_shape.numpy().tolist()))
    if type(value).__module__.startswith("scipy.sparse") and hasattr(value, "tocoo"):
        return _from_scipy(value, level)
    if is_pandas(value, "DataFrame"):
        array = _from_frame(value, name, what)
    elif is_pandas(value, "Series"):
        array = value.to_numpy()[:, None]
    elif isinstance(value, str | bytes):
        array = np.array(value, object)
    else:
        array = np.asarray(value)
    array = _standard_array(array, name, what, level)
    if array.ndim == 0 and level is not Level.EXAMPLE:
        raise _error(what, f"{name} is a {type(value).__name__}, which is no array of examples", _REMEDY)
    return array


def _standard_array(array: np.ndarray, name: str, what: str, level: Level) -> np.ndarray:
    import keras

    if array.dtype == object:
        return _of_objects(array, name, what, level)
    kind, floatx = array.dtype.kind, keras.config.floatx()
    if kind == "f" and array.dtype.name != floatx and (level is Level.ALL or array.dtype == np.float64):
        return array.astype(floatx)
    if array.dtype.name == "bfloat16" and level is Level.ALL:
        return array.astype(floatx)
    if kind in "Mm":
        raise _error(what, f"{name} holds dates or times ({array.dtype})", 'Make numbers of them: astype("int64").')
    if array.dtype.names is not None:
        columns = ", ".join(array.dtype.names)
        remedy = "Return a dict of arrays: {name: table[name] for name in table.dtype.names}."
        raise _error(what, f"{name} is a structured array of {columns}", remedy)
    return array


def _of_objects(array: np.ndarray, name: str, what: str, level: Level) -> np.ndarray:
    """Texts as bytes objects; numbers that pandas or a list had left as objects as numbers."""
    values = array.ravel().tolist()
    kinds = {type(value) for value in values}
    if all(issubclass(kind, str | bytes) for kind in kinds):
        texts = np.empty(len(values), object)
        texts[:] = [value.encode() if isinstance(value, str) else bytes(value) for value in values]
        return texts.reshape(array.shape)
    if all(issubclass(kind, bool | int | float | np.number | np.bool_) for kind in kinds):
        plain = np.array(values)
        if plain.dtype != object:
            return _standard_array(plain.reshape(array.shape), name, what, level)
    said = " and ".join(sorted(kind.__name__ for kind in kinds))
    said = f"{name} holds objects of the type {said}" if len(kinds) == 1 else f"{name} holds {said} mixed"
    if kinds & {list, tuple, np.ndarray}:
        remedy = "Rows of one length: numpy.stack; of several: keras.utils.pad_sequences, or tf.ragged.constant."
    elif any(issubclass(kind, str) for kind in kinds):
        remedy = 'Fill what is missing, with fillna("") for a pandas column, or make all of it text: astype(str).'
    else:
        remedy = "Make it an array of one dtype, with what is missing filled: fillna, astype."
    raise _error(what, said, remedy)


def _from_frame(frame: Any, name: str, what: str) -> np.ndarray:
    array: np.ndarray = frame.to_numpy()
    if array.dtype == object:
        texts = [
            str(column)
            for column in frame.columns
            if not all(isinstance(value, numbers.Number) for value in frame[column].to_numpy().ravel().tolist())
        ]
        if texts and len(texts) < len(frame.columns):
            raise _error(
                what,
                f"column '{texts[0]}' of {name} holds text or other objects beside columns of numbers",
                "Return dict(frame), and give the model an input of that name for each column.",
            )
    return array


def _from_scipy(value: Any, level: Level) -> Any:
    import keras

    matrix = value.tocsr(copy=True)
    matrix.sum_duplicates()
    matrix = matrix.tocoo()
    values = matrix.data
    if values.dtype.kind == "f":
        values = values.astype(keras.config.floatx())
    if level is Level.EXAMPLE:
        return matrix.toarray().astype(values.dtype)
    coordinates = np.stack([matrix.row, matrix.col], axis=1).astype(np.int64)
    sparse = SparseRows(coordinates, values, matrix.shape)
    return sparse if level is Level.ALL else sparse.rows(np.arange(len(sparse)))


def _error(what: str, said: str, remedy: str) -> ConfigError:
    return ConfigError(f"{what}(): {said}", remedy=remedy)
