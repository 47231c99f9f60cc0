"""What `train_data` and `evaluation_data` may return, made one of four: arrays, examples by number, a stream of examples, a
stream of batches.

Arrays and examples by number (random access) are shuffled by orch. A tf.data.Dataset, a generator or a PyDataset keeps its own
order and is repeated epoch after epoch; to begin in the middle of a dataset or a generator means to read up to there.
"""

import functools
import inspect
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data import kinds
from trainer.data.batched import elements_are_batches
from trainer.data.counting import count, watched
from trainer.data.elements import (
    DatasetElements,
    Elements,
    GeneratorElements,
    PyDatasetElements,
    Wait,
    never_wait,
    stack,
)
from trainer.data.examples import Examples, Numbered, seeds_of
from trainer.data.kinds import Level, standard
from trainer.data.order import Order, Remainder
from trainer.data.stacking import shape_of
from trainer.errors import ConfigError

log = logging.getLogger(__name__)

Batch = kinds.Batch


@dataclass(frozen=True)
class ArraySource:
    """Examples with random access: each array is [examples, ...]."""

    arrays: Batch
    examples: int
    size_bytes: int

    @property
    def dense(self) -> bool:
        """Whether all of them are NumPy arrays, which a device can hold; else some are sparse or ragged."""
        import keras

        return all(isinstance(leaf, np.ndarray) for leaf in keras.tree.flatten(self.arrays))

    def rows(self, indices: np.ndarray | slice) -> Batch:
        """The examples of `indices`, as a batch."""
        import keras

        return keras.tree.map_structure(lambda leaf: kinds.take(leaf, indices), self.arrays)

    def sample(self, count: int) -> Batch:
        """A batch of `count` examples, to learn shapes and dtypes from."""
        return self.rows(np.arange(count) % self.examples)


@dataclass(frozen=True)
class ExamplesSource:
    """Examples with random access that are read when they are needed."""

    made: Examples
    what: str
    """The method of the task that gave them, for errors."""
    seed: int
    """Of what they draw."""
    weigh: Callable[[Batch], Batch] | None = None
    """Puts class weights on a training batch."""

    @property
    def examples(self) -> int:
        """How many there are."""
        return len(self.made)

    @functools.cached_property
    def _first(self) -> Batch:
        return next(self._read([self._numbered(np.zeros(1, np.int64), np.zeros(1, np.int64))], 1))

    def sample(self, count: int) -> Batch:
        """A batch of `count` examples, the first one again and again, to learn shapes and dtypes from."""
        import keras

        return keras.tree.map_structure(lambda leaf: np.repeat(leaf, count, axis=0), self._first)

    def batches(self, order: Order, first_step: int, own: Callable[[int], np.ndarray]) -> Iterator[Batch]:
        """All batches from that of `first_step` on, of each the rows that `own` gives, which is told how many it has."""

        def wanted() -> Iterator[Numbered]:
            for step in itertools.count(first_step):
                rows, epochs = order.rows(step, 1)[0], order.epochs(step)
                places = own(len(rows))
                yield self._numbered(rows[places], epochs[places])

        return self._read(wanted(), len(own(order.sizes[0])))

    def in_order(self, size: int, own: Callable[[int], np.ndarray]) -> Iterator[Batch]:
        """Every example once, in batches of `size` and a smaller one at the end; of each the rows that `own` gives."""

        def wanted() -> Iterator[Numbered]:
            for start in range(0, self.examples, size):
                numbers = np.arange(start, min(start + size, self.examples))
                numbers = numbers[own(len(numbers))]
                yield self._numbered(numbers, np.zeros_like(numbers))

        return self._read(wanted(), len(own(min(size, self.examples))))

    def _numbered(self, numbers: np.ndarray, epochs: np.ndarray) -> Numbered:
        return numbers, seeds_of(self.seed, epochs, numbers)

    def _read(self, wanted: Iterable[Numbered], size: int) -> Iterator[Batch]:
        for batch in self.made.read(wanted, size, self.what):
            yield self.weigh(batch) if self.weigh else batch


@dataclass(frozen=True)
class _InItsOwnOrder:
    """What is read one after the other, epoch after epoch."""

    elements: Elements
    weigh: Callable[[Batch], Batch] | None = None
    """Puts class weights on a training batch."""
    at_most: int | None = None
    """More examples than this are not read in one pass for an evaluation, where its end is not known."""

    @property
    def known(self) -> int | None:
        """Elements (examples, or batches) of one epoch, where the source knows without being read."""
        return self.elements.known

    @property
    def endless(self) -> bool:
        """A dataset that repeats itself for ever has no epochs."""
        return self.elements.endless

    def _watched(self, part: Iterator[Batch], parts: int) -> Iterator[Batch]:
        """One of `parts` of a pass for an evaluation, given up where it does not end."""
        return watched(part, self.elements.what, None if self.known is not None else self.at_most, parts)


