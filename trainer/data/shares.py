"""Which rows of a global batch a process reads, and how arrays come to its replicas."""

from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.data.kinds import Batch
from trainer.data.order import replica_slice
from trainer.data.stacking import pick_batch, stack_batches

Join = Callable[[Batch], Batch]
_PARTS = "parts of replicas"
"""The one key of arguments of which each replica has its own rows."""


class Shares:
    """Which rows of a global batch this process reads, and how its replicas get them.

    Where they are divided, each replica's part is the same number of consecutive rows; a batch that does not come out even goes
    to all of them, whole.
    """

    def __init__(self, strategy: Any, *, divided: bool) -> None:
        self._strategy = strategy
        self._replicas: int = strategy.num_replicas_in_sync
        self.divided = divided and self._replicas > 1
        """Whether each process reads its own part."""
        ids = strategy.experimental_distribute_values_from_function(lambda context: context.replica_id_in_sync_group)
        self._own = [int(value) for value in strategy.experimental_local_results(ids)]

    def own(self, rows: int) -> np.ndarray:
        """The places in a batch of `rows` that this process reads: int64."""
        if not self._in_parts(rows):
            return np.arange(rows)
        return np.concatenate([np.arange(rows)[replica_slice(replica, self._replicas, rows)] for replica in self._own])

    def arguments(self, batches: list[Batch], capacity: int, rows: int) -> Any:
        """Batches of `rows` examples, of which this process has its own, as arguments of a program."""
        if not self._in_parts(rows):
            return on_replicas(self._strategy, stack_batches(batches, capacity))
        size = rows // self._replicas
        parts = [slice(at, at + size) for at in range(0, size * len(self._own), size)]
        tables = [stack_batches([_rows(batch, part) for batch in batches], capacity) for part in parts]
        return {_PARTS: on_replicas(self._strategy, *tables)}

    def pick(self, arguments: Any, step: Any, join: Join) -> Batch:
        """Within a program, on a replica: the global batch of a step."""
        if isinstance(arguments, dict) and _PARTS in arguments:
            return join(pick_batch(arguments[_PARTS], step))
        return pick_batch(arguments, step)

    def _in_parts(self, rows: int) -> bool:
        return self.divided and rows % self._replicas == 0


def _rows(batch: Batch, rows: slice) -> Batch:
    import keras

    return keras.tree.map_structure(lambda leaf: leaf[rows], batch)


def on_replicas(strategy: Any, *structures: Any) -> Any:
    """Arrays and tensors as tensors that every replica of this process gets: of one structure the same, and whole; of as many as
    there are replicas each its own."""
    import keras
    import tensorflow as tf

    devices = strategy.extended.worker_devices if strategy.num_replicas_in_sync > 1 else ()

    def given(*leaves: Any) -> Any:
        tensors = [tf.constant(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
        if not devices:
            return tensors[0]

        def on_its_device(context: Any) -> Any:
            place = context.replica_id_in_sync_group % len(devices)
            with tf.device(devices[place]):
                return tf.identity(tensors[place % len(tensors)])

        return strategy.experimental_distribute_values_from_function(on_its_device)

    return keras.tree.map_structure(given, *structures)
