"""Data on its way into a block of steps: what a block gets as arguments, and how one step picks its batch from them.

Small arrays lie on the device; a block gets the numbers of its examples. All else is streamed: a thread assembles batches,
a block gets them stacked. Either way a block has room for a fixed number of steps, so that one program serves all lengths.
Every replica gets the whole global batch, but of examples by number, of which each worker reads those of its own replicas.
"""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from trainer.data.checksum import label_checksum
from trainer.data.elements import PyDatasetElements
from trainer.data.kinds import size_bytes
from trainer.data.order import Calendar, Order
from trainer.data.shares import Join, Shares, on_replicas
from trainer.data.sources import ArraySource, Batch, BatchSource, ExamplesSource, Source, StreamSource
from trainer.data.stacking import shape_of
from trainer.errors import ConfigError

log = logging.getLogger(__name__)

RESIDENT_BYTES_MAX = 1 << 30
"""Arrays up to this size are kept on the device."""
_INDEX_BYTES = 16 << 20
_STREAM_BYTES = 16 << 20
_STEPS_MAX = 8192
_UNEVEN_STEPS_MAX = 32
"""Of batches that differ in shape, few are of one shape in succession, and a table's room costs time."""


class Feed(Protocol):
    """Batches for blocks of consecutive steps."""

    capacity: int
    """The most steps of one block."""
    labels: int
    """The checksum of what the last block read besides inputs; 0 of arrays, which are compared at the start,
    and of one replica."""
    shapes_vary: bool
    """Whether batches may differ in more than their size, so that a program should be made for any shape."""

    def block(self, first_step: int, steps: int) -> tuple[Any, int]:
        """The arguments of a block of at most `steps` steps from `first_step` on, and how many it has: as many as are of one
        shape, which the data alone decides. Per replica where there are several."""

    def blank_blocks(self, first_step: int) -> list[Any]:
        """Arguments of blocks without a step, one for each shape that is known to come: to compile for."""

    def begins_epoch(self, first_step: int, taken: int) -> np.ndarray:
        """Which steps of a block are the first one of an epoch: bool [capacity]."""

    def pick(self, arguments: Any, step: Any, join: Join) -> Batch:
        """Within the program, on a replica: the global batch of the block's `step`-th step (a scalar int32 tensor). `join` makes
        it of a replica's own rows."""

    def close(self) -> None:
        """Stop reading ahead."""


