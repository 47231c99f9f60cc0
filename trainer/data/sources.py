"""What `train_data` and `evaluation_data` may return, made one of two: arrays (random access) or a stream of examples.

Arrays are shuffled by orch. A tf.data.Dataset or a generator keeps its own order and is repeated epoch after epoch; to begin
in its middle means to read up to there.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.errors import ConfigError, TaskError

Batch = Any
"""A structure (tuple, dict, array) of arrays whose first dimension counts examples."""


@dataclass(frozen=True)
class ArraySource:
    """Examples with random access: each array is [examples, ...]."""

    arrays: Batch
    examples: int
    size_bytes: int

    def rows(self, indices: np.ndarray | slice) -> Batch:
        """The examples of `indices`, as a batch."""
        import keras

        return keras.tree.map_structure(lambda array: array[indices], self.arrays)

    def sample(self, count: int) -> Batch:
        """A batch of `count` examples, to learn shapes and dtypes from."""
        return self.rows(np.arange(count) % self.examples)


@dataclass(frozen=True)
class StreamSource:
    """Examples in an order of their own. `open()` gives an iterator over one epoch; each call starts a new one."""

    epochs: Callable[[], Iterator[Any]]
    """An iterator over all epochs, one after the other, example by example."""
    one_epoch: Callable[[], Iterator[Any]]
    dataset: Any = None
    """The tf.data.Dataset of one epoch, where it is one."""
    known_examples: int | None = None
    """Examples of one epoch, where the source knows without being read."""
    endless: bool = False
    """A dataset that repeats itself for ever has no epochs."""

    def batches(self, size: int, first_example: int) -> Iterator[Batch]:
        """Batches of exactly `size` examples from position `first_example` of the endless row on."""
        if self.dataset is not None:
            row = self.dataset.repeat().skip(first_example).batch(size, drop_remainder=True).prefetch(4)
            yield from row.as_numpy_iterator()
            return
        row = itertools.islice(self.epochs(), first_example, None)
        while len(examples := list(itertools.islice(row, size))) == size:
            yield stack(examples)

    def part(self, index: int, parts: int, size: int) -> Iterator[Batch]:
        """Every example of one epoch whose number is `index` modulo `parts`, in batches of `size`, the last one smaller."""
        if self.dataset is not None:
            yield from self.dataset.shard(parts, index).batch(size).prefetch(2).as_numpy_iterator()
            return
        row = itertools.islice(self.one_epoch(), index, None, parts)
        while examples := list(itertools.islice(row, size)):
            yield stack(examples)

    def sample(self, count: int) -> Batch:
        """A batch of `count` examples, the first one again and again, to learn shapes and dtypes from."""
        first = next(self.one_epoch(), None)
        if first is None:
            raise TaskError("the training data is empty")
        return stack([standard(first)] * count)

    def count_examples(self) -> int:
        """Examples of one epoch. Reads all of it where nothing else tells.

        Raises:
            ConfigError: the dataset never ends.
        """
        if self.endless:
            raise ConfigError(
                "the dataset never ends, so it has no epochs",
                remedy="Give train.steps and evaluate.every in steps, or leave out the dataset's repeat().",
            )
        if self.known_examples is not None:
            return self.known_examples
        return sum(1 for _ in self.one_epoch())


Source = ArraySource | StreamSource


def source_of(data: Any, again: Callable[[], Any], what: str) -> Source:
    """The source behind what a task's method returned.

    Args:
        data: the returned value.
        again: the method itself; called once more for each epoch when it is a generator.
        what: the method's name, for errors.

    Raises:
        ConfigError: nothing that orch can train on; arrays of different lengths; no examples.
    """
    import tensorflow as tf

    if isinstance(data, tf.data.Dataset):
        return _from_dataset(data, what)
    if inspect.isgenerator(data) or hasattr(data, "__next__"):
        return _from_generator(again, what)
    if callable(data) and not hasattr(data, "__array__"):
        return _from_generator(data, what)
    return _from_arrays(data, what)


def stack(examples: list[Any]) -> Batch:
    """One batch of single examples of equal structure."""
    import keras

    try:
        return keras.tree.map_structure(lambda *leaves: np.stack(leaves), *map(standard, examples))
    except ValueError as error:
        raise TaskError(f"examples of one batch differ in shape or structure: {error}") from error


def standard(example: Any) -> Any:
    """NumPy arrays throughout, float64 as float32 (what Keras' own `fit` does); lists as tuples."""
    import keras

    if isinstance(example, list):
        example = tuple(example)
    return keras.tree.map_structure(_standard_array, example)


def _standard_array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype == np.float64:
        import keras

        return array.astype(keras.config.floatx())
    return array


def _from_arrays(data: Any, what: str) -> ArraySource:
    import keras

    if data is None or (isinstance(data, tuple | list) and not 1 <= len(data) <= 3):
        raise ConfigError(
            f"{what}() returned {'None' if data is None else f'{len(data)} values'}",
            remedy="Return (x, y), (x, y, sample_weight), a tf.data.Dataset of single examples, or a generator.",
        )
    arrays = standard(data)
    leaves = keras.tree.flatten(arrays)
    if not leaves or any(leaf.ndim == 0 or leaf.dtype == object for leaf in leaves):
        raise ConfigError(
            f"{what}() returned {type(data).__name__}, which holds something that is no array of examples",
            remedy="Return arrays whose first dimension counts examples, a tf.data.Dataset, or a generator.",
        )
    lengths = sorted({len(leaf) for leaf in leaves})
    if len(lengths) > 1:
        raise ConfigError(f"the arrays of {what}() differ in length: {', '.join(map(str, lengths))} examples")
    if lengths[0] == 0:
        raise ConfigError(f"the arrays of {what}() are empty")
    return ArraySource(arrays, lengths[0], sum(leaf.nbytes for leaf in leaves))


def _from_dataset(dataset: Any, what: str) -> StreamSource:
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    dataset = dataset.map(_float32_of_float64).with_options(options)
    cardinality = int(dataset.cardinality())
    if cardinality == 0:
        raise ConfigError(f"the dataset of {what}() is empty")
    return StreamSource(
        epochs=lambda: dataset.repeat().as_numpy_iterator(),
        one_epoch=dataset.as_numpy_iterator,
        dataset=dataset,
        known_examples=cardinality if cardinality > 0 else None,
        endless=cardinality == tf.data.INFINITE_CARDINALITY,
    )


def _float32_of_float64(*example: Any) -> Any:
    import keras
    import tensorflow as tf

    # A dataset of tuples calls with their parts, and a tuple of one must stay what it was.
    value = example if len(example) > 1 else example[0]
    return tf.nest.map_structure(
        lambda leaf: tf.cast(leaf, keras.config.floatx()) if leaf.dtype == tf.float64 else leaf, value
    )


def _from_generator(open_epoch: Callable[[], Any], what: str) -> StreamSource:
    def one_epoch() -> Iterator[Any]:
        made = open_epoch()
        return iter(made() if callable(made) and not hasattr(made, "__next__") else made)

    def epochs() -> Iterator[Any]:
        while True:
            empty = True
            for example in one_epoch():
                empty = False
                yield example
            if empty:
                raise ConfigError(f"the generator of {what}() yields nothing")

    return StreamSource(epochs=epochs, one_epoch=one_epoch)
