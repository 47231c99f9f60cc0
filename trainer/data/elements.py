"""Data that is read one element after the other: tf.data.Dataset, generators, keras.utils.PyDataset.

Whether an element is an example or a batch is not known here.
"""

import itertools
import logging
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from trainer.data.kinds import Level, named_leaves, standard
from trainer.data.random_state import PrivateRandom, seeded_anew
from trainer.errors import ConfigError

log = logging.getLogger(__name__)

SLOW_S = 1.0
"""Longer calls of a task's method are told."""

Wait = Callable[[int], None]
"""Called with a number of elements of the endless row: returns when training has asked for so many."""


def never_wait(number: int) -> None:
    """For reading on at once."""


class Elements(Protocol):
    """Elements in an order of their own, pass after pass."""

    what: str
    """The task's method, for errors."""
    known: int | None
    """Elements of one pass, where that is known without reading."""
    endless: bool
    """Whether a pass never ends."""

    def first(self) -> Any:
        """The first element, read once."""

    def row(self, start: int, wait: Wait = never_wait) -> Iterator[Any]:
        """The endless row of all passes, from element `start` on."""

    def one_pass(self, index: int = 0, parts: int = 1) -> Iterator[Any]:
        """Those elements of one pass whose number is `index` modulo `parts`."""


class DatasetElements:
    """A tf.data.Dataset, with float64 as Keras' floatx. Elements are NumPy arrays, tf.SparseTensor or tf.RaggedTensor.

    One that shuffles has another order each time that it is read, and its length, its first element and a compiler's example are
    readings too. So each reading that counts is of a dataset made anew, as the first one was: the order is that of a fresh
    dataset, on every worker, after a restart, and in each evaluation.
    """

    def __init__(self, dataset: Any, what: str, again: Callable[[], Any] | None = None, seed: int = 0) -> None:
        """`again` makes the dataset anew; `seed` is what was set before it was made."""
        import tensorflow as tf

        self.what = what
        self._again = again if shuffles(dataset) else None
        self._seed = seed
        self.dataset = _in_order(dataset)
        cardinality = int(self.dataset.cardinality())
        if cardinality == 0:
            raise ConfigError(f"the dataset of {what}() is empty")
        self.known = cardinality if cardinality > 0 else None
        self.endless = cardinality == tf.data.INFINITE_CARDINALITY
        self._first: Any = None

    def first(self) -> Any:
        if self._first is None:
            self._first = next(self.read(self.dataset.take(1)), None)
        if self._first is None:
            raise ConfigError(f"the dataset of {self.what}() is empty")
        return self._first

    def row(self, start: int, wait: Wait = never_wait) -> Iterator[Any]:
        return self.read(self.fresh().repeat().skip(start).prefetch(4))

    def one_pass(self, index: int = 0, parts: int = 1) -> Iterator[Any]:
        dataset = self.fresh()
        return self.read((dataset if parts == 1 else dataset.shard(parts, index)).prefetch(2))

    def fresh(self) -> Any:
        """The dataset for one reading of it."""
        if self._again is None:
            return self.dataset
        began = time.monotonic()
        with seeded_anew(self._seed):
            made = self._again()
        if (seconds := time.monotonic() - began) > SLOW_S:
            log.info(
                "%s is called for each reading of its data, since they are shuffled seconds=%.1f", self.what, seconds
            )
        return _in_order(made)

    def read(self, dataset: Any) -> Iterator[Any]:
        """The elements of `dataset`, which was made from this one."""
        import keras
        import tensorflow as tf

        try:
            for element in dataset:
                yield keras.tree.map_structure(_host, element)
        except tf.errors.InvalidArgumentError as error:
            said = re.search(r"First element had shape \[.*?\] and element \d+ had shape \[.*?\]", str(error))
            if said is None or "Cannot batch tensors" not in str(error):
                raise
            raise uneven(self.what, said[0][0].lower() + said[0][1:]) from None


def _in_order(dataset: Any) -> Any:
    # No map here, not even one that changes nothing: after it, ragged examples would no longer make ragged batches.
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)


def shuffles(dataset: Any) -> bool:
    """Whether the order of a tf.data.Dataset changes from reading to reading, as far as its transformations tell."""
    kind = type(dataset).__name__
    if any(name in kind for name in ("Shuffle", "Random", "DirectedInterleave")):
        return True
    inputs = dataset._inputs() if hasattr(dataset, "_inputs") else []
    return any(shuffles(each) for each in inputs)


