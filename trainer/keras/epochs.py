"""The batches of `fit`, epoch by epoch, from any batch on: Keras' own iterator, which makes up for what was done before."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TFEpochIterator
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.generator_data_adapter import GeneratorDataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
from keras.src.trainers.epoch_iterator import EpochIterator

from trainer.keras.seeds import Shuffles, unseeded

DONE = object()
"""In an iterator's place: the batches of this step were trained before, and are not to be trained again."""

Turn = tuple[int, int, Any]
"""Number of the first and of the last batch of one call of the training function, and the iterator to take them from."""


@dataclass(frozen=True)
class Before:
    """What of the data was used before."""

    epochs: int
    """Whole epochs."""
    batches: int
    """Batches of the epoch that goes on."""
    pass_batches: int | None
    """Batches of one pass, where a pass had to end for them to be known."""


class Epochs(TFEpochIterator):  # type: ignore[misc]
    """Keras' iterator. With `before`, its first epoch begins where training was.

    What comes then depends on what was taken before: each epoch's iterator is made again, since a dataset that shuffles
    draws with each; a Python generator is read again, since it has only the one way to get anywhere.
    """

    def __init__(
        self,
        *args: Any,
        distribute_strategy: tf.distribute.Strategy,
        before: Before | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        """As Keras' own.

        Args:
            before: what was used before; None for a call that begins.
            seed: of the order of arrays, where the script seeds nothing.
        """
        self.repeats = False
        """Whether the present batch was trained before."""
        self._before = before
        EpochIterator.__init__(self, *args, **kwargs)
        self._num_batches: int | None
        arrays = isinstance(self.data_adapter, ArrayDataAdapter)
        self._shuffles = Shuffles(seed) if seed is not None and arrays and unseeded() else None
        with self._shuffles.made_with() if self._shuffles is not None else contextlib.nullcontext():
            dataset = self.data_adapter.get_tf_dataset()
        self._distribute_strategy = distribute_strategy
        # Several replicas get each batch whole (replicas.py). What the script has distributed by itself stays so.
        self._distributed_dataset = (
            dataset
            if distribute_strategy.num_replicas_in_sync > 1 or isinstance(dataset, tf.distribute.DistributedDataset)
            else distribute_strategy.experimental_distribute_dataset(dataset)
        )

    @property
    def element_spec(self) -> Any:
        """Of a batch."""
        return self._distributed_dataset.element_spec

    @property
    def of_python(self) -> bool:
        """Whether Python code of the user's makes the batches, one after the other."""
        return isinstance(self.data_adapter, GeneratorDataAdapter | PyDatasetAdapter)

    def pass_over(self) -> None:
        """Take what was used before for used."""
        before, self._before = self._before, None
        if before is not None:
            for _ in range(before.epochs):
                self._pass_over_epoch(before)

    def _get_iterator(self) -> Any:
        if self._shuffles is not None:
            self._shuffles.next()
        return self._distributed_dataset

    def _enumerate_iterator(self) -> Iterator[Turn]:
        before = self._before
        self.pass_over()
        turns: Iterator[Turn] = super()._enumerate_iterator()
        if before is None or not before.batches:
            return turns
        return self._from_batch(turns, before.batches)

    def _pass_over_epoch(self, before: Before) -> None:
        if self.steps_per_epoch or self._num_batches:
            for _, _, iterator in super()._enumerate_iterator():
                # One iterator for several epochs is read on; one that is left behind need not be.
                if self.steps_per_epoch or self.of_python:
                    self._read(iterator, self.steps_per_execution)
            return
        # The first pass over data of unknown length, which told how long it is.
        self.data_adapter.on_epoch_begin()
        iterator = iter(self._get_iterator())
        if self.of_python:
            self._read(iterator, before.pass_batches or 0)
        self._num_batches = self._steps_seen = before.pass_batches
        self._current_iterator = None
        self.data_adapter.on_epoch_end()

    def _from_batch(self, turns: Iterator[Turn], batches: int) -> Iterator[Turn]:
        done = 0
        while done < batches:
            first, last, iterator = next(turns)
            self._read(iterator, last + 1 - first)
            done = last + 1
        self.repeats = True
        yield done - 1, done - 1, DONE
        self.repeats = False
        yield from turns

    def _read(self, iterator: Any, count: int) -> None:
        for _ in range(count):
            if next(iterator, None) is None:
                return
