"""What each replica holds: reading the copies of a variable, and gathering values over all replicas of all workers.

Imports TensorFlow. Gathering is a collective wherever replicas live in several processes: then all workers must call it, in
the same order. Nothing here writes to a variable, but for `put_back`.
"""

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import google_crc32c
import numpy as np
import tensorflow as tf


def raw(variable: Any) -> Any:
    """TensorFlow's variable behind Keras', or itself."""
    return variable if isinstance(variable, tf.Variable) else variable.value


class Replicas:
    """The replicas of a strategy, those of this process and all."""

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.count: int = strategy.num_replicas_in_sync
        """Replicas of all workers."""
        ids = strategy.experimental_distribute_values_from_function(lambda context: context.replica_id_in_sync_group)
        self.local_ids: list[int] = [int(value) for value in strategy.experimental_local_results(ids)]
        """Which of them live in this process, by their global ids."""

    @property
    def of_one_process(self) -> bool:
        """Whether all replicas live in this process."""
        return len(self.local_ids) == self.count

    def components(self, variable: Any) -> list[tf.Variable]:
        """The plain variables behind `variable` (Keras' or tf's), one for each replica of this process, in their order.

        A variable that was made outside the strategy's scope is one for all of them, and is listed once.
        """
        return list(self._strategy.experimental_local_results(raw(variable)))

    def local_values(self, variable: Any) -> list[np.ndarray]:
        """The value of each replica of this process: views where the device is the CPU. Use them before the next step."""
        components = self.components(variable)
        values = [value_of(component) for component in components]
        return values if len(values) == len(self.local_ids) else [values[0]] * len(self.local_ids)

    def differing(self, row: np.ndarray) -> np.ndarray:
        """Where int64 `row` [n] of this process is not that of all others, on every worker the same. A collective."""
        table = self.all_gather([row] * len(self.local_ids))
        return np.flatnonzero((table != table[0]).any(axis=0))

    def all_gather(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """int64 [local replicas, n] from every worker -> int64 [all replicas, n] on every worker, in order of replica.

        A collective, unless all replicas are of this process.
        """
        if self.of_one_process:
            return np.stack(rows)
        # The id goes along, so that nothing depends on the order in which a collective puts its parts.
        tagged = {
            identity: np.concatenate([np.asarray([identity], np.int64), row])[np.newaxis]
            for identity, row in zip(self.local_ids, rows, strict=True)
        }
        values = self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(tagged[int(context.replica_id_in_sync_group)])
        )
        table = self._strategy.gather(values, axis=0).numpy()
        return np.asarray(table[np.argsort(table[:, 0])][:, 1:])

    def checksums(self, variables: Sequence[Any]) -> np.ndarray:
        """A checksum of every replica's copy of each variable: int64 [all replicas, variables]. A collective."""
        rows = np.zeros((len(self.local_ids), len(variables)), np.int64)
        for column, variable in enumerate(variables):
            values = [value_of(component) for component in self.components(variable)]
            if len(values) == len(self.local_ids):
                rows[:, column] = [checksum(value) for value in values]
            else:
                rows[:, column] = checksum(values[0])
        return self.all_gather(list(rows))

    def gather_values(self, variables: Sequence[Any]) -> list[list[np.ndarray]]:
        """Every replica's copy of each variable: [variable][replica]. One collective for all of them together."""
        if not variables:
            return []
        local = [self.local_values(variable) for variable in variables]
        if len(self.local_ids) == self.count:
            return local
        samples = [values[0] for values in local]
        words = [-(-sample.nbytes // 8) for sample in samples]
        rows = [np.zeros(sum(words), np.int64) for _ in self.local_ids]
        at = 0
        for values, length in zip(local, words, strict=True):
            for row, value in zip(rows, values, strict=True):
                row[at : at + length].view(np.uint8)[: value.nbytes] = flat_bytes(value)
            at += length
        table = self.all_gather(rows)
        gathered: list[list[np.ndarray]] = []
        at = 0
        for sample, length in zip(samples, words, strict=True):
            parts = [np.ascontiguousarray(row[at : at + length]).view(np.uint8)[: sample.nbytes] for row in table]
            gathered.append([part.view(sample.dtype).reshape(sample.shape) for part in parts])
            at += length
        return gathered


@contextlib.contextmanager
def put_back(variables: Sequence[tf.Variable]) -> Iterator[None]:
    """Within it, these plain variables may be changed; afterwards they are as before. Takes a copy of each."""
    before = [tf.identity(variable) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def value_of(variable: tf.Variable) -> np.ndarray:
    """The value of a plain variable; without a copy where it lies in this machine's memory."""
    # The bare operation: read_value makes two of it, which is most of the time that a small variable takes.
    tensor = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)
    if "CPU" in tensor.device:
        dtype = tensor.dtype.as_numpy_dtype
        try:
            return np.asarray(memoryview(tensor))
        except ValueError:
            # Types that Python's buffers have no letter for, bfloat16 above all: through an integer of the same size.
            if tensor.dtype.size == 2:
                return np.asarray(memoryview(tf.bitcast(tensor, tf.uint16))).view(dtype)
    return np.asarray(tensor.numpy())


def flat_bytes(array: np.ndarray) -> np.ndarray:
    """uint8 [nbytes] of an array of any shape and type; a view where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def checksum(array: np.ndarray) -> int:
    """A signed 64-bit checksum of the bytes: crc32c above, adler32 below."""
    data = flat_bytes(array)
    high = google_crc32c.value(data) if data.nbytes else 0
    return int(np.uint64((high << 32) | zlib.adler32(data.data)).astype(np.int64))
