"""Examples by number: data of which any example can be read alone, so that orch itself gives it its order.

What `train_data` and `evaluation_data` may return beside arrays. Which examples a step sees is then a function of (seed, step,
global batch size); a restart reads nothing again; and each worker reads only what its own replicas take. Reading is tf.data's
work, in parallel and ahead of training, with the order kept.
"""

import copy
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from trainer.data.kinds import Level, standard
from trainer.errors import ConfigError

Numbered = tuple[np.ndarray, np.ndarray]
"""Which examples: their numbers, int64 [n], and the seeds for what they draw, int64 [n, 2]."""
_AHEAD = 2
"""Batches that wait until a step takes them."""
_MESSAGE_CHARS = 300
_FETCHED_AT_ONCE = 32
"""Examples that one call of `fetch` gives: enough to share the cost of a call of Python from TensorFlow, which is 0.1 ms or more
whatever it does; so few that calls for one batch run in parallel where storage is slow."""
_NODE = "[[{{"
"""What TensorFlow puts after the traceback of a Python function."""
_OPERATION = re.compile(
    r"^\{\{function_node [^}]*\}\} |Error in user-defined function passed to \S+ transformation with iterator: Iterator::\S+: "
)
"""What it puts before the words of one of its own operations."""
_OWN = f"{ConfigError.__module__}.{ConfigError.__name__}: "


class Examples:
    """`count` examples; number i is `load(i)`."""

    def __init__(
        self,
        count: int,
        load: Callable[[Any], Any],
        *,
        fetch: Callable[[np.ndarray], np.ndarray] | None = None,
        where: Callable[[int], str] | None = None,
        at_once: int | None = None,
    ) -> None:
        """
        Args:
            count: how many.
            load: a function of TensorFlow: from a number (int64 scalar) to an example, such as (x, y), of tensors whose shapes
                are the same for all examples.
            fetch: what reads in Python, many examples a call and in several threads: from numbers, int64 [n], to bytes objects,
                object [n]. `load` then gets an example's bytes (string scalar) in the place of its number.
            where: what an example is called in errors, such as its file.
            at_once: how many are read in parallel; default: as many as tf.data finds useful.
        """
        self._count = count
        self._load = load
        self._fetch = fetch
        self._where = where or (lambda number: f"example {number}")
        self._at_once = at_once
        self._stages: tuple[tuple[Callable[..., Any], bool], ...] = ()

    @classmethod
    def of(cls, sequence: Any, *, at_once: int = 1) -> "Examples":
        """The items of an object with a length and items by number: a list, a dataset of Hugging Face, of torch, of grain.

        Args:
            at_once: threads that read items; more than one where the object allows it.

        Raises:
            ConfigError: it has no length, no items, or an item that is no example.
        """
        count = len(sequence)
        if not count:
            raise ConfigError(f"{type(sequence).__name__} has no examples")
        reader = _ItemReader(sequence)
        return cls(count, reader.load, at_once=at_once)

    def __len__(self) -> int:
        return self._count

    def where(self, number: int) -> str:
        """What example `number` is called."""
        return self._where(number)

    def map(self, function: Callable[..., Any]) -> "Examples":
        """Each example through a function of TensorFlow, as tf.data's map: f(x, y) of an example (x, y)."""
        return self._with(function, draws=False)

    def augment(self, function: Callable[..., Any]) -> "Examples":
        """As map, with one argument more: f(x, y, seed). The seed, int64 [2], for tf.image.stateless_random_* and
        tf.random.stateless_*, is a function of the job's seed, the epoch and the example: the same after a restart, and with
        any number of workers."""
        return self._with(function, draws=True)

    def _with(self, function: Callable[..., Any], *, draws: bool) -> "Examples":
        made = copy.copy(self)
        made._stages = (*self._stages, (function, draws))
        return made

    def read(self, wanted: Iterable[Numbered], size: int, what: str) -> Iterator[Any]:
        """Batches in the kinds of arrays that a task's data has, one for each element of `wanted`.

        Args:
            wanted: the examples of each batch.
            size: how many a batch usually has: others are read in batches of this size, and put together.
            what: the method of the task that gave this, for errors.

        Raises:
            ConfigError: an example cannot be read; it is named.
        """
        under_way: deque[np.ndarray] = deque()
        parts = iter(self._dataset(_in_parts(wanted, size, under_way), size))
        while True:
            pieces: list[Any] = []
            try:
                pieces.append(_numpy(next(parts)))
                while len(pieces) * size < len(under_way[0]):
                    pieces.append(_numpy(next(parts)))
            except StopIteration:
                return
            except Exception as error:
                self._name_the_bad_one(under_way[0], error, what)
                raise
            yield standard(_put_together(pieces, len(under_way.popleft())), what, Level.BATCH)

    def _dataset(self, parts: Callable[[], Iterator[Numbered]], size: int) -> Any:
        import tensorflow as tf

        signature = (tf.TensorSpec([size], tf.int64), tf.TensorSpec([size, 2], tf.int64))
        parallel = tf.data.AUTOTUNE if self._at_once is None else self._at_once
        wanted = tf.data.Dataset.from_generator(parts, output_signature=signature)
        if self._fetch:
            few = wanted.flat_map(lambda *each: tf.data.Dataset.from_tensor_slices(each).batch(_FETCHED_AT_ONCE))
            wanted = few.map(self._fetched, num_parallel_calls=parallel, deterministic=True)
        examples = wanted.unbatch().map(self._example, num_parallel_calls=parallel, deterministic=True)
        return examples.batch(size, drop_remainder=True).prefetch(_AHEAD)

    def _fetched(self, numbers: Any, seeds: Any) -> Any:
        import tensorflow as tf

        found = tf.numpy_function(self._fetch, [numbers], tf.string)
        found.set_shape(numbers.shape)
        return found, seeds

    def _example(self, number: Any, seed: Any) -> Any:
        """`number`, or what was fetched for it."""
        import tensorflow as tf

        example = self._load(number)
        for place, (function, draws) in enumerate(self._stages):
            arguments = example if isinstance(example, tuple) else (example,)
            if draws:
                # Two that draw by one seed would draw the same.
                arguments = (*arguments, tf.random.experimental.stateless_fold_in(seed, place))
            example = function(*arguments)
        return tuple(example) if isinstance(example, list) else example

    def _name_the_bad_one(self, numbers: np.ndarray, error: Exception, what: str) -> None:
        """Read them one after the other, up to the one that is at fault."""
        each = [(numbers[at : at + 1], np.zeros((1, 2), np.int64)) for at in range(len(numbers))]
        alone = iter(self._dataset(each.__iter__, 1))
        for number in numbers.tolist():
            try:
                next(alone)
            except Exception as its_own:
                name, said = self._where(number), _first_line(its_own)
                if not said.startswith(f"{name} "):
                    said = f"{name} cannot be read: {said.removeprefix(name).lstrip(';: ')}"
                raise ConfigError(f"{what}(): {said}", remedy="Repair it, or leave it out.") from error