class ResidentFeed:
    """Arrays on each device; a block is a table of example numbers, int32 [capacity, batch size]."""

    shapes_vary = False
    labels = 0

    def __init__(self, strategy: Any, source: ArraySource, order: Order) -> None:

        self._strategy = strategy
        self._order = order
        self.capacity = max(1, min(_STEPS_MAX, _INDEX_BYTES // (order.global_batch_size * 4)))
        # The order of the next block is worked out while the present one runs.
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="order")
        self._prepared: Future[None] | None = None
        self._arrays = on_replicas(strategy, source.arrays)

    def block(self, first_step: int, steps: int) -> tuple[Any, int]:
        if self._prepared is not None:
            self._prepared.result()
        rows = self._order.rows(first_step, min(steps, self.capacity))
        self._prepared = self._ahead.submit(self._order.prepare, first_step + len(rows), max(steps, 1))
        return self._arguments(rows), len(rows)

    def blank_blocks(self, first_step: int) -> list[Any]:
        return [self._arguments(np.empty((0, size), np.int64)) for size in self._order.sizes]

    def begins_epoch(self, first_step: int, taken: int) -> np.ndarray:
        return _begins(self._order.calendar, first_step, taken, self.capacity)

    def pick(self, arguments: Any, step: Any, join: Join) -> Batch:
        import keras
        import tensorflow as tf

        rows, arrays = arguments
        return keras.tree.map_structure(lambda array: tf.gather(array, rows[step]), arrays)

    def close(self) -> None:
        self._ahead.shutdown()

    def _arguments(self, rows: np.ndarray) -> Any:

        table = np.zeros((self.capacity, rows.shape[1]), np.int32)
        table[: len(rows)] = rows
        return on_replicas(self._strategy, table), self._arrays


class StreamFeed:
    """Batches assembled by a thread ahead of training, stacked to [capacity, batch size, ...]."""

    def __init__(
        self,
        strategy: Any,
        source: Source,
        order: Order | None,
        batch_size: int,
        first_step: int,
        waits: Callable[[], AbstractContextManager[None]] = nullcontext,
        *,
        calendar: Calendar | None = None,
    ) -> None:
        """A stream keeps its own order, and is read up to `first_step` first. In the context that `waits` gives training
        waits for a batch.

        Args:
            order: of arrays, and of examples by number.
            batch_size: of arrays and examples; a source of batches has its own.
            calendar: of a stream. Default: one endless epoch.
        """
        import keras

        self._strategy = strategy
        self._shares = Shares(strategy, divided=isinstance(source, ExamplesSource))
        self._source = source
        self._order = order
        self._batch_size = batch_size
        self._calendar = order.calendar if order is not None else calendar or Calendar(None, batch_size)
        self._waits = waits
        count = 1 if isinstance(source, BatchSource) else batch_size
        sample = source.sample(1)
        step_bytes = max(1, sum(size_bytes(leaf) for leaf in keras.tree.flatten(sample)) * count)
        self.shapes_vary = isinstance(source, BatchSource) and may_vary(source)
        most = _UNEVEN_STEPS_MAX if self.shapes_vary else _STEPS_MAX
        self.capacity = max(1, min(most, _STREAM_BYTES // step_bytes))
        self._next_step = self._pulled = first_step
        self._asked = threading.Condition()
        self.labels = 0
        self._held: Batch | None = None
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(max(2, min(2 * self.capacity, 1024)))
        self._closed = threading.Event()
        # Opened here: to make a dataset anew changes global random states for a moment.
        batches = self._batches(first_step)
        threading.Thread(target=self._assemble, args=(batches,), name="data", daemon=True).start()

    def block(self, first_step: int, steps: int) -> tuple[Any, int]:
        if not steps:
            # A block of no steps still gives its program shapes and dtypes.
            return self._blank(self._batch_size), 0
        if first_step != self._next_step:
            raise ValueError(f"a stream is read in order: step {self._next_step} is next, not {first_step}")
        batches = [self._take()]
        size = self._size_of(self._next_step)
        while len(batches) < min(steps, self.capacity):
            batch = self._take()
            if shape_of(batch) != shape_of(batches[0]) or self._size_of(self._next_step + len(batches)) != size:
                self._held = batch
                break
            batches.append(batch)
        self._next_step += len(batches)
        self.labels = 0
        if self._order is None and self._strategy.num_replicas_in_sync > 1:  # else there is nobody to compare them with
            for batch in batches:
                self.labels = label_checksum(batch, self.labels)
        return self._shares.arguments(batches, self.capacity, size), len(batches)

    def blank_blocks(self, first_step: int) -> list[Any]:
        if isinstance(self._source, BatchSource):
            return [self._shares.arguments([batch], self.capacity, 0) for batch in self._source.samples()]
        sizes = self._order.sizes if self._order is not None else [self._batch_size]
        return [self._blank(size) for size in sizes]

    def begins_epoch(self, first_step: int, taken: int) -> np.ndarray:
        return _begins(self._calendar, first_step, taken, self.capacity)

    def pick(self, arguments: Any, step: Any, join: Join) -> Batch:
        return self._shares.pick(arguments, step, join)

    def close(self) -> None:
        self._closed.set()
        with self._asked:
            self._asked.notify_all()

    def _blank(self, size: int) -> Any:
        return self._shares.arguments([self._source.sample(len(self._shares.own(size)))], self.capacity, size)

    def _size_of(self, step: int) -> int:
        """The examples of a step's batch, where workers divide it; they cut it by that."""
        return self._order.size_of(step) if self._order is not None and self._shares.divided else 0

    def _take(self) -> Batch:
        if self._held is not None:
            held, self._held = self._held, None
            return held
        with self._asked:
            self._pulled += 1
            self._asked.notify_all()
        try:
            item = self._ready.get_nowait()
        except queue.Empty:
            with self._waits():
                item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _assemble(self, batches: Iterator[Batch]) -> None:
        try:
            for batch in batches:
                if not self._put(batch):
                    return
            self._put(ConfigError("the training data ended", remedy="A dataset that ends must not be empty."))
        except _Closed:
            return
        except BaseException as error:
            self._put(error)

    def _batches(self, first_step: int) -> Iterator[Batch]:
        source = self._source
        if isinstance(source, ArraySource):
            order = self._order
            assert order is not None
            return (source.rows(order.rows(step, 1)[0]) for step in itertools.count(first_step))
        if isinstance(source, ExamplesSource):
            assert self._order is not None
            return source.batches(self._order, first_step, self._shares.own)
        if isinstance(source, BatchSource):
            batches = source.batches(first_step, self._until_asked)
            read_again = not isinstance(source.elements, PyDatasetElements)
        else:
            batches = source.batches(self._batch_size, first_step, self._calendar.remainder)
            read_again = True
        return _logging_the_way(batches, first_step) if first_step and read_again else batches

    def _until_asked(self, steps: int) -> None:
        with self._asked:
            self._asked.wait_for(lambda: self._pulled >= steps or self._closed.is_set())
        if self._closed.is_set():
            raise _Closed

    def _put(self, item: Batch | BaseException) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False


class _Closed(Exception):
    """Nobody waits for batches any more."""


def _logging_the_way(batches: Iterator[Batch], first_step: int) -> Iterator[Batch]:
    """The same batches; how long the first one takes is told, since all before it are read again."""
    log.info("reading the data up to where training was steps=%d", first_step)
    started = time.monotonic()
    for number, batch in enumerate(batches):
        if number == 0:
            log.info("read up to where training was steps=%d seconds=%.1f", first_step, time.monotonic() - started)
        yield batch


def make_feed(
    strategy: Any,
    source: Source,
    *,
    calendar: Calendar,
    seed: int,
    first_step: int,
    waits: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Feed:
    """The feed for a source: resident where its arrays are small enough, else streamed, and waited for within `waits`."""
    size = calendar.global_batch_size
    if isinstance(source, StreamSource | BatchSource):
        return StreamFeed(strategy, source, None, size, first_step, waits, calendar=calendar)
    order = Order(source.examples, size, seed, calendar.remainder)
    if isinstance(source, ArraySource) and source.dense and source.size_bytes <= RESIDENT_BYTES_MAX:
        return ResidentFeed(strategy, source, order)
    return StreamFeed(strategy, source, order, size, first_step, waits)


def _begins(calendar: Calendar, first_step: int, taken: int, capacity: int) -> np.ndarray:
    begins = np.zeros(capacity, np.bool_)
    step = first_step if calendar.begins_epoch(first_step) else calendar.next_end(first_step)
    while step is not None and step < first_step + taken:
        begins[step - first_step] = True
        step = calendar.next_end(step)
    return begins


def may_vary(source: BatchSource) -> bool:
    """Whether its batches may differ in more than their number of examples: by the dataset's spec, else by the first two."""
    import keras

    spec = getattr(getattr(source.elements, "dataset", None), "element_spec", None)
    if spec is not None:
        shapes = [getattr(leaf, "shape", None) for leaf in keras.tree.flatten(spec)]
        return any(shape is None or shape.rank is None or None in shape.as_list()[1:] for shape in shapes)
    two = [keras.tree.flatten(batch) for batch in itertools.islice(source.part(0, 1, 0), 2)]
    return len({tuple(tuple(leaf.shape[1:]) for leaf in leaves) for leaves in two}) > 1