@dataclass(frozen=True)
class StreamSource(_InItsOwnOrder):
    """Examples in an order of their own."""

    def batches(self, size: int, first_step: int, remainder: Remainder = "carry") -> Iterator[Batch]:
        """All batches from that of `first_step` on, epoch after epoch; of exactly `size` examples but for remainder keep."""
        return map(self._weighed, self._batches(size, first_step, remainder))

    def part(self, index: int, parts: int, size: int) -> Iterator[Batch]:
        """Every example of one epoch whose number is `index` modulo `parts`, in batches of `size`, the last one smaller."""
        return self._watched(self._part(index, parts, size), parts)

    def count_examples(self, at_most: int | None = None) -> int | None:
        """Examples of one epoch; None where there are more than `at_most`. Reads them where nothing else tells.

        Raises:
            ConfigError: the data never ends.
        """
        return self.elements.known or count(self.elements, lambda _: 1, at_most)

    def sample(self, count: int) -> Batch:
        """A batch of `count` examples, the first one again and again, to learn shapes and dtypes from."""
        elements = self.elements
        if isinstance(elements, DatasetElements):
            return self._weighed(next(elements.read(elements.dataset.take(1).repeat(count).batch(count))))
        return self._weighed(stack([elements.first()] * count, elements.what))

    def _batches(self, size: int, first_step: int, remainder: Remainder) -> Iterator[Batch]:
        elements = self.elements
        if isinstance(elements, DatasetElements):
            if remainder == "carry":
                row = elements.fresh().repeat().skip(first_step * size).batch(size, drop_remainder=True)
            else:
                row = elements.fresh().batch(size, drop_remainder=remainder == "drop").repeat().skip(first_step)
            return elements.read(row.prefetch(4))
        assert isinstance(elements, GeneratorElements)
        return self._generated(elements, size, first_step, remainder)

    @staticmethod
    def _generated(elements: GeneratorElements, size: int, first_step: int, remainder: Remainder) -> Iterator[Batch]:
        if remainder == "carry":
            for examples in elements.chunks(elements.passes(), size, first_step * size):
                if len(examples) == size:
                    yield stack(examples, elements.what)
            return
        step = 0
        for examples in elements.by_pass(size):
            if remainder == "keep" or len(examples) == size:
                if step >= first_step:
                    yield stack(examples, elements.what)
                step += 1

    def _part(self, index: int, parts: int, size: int) -> Iterator[Batch]:
        elements = self.elements
        if isinstance(elements, DatasetElements):
            return elements.read(elements.fresh().shard(parts, index).batch(size).prefetch(2))
        assert isinstance(elements, GeneratorElements)
        return (stack(examples, elements.what) for examples in elements.chunks(elements.every(index, parts), size, 0))

    def _weighed(self, batch: Batch) -> Batch:
        return self.weigh(batch) if self.weigh else batch


@dataclass(frozen=True)
class BatchSource(_InItsOwnOrder):
    """Batches in an order of their own, used as they are. The batches are the steps of an epoch."""

    @property
    def batch_size(self) -> int:
        """The examples of the first batch; others may have more or fewer."""
        return kinds.examples_of(self.sample(1))

    def batches(self, first_step: int, wait: Wait = never_wait) -> Iterator[Batch]:
        """All batches from that of `first_step` on, epoch after epoch."""
        return map(self._made, self.elements.row(first_step, wait))

    def part(self, index: int, parts: int, size: int) -> Iterator[Batch]:
        """Every batch of one epoch whose number is `index` modulo `parts`; their size is their own."""
        own = (standard(batch, self.elements.what, Level.BATCH) for batch in self.elements.one_pass(index, parts))
        return self._watched(own, parts)

    def count_batches(self, at_most: int | None = None) -> int | None:
        """Batches of one epoch; None where there are more than `at_most`. Reads them where nothing else tells.

        Raises:
            ConfigError: the data never ends.
        """
        return self.elements.known or count(self.elements, _size_of, at_most)

    def sample(self, count: int) -> Batch:
        """The first batch, whatever the `count`."""
        return self._made(self.elements.first())

    def samples(self) -> list[Batch]:
        """One batch of each shape that is known without reading all: of a PyDataset the last one too, often a smaller one."""
        found = [self.sample(1)]
        if isinstance(self.elements, PyDatasetElements) and self.elements.known is not None:
            found.append(self._made(self.elements.number(self.elements.known - 1)))
        return found[:1] if shape_of(found[0]) == shape_of(found[-1]) else found

    def _made(self, batch: Any) -> Batch:
        batch = standard(batch, self.elements.what, Level.BATCH)
        sizes = {name: kinds.count(leaf) for name, leaf in kinds.named_leaves(batch)}
        if len(set(sizes.values())) > 1:
            said = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ConfigError(
                f"a batch of {self.elements.what}() holds arrays of different lengths: {said} examples",
                remedy="Where its elements are single examples, say so in the task: batched = False.",
            )
        return self.weigh(batch) if self.weigh else batch