class _ItemReader:
    """Items of a Python object as examples of TensorFlow."""

    def __init__(self, sequence: Any) -> None:
        import keras
        import tensorflow as tf

        self._sequence = sequence
        first = self._item(0)
        leaves = keras.tree.flatten(first)
        self._structure = first
        self._dtypes = [tf.as_dtype(leaf.dtype) if leaf.dtype != object else tf.string for leaf in leaves]
        self._shapes = [leaf.shape for leaf in leaves]

    def load(self, number: Any) -> Any:
        import keras
        import tensorflow as tf

        # The method itself: AutoGraph would take a lambda apart, at several times its cost.
        leaves = tf.numpy_function(self._leaves, [number], self._dtypes)
        for leaf, shape in zip(leaves, self._shapes, strict=True):
            leaf.set_shape(shape)
        return keras.tree.pack_sequence_as(self._structure, leaves)

    def _leaves(self, number: Any) -> list[Any]:
        import keras

        leaves: list[Any] = keras.tree.flatten(self._item(int(number)))
        return leaves

    def _item(self, number: int) -> Any:
        return standard(self._sequence[number], type(self._sequence).__name__, Level.EXAMPLE)


def _in_parts(wanted: Iterable[Numbered], size: int, under_way: deque[np.ndarray]) -> Callable[[], Iterator[Numbered]]:
    """Parts of exactly `size`, the last ones of a batch filled up with its first example."""

    def parts() -> Iterator[Numbered]:
        for numbers, seeds in wanted:
            under_way.append(numbers)
            places = np.arange(-(-len(numbers) // size) * size)
            places[len(numbers) :] = 0
            for start in range(0, len(places), size):
                part = places[start : start + size]
                yield numbers[part], seeds[part]

    return parts


def seeds_of(seed: int, epochs: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The seeds of examples in their epochs: int64 [n, 2]."""
    found, place = np.unique(epochs, return_inverse=True)
    words = np.array([_word_of(seed, int(epoch)) for epoch in found], np.int64)
    return np.stack([words[place], numbers], axis=1)


@lru_cache(4)
def _word_of(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _put_together(pieces: list[Any], count: int) -> Any:
    """The first `count` rows of some batches."""
    import keras

    if len(pieces) == 1:
        return keras.tree.map_structure(lambda leaf: leaf[:count], pieces[0])
    return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves)[:count], *pieces)


def _numpy(batch: Any) -> Any:
    import keras

    return keras.tree.map_structure(lambda leaf: leaf.numpy() if hasattr(leaf, "numpy") else leaf, batch)


def _first_line(error: Exception) -> str:
    said = str(getattr(error, "message", "") or error)
    lines = [line for line in said.splitlines() if line.strip() and not line.strip().startswith(_NODE)]
    if not lines:
        return type(error).__name__
    line = _OPERATION.sub("", lines[-1 if "Traceback" in said else 0]).strip()
    return line.removeprefix(_OWN).removeprefix("ValueError: ")[:_MESSAGE_CHARS]