class GeneratorElements:
    """What a function gives that is called anew for each pass. Its draws from numpy.random and random are its own."""

    known: int | None = None
    endless = False

    def __init__(self, open_pass: Callable[[], Any], what: str, seed: int) -> None:
        self._open = open_pass
        self.what = what
        self._seed = seed
        self._first: Any = None

    def first(self) -> Any:
        if self._first is None:
            with PrivateRandom(self._seed):
                self._first = next(self._iterator(), None)
        if self._first is None:
            raise ConfigError(f"the generator of {self.what}() yields nothing")
        return self._first

    def row(self, start: int, wait: Wait = never_wait) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.chunks(self.passes(), 1, start))

    def one_pass(self, index: int = 0, parts: int = 1) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.chunks(self.every(index, parts), 1, 0))

    def every(self, index: int, parts: int) -> Callable[[], Iterator[Any]]:
        """One pass, of which elements are taken whose number is `index` modulo `parts`."""
        return lambda: itertools.islice(self._iterator(), index, None, parts)

    def passes(self) -> Callable[[], Iterator[Any]]:
        """All passes, one after the other."""

        def endless() -> Iterator[Any]:
            while True:
                empty = True
                for element in self._iterator():
                    empty = False
                    yield element
                if empty:
                    raise ConfigError(f"the generator of {self.what}() yields nothing")

        return endless

    def chunks(self, opened: Callable[[], Iterator[Any]], size: int, start: int) -> Iterator[list[Any]]:
        """Lists of `size` elements of `opened()` from element `start` on, the last one shorter."""
        own = PrivateRandom(self._seed)
        with own:
            elements = itertools.islice(opened(), start, None)
        while True:
            with own:
                found = list(itertools.islice(elements, size))
            if not found:
                return
            yield found

    def by_pass(self, size: int) -> Iterator[list[Any]]:
        """Lists of `size` elements, pass after pass, the last one of each shorter."""
        own = PrivateRandom(self._seed)
        while True:
            with own:
                elements, empty = self._iterator(), True
            while True:
                with own:
                    found = list(itertools.islice(elements, size))
                if not found:
                    break
                empty = False
                yield found
            if empty:
                raise ConfigError(f"the generator of {self.what}() yields nothing")

    def _iterator(self) -> Iterator[Any]:
        made = self._open()
        return iter(made() if callable(made) and not hasattr(made, "__next__") else made)


class PyDatasetElements:
    """A keras.utils.PyDataset: batches by number, so that to begin in its middle nothing is read again.

    on_epoch_end is called when training has taken a pass's last batch, and on_epoch_begin when it asks for the first one of
    the next: nothing is read ahead over the end of a pass. Each of its methods draws from
    numpy.random and random by (seed, pass, number), so that its draws do not depend on where training began; with several
    threads (its `workers`) they are not seeded.
    """

    def __init__(self, dataset: Any, what: str, seed: int) -> None:
        self.what = what
        self._dataset = dataset
        self._seed = seed
        self.known: int | None = dataset.num_batches
        if self.known == 0:
            raise ConfigError(f"the {type(dataset).__name__} of {what}() has no batches")
        self.endless = self.known is None
        # Its processes would be forks of one in which TensorFlow's threads run.
        self._threads = max(1, int(dataset.workers or 0))
        self._ahead = max(self._threads, int(dataset.max_queue_size or 0))
        self._first: Any = None

    def first(self) -> Any:
        if self._first is None:
            self._first = self._batch(0, 0)
        return self._first

    def number(self, number: int) -> Any:
        """One batch of the first pass."""
        return self._batch(0, number)

    def row(self, start: int, wait: Wait = never_wait) -> Iterator[Any]:
        if self.known is None:
            yield from self._batches(0, itertools.count(start))
            return
        epoch, place = divmod(start, self.known)
        for earlier in range(epoch):
            self._hook("on_epoch_begin", earlier)
            self._hook("on_epoch_end", earlier)
        while True:
            self._hook("on_epoch_begin", epoch)
            yield from self._batches(epoch, iter(range(place, self.known)))
            wait((epoch + 1) * self.known)
            self._hook("on_epoch_end", epoch)
            epoch, place = epoch + 1, 0
            wait(epoch * self.known + 1)

    def one_pass(self, index: int = 0, parts: int = 1) -> Iterator[Any]:
        numbers = itertools.count(index, parts) if self.known is None else iter(range(index, self.known, parts))
        return self._batches(0, numbers)

    def _batches(self, epoch: int, numbers: Iterator[int]) -> Iterator[Any]:
        if self._threads == 1:
            for number in numbers:
                yield self._batch(epoch, number)
            return
        with ThreadPoolExecutor(self._threads, thread_name_prefix="data") as pool:
            waiting: list[Future[Any]] = []
            try:
                while True:
                    more = itertools.islice(numbers, self._ahead - len(waiting))
                    waiting += [pool.submit(self._dataset.__getitem__, number) for number in more]
                    if not waiting:
                        return
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()

    def _batch(self, epoch: int, number: int) -> Any:
        if self._threads > 1:
            return self._dataset[number]
        with PrivateRandom(self._seed, epoch, number):
            return self._dataset[number]

    def _hook(self, name: str, epoch: int) -> None:
        with PrivateRandom(self._seed, epoch, len(name)):
            getattr(self._dataset, name, lambda: None)()


def uneven(what: str, said: str) -> ConfigError:
    """Examples that make no batch."""
    return ConfigError(
        f"{what}(): examples of one batch differ in shape or structure: {said}",
        remedy="Make batches in the task, whose own size may vary: a tf.data.Dataset with padded_batch or "
        "bucket_by_sequence_length, or a generator of batches that pads them. They are used as they are.",
    )


def stack(examples: list[Any], what: str) -> Any:
    """One batch of single examples of equal structure."""
    import keras
    import numpy as np

    made = [standard(example, what, Level.EXAMPLE) for example in examples]
    try:
        return keras.tree.map_structure(lambda *leaves: np.stack(leaves), *made)
    except ValueError as error:
        first = named_leaves(made[0])
        for number, example in enumerate(made):
            for (name, leaf), (_, other) in zip(first, named_leaves(example), strict=False):
                if leaf.shape != other.shape:
                    raise uneven(what, f"{name} is {leaf.shape} in one, and {other.shape} {number} later") from None
        raise uneven(what, str(error)) from None


def _host(leaf: Any) -> Any:
    """One array of an element as a NumPy array, or sparse or ragged as it is; float64 as Keras' floatx."""
    import keras
    import tensorflow as tf

    leaf = tf.cast(leaf, keras.config.floatx()) if leaf.dtype == tf.float64 else leaf
    return leaf.numpy() if isinstance(leaf, tf.Tensor) else leaf