def _size_of(batch: Any) -> int:
    import keras

    leaf = keras.tree.flatten(batch)[0]
    shape = getattr(leaf, "shape", None)
    return int((np.shape(leaf) if shape is None else shape)[0])


ByNumber = ArraySource | ExamplesSource
"""Sources with random access: how many examples there are is known, and any of them can be taken alone."""
Source = ByNumber | StreamSource | BatchSource


def source_of(
    data: Any, again: Callable[[], Any], what: str, *, model: Any = None, batched: bool | None = None, seed: int = 0
) -> Source:
    """The source behind what a task's method returned.

    Args:
        data: the returned value.
        again: the method itself; called once more for each epoch when it is a generator, for each reading when it shuffles.
        what: the method's name, for errors.
        model: the model, whose inputs tell whether elements are examples or batches.
        batched: what the task says to that.
        seed: for what generators and PyDatasets draw from numpy.random and random; what was set before `data` was made.

    Raises:
        ConfigError: nothing that orch can train on; arrays of different lengths; no examples.
    """
    import keras
    import tensorflow as tf

    elements: Elements
    if isinstance(data, Examples):
        if batched:
            raise ConfigError(
                f"{what}() returned Examples, and the task says that it gives batches",
                remedy="Take `batched = True` out of the task, and let each of the Examples be a single one.",
            )
        return ExamplesSource(data, what, seed)
    if isinstance(data, keras.utils.PyDataset):
        if batched is False:
            raise ConfigError(
                f"{what}() returned {type(data).__name__}, and a PyDataset always gives batches",
                remedy="Take `batched = False` out of the task.",
            )
        if data.use_multiprocessing:
            log.info("%s: its workers=%d are threads, not processes", what, data.workers)
        return BatchSource(PyDatasetElements(data, what, seed))
    if isinstance(data, tf.data.Dataset):
        elements = DatasetElements(data, what, again, seed)
    elif inspect.isgenerator(data) or hasattr(data, "__next__"):
        elements = GeneratorElements(again, what, seed)
    elif _has_items(data):
        elements = GeneratorElements(lambda: (data[number] for number in range(len(data))), what, seed)
        if not elements_are_batches(elements, model, batched):
            return ExamplesSource(Examples.of(data), what, seed)
        return BatchSource(elements)
    elif callable(data) and not hasattr(data, "__array__"):
        elements = GeneratorElements(data, what, seed)
    elif _is_iterable(data):
        elements = GeneratorElements(lambda: data, what, seed)
    else:
        return _from_arrays(data, what)
    return BatchSource(elements) if elements_are_batches(elements, model, batched) else StreamSource(elements)


def _has_items(data: Any) -> bool:
    """An object of its own kind that has a length and items by number, such as a dataset of another library."""
    return (
        hasattr(data, "__len__")
        and hasattr(data, "__getitem__")
        and not isinstance(data, tuple | list | Mapping | str | bytes)
        and not hasattr(data, "__array__")
        and not type(data).__module__.startswith(("tensorflow", "scipy", "pandas"))
    )


def _is_iterable(data: Any) -> bool:
    """An object of its own kind that can be gone through again and again, such as a data loader of another library."""
    return hasattr(data, "__iter__") and not (
        isinstance(data, tuple | list | dict | str | bytes)
        or hasattr(data, "__array__")
        or type(data).__module__.startswith(("tensorflow", "scipy"))
    )


def _from_arrays(data: Any, what: str) -> ArraySource:
    if data is None or (isinstance(data, tuple | list) and not 1 <= len(data) <= 3):
        raise ConfigError(
            f"{what}() returned {'None' if data is None else f'{len(data)} values'}",
            remedy="Return (x, y), (x, y, sample_weight), a tf.data.Dataset, a keras.utils.PyDataset, or a generator; several "
            "inputs go into one dict or list: ([a, b], y).",
        )
    arrays = standard(data, what, Level.ALL)
    leaves = kinds.named_leaves(arrays)
    lengths = {name: kinds.count(leaf) for name, leaf in leaves}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ConfigError(
            f"the arrays of {what}() differ in length: {said} examples",
            remedy="The first dimension of each counts examples.",
        )
    examples = next(iter(lengths.values()), 0)
    if examples == 0:
        raise ConfigError(f"the arrays of {what}() are empty")
    return ArraySource(arrays, examples, sum(kinds.size_bytes(leaf) for _, leaf in leaves))
