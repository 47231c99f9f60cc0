"""Data on its way into a block of steps: what a block gets as arguments, and how one step picks its batch from them.

Small arrays lie on the device; a block gets the numbers of its examples. All else is streamed: a thread assembles batches,
a block gets them stacked. Either way a block has room for a fixed number of steps, so that one program serves all lengths.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from trainer.data.order import Order
from trainer.data.sources import ArraySource, Batch, StreamSource
from trainer.errors import ConfigError

log = logging.getLogger(__name__)

RESIDENT_BYTES_MAX = 1 << 30
"""Arrays up to this size are kept on the device."""
_INDEX_BYTES = 16 << 20
_STREAM_BYTES = 16 << 20
_STEPS_MAX = 8192


class Feed(Protocol):
    """Batches for blocks of consecutive steps; every replica gets all of each."""

    capacity: int
    """The most steps of one block."""

    def block(self, first_step: int, steps: int) -> tuple[Any, int]:
        """The arguments of a block from `first_step` on, of up to `steps` steps, and how many it has: those of one shape."""

    def pick(self, arguments: Any, step: Any) -> Batch:
        """Within the program, on a replica: the batch of the block's `step`-th step (a scalar int32 tensor)."""

    def close(self) -> None:
        """Stop reading ahead."""


class ResidentFeed:
    """Arrays on each device; a block is a table of example numbers, int32 [capacity, per-replica batch]."""

    def __init__(self, strategy: Any, source: ArraySource, order: Order) -> None:
        import keras
        import tensorflow as tf

        self._strategy = strategy
        self._order = order
        rows_bytes = order.global_batch_size * 4
        self.capacity = max(1, min(_STEPS_MAX, _INDEX_BYTES // rows_bytes))
        # The order of the next block is worked out while the present one runs.
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="order")
        self._prepared: Future[None] | None = None
        self._arrays = keras.tree.map_structure(
            lambda array: on_replicas(strategy, lambda _: tf.constant(array)), source.arrays
        )

    def block(self, first_step: int, steps: int) -> tuple[Any, int]:
        import tensorflow as tf

        if self._prepared is not None:
            self._prepared.result()
        rows = np.zeros((self.capacity, self._order.global_batch_size), np.int32)
        rows[:steps] = self._order.rows(first_step, steps)
        self._prepared = self._ahead.submit(self._order.prepare, first_step + steps, max(steps, 1))
        return (on_replicas(self._strategy, lambda _: tf.constant(rows)), self._arrays), steps

    def pick(self, arguments: Any, step: Any) -> Batch:
        import keras
        import tensorflow as tf

        rows, arrays = arguments
        return keras.tree.map_structure(lambda array: tf.gather(array, rows[step]), arrays)

    def close(self) -> None:
        self._ahead.shutdown()


class StreamFeed:
    """Batches assembled by a thread ahead of training, stacked to [capacity, per-replica batch, ...]."""

    def __init__(
        self,
        strategy: Any,
        source: ArraySource | StreamSource,
        order: Order | None,
        batch_size: int,
        first_step: int,
        waits: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`order`: of arrays. A stream keeps its own, and is read up to `first_step` first. In the context that `waits` gives
        training waits for a batch."""
        import keras

        self._strategy = strategy
        self._source = source
        self._order = order
        self._batch_size = batch_size
        self._waits = waits
        sample = keras.tree.flatten(source.sample(1))
        step_bytes = max(1, sum(leaf.nbytes for leaf in sample)) * batch_size
        self.capacity = max(1, min(_STEPS_MAX, _STREAM_BYTES // step_bytes))
        self._next_step = first_step
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(max(2, min(2 * self.capacity, 1024)))
        self._closed = threading.Event()
        threading.Thread(target=self._assemble, args=(first_step,), name="data", daemon=True).start()

    def block(self, first_step: int, steps: int) -> tuple[Any, int]:
        import keras
        import tensorflow as tf

        if steps and first_step != self._next_step:
            raise ValueError(f"a stream is read in order: step {self._next_step} is next, not {first_step}")
        self._next_step += steps
        # A block of no steps still gives its program shapes and dtypes.
        batches = [self._take() for _ in range(steps)] or [self._source.sample(self._batch_size)]

        def stacked(*leaves: np.ndarray) -> Any:
            table = np.zeros((self.capacity, *leaves[0].shape), leaves[0].dtype)
            for row, leaf in zip(table, leaves, strict=False):
                row[...] = leaf
            return on_replicas(self._strategy, lambda _: tf.constant(table))

        return keras.tree.map_structure(stacked, *batches), steps

    def pick(self, arguments: Any, step: Any) -> Batch:
        import keras

        return keras.tree.map_structure(lambda table: table[step], arguments)

    def close(self) -> None:
        self._closed.set()

    def _take(self) -> Batch:
        try:
            item = self._ready.get_nowait()
        except queue.Empty:
            with self._waits():
                item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _assemble(self, first_step: int) -> None:
        try:
            for batch in self._batches(first_step):
                if not self._put(batch):
                    return
            self._put(ConfigError("the training data ended", remedy="A dataset that ends must not be empty."))
        except BaseException as error:
            self._put(error)

    def _batches(self, first_step: int) -> Iterator[Batch]:
        if isinstance(self._source, ArraySource):
            assert self._order is not None
            while True:
                yield self._source.rows(self._order.rows(first_step, 1)[0])
                first_step += 1
        skipped = first_step * self._batch_size
        if skipped:
            log.info("reading the data up to where training was examples=%d", skipped)
        started = time.monotonic()
        for number, batch in enumerate(self._source.batches(self._batch_size, skipped)):
            if number == 0 and skipped:
                log.info("read up to where training was examples=%d seconds=%.1f", skipped, time.monotonic() - started)
            yield batch

    def _put(self, item: Batch | BaseException) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False


def on_replicas(strategy: Any, value: Any) -> Any:
    """`value(global replica id)` on each replica of this process; the plain value where there is only one in all."""
    if strategy.num_replicas_in_sync == 1:
        return value(0)
    return strategy.experimental_distribute_values_from_function(
        lambda context: value(int(context.replica_id_in_sync_group))
    )


def make_feed(
    strategy: Any,
    source: ArraySource | StreamSource,
    *,
    seed: int,
    global_batch_size: int,
    first_step: int,
    waits: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Feed:
    """The feed for a source: resident where its arrays are small enough, else streamed, and waited for within `waits`."""
    if isinstance(source, StreamSource):
        return StreamFeed(strategy, source, None, global_batch_size, first_step, waits)
    order = Order(source.examples, global_batch_size, seed)
    if source.size_bytes <= RESIDENT_BYTES_MAX:
        return ResidentFeed(strategy, source, order)
    return StreamFeed(strategy, source, order, global_batch_size, first_step, waits)
