"""Labels and ids out of range, found within the program, where compiled code would go on with some other value.

XLA, and any GPU, take the nearest row of an embedding or the loss of another class for a number that has none, without a word. So
what an Embedding looks up and what a sparse cross-entropy takes for labels is compared with its size on the way; the first
number out of range is kept in a variable, which is looked at after each block.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import nn as keras_nn  # what the losses call

from trainer.checkpoint.replicas import Replicas, value_of
from trainer.errors import TaskError
from trainer.program.global_batch import GlobalBatch
from trainer.replaced import replaced

_PLACES_MAX = 64
"""Lookups of a step that are watched; more are left to TensorFlow."""


class Ranges:
    """Watches the lookups of one program."""

    def __init__(self, strategy: tf.distribute.Strategy, global_batch: GlobalBatch, what: str) -> None:
        """`what` is computed, for errors: the training batch, the evaluation batch."""
        self._what = what
        self._global_batch = global_batch
        self._replicas = Replicas(strategy)
        with strategy.scope():
            # For each place: the step (from 0) of the first number out of range, or -1; the number; its row in the batch.
            self._found = tf.Variable(
                tf.fill((_PLACES_MAX, 3), tf.constant(-1, tf.int64)), trainable=False, name="ranges"
            )
        self._places: dict[str, tuple[int, Callable[[int], str]]] = {}
        self._step = threading.local()

    @contextlib.contextmanager
    def program(self) -> Iterator[None]:
        """While a step's program is traced, or run eagerly."""
        look_up, cross_entropy = keras.layers.Embedding.call, keras_nn.sparse_categorical_crossentropy

        def call(layer: Any, inputs: Any) -> Any:
            name, size = layer.name, layer.input_dim
            inputs = self._checked(
                f"id of {name}",
                inputs,
                size,
                lambda row: f"row {row} of what the layer {name} looks up: its ids go from 0 to {size - 1} (input_dim)",
            )
            return look_up(layer, inputs)

        def loss(target: Any, output: Any, from_logits: bool = False, axis: int = -1) -> Any:
            size = tf.convert_to_tensor(output).shape[axis]
            if size is not None:
                target = self._checked(
                    f"label for {size}",
                    tf.convert_to_tensor(target),
                    size,
                    lambda row: f"row {row} of the labels: with {size} outputs they go from 0 to {size - 1}",
                )
            return cross_entropy(target, output, from_logits=from_logits, axis=axis)

        with (
            replaced(keras.layers.Embedding, "call", call),
            replaced(keras_nn, "sparse_categorical_crossentropy", loss),
        ):
            yield

    def owns(self, variable: tf.Variable) -> bool:
        """Whether a variable of the program is the one in which this keeps what it found."""
        return any(variable.handle is component.handle for component in self._replicas.components(self._found))

    def at(self, step: Any) -> None:
        """The program is at its `step`-th step."""
        self._step.value = step

    def check(self, first_step: int) -> None:
        """After a program that began at `first_step`.

        Raises:
            TaskError: a number was out of range.
        """
        for component in self._replicas.components(self._found):
            table = value_of(component)
            for place, describe in self._places.values():
                step, number, row = (int(part) for part in table[place])
                if step >= 0:
                    raise TaskError(
                        f"{number} is out of range in {self._what} {first_step + step + 1}, {describe(row)}",
                        remedy="Correct the data, or make the layer larger.",
                    )

    def _checked(self, key: str, values: Any, size: int, describe: Callable[[int], str]) -> Any:
        """`values`, those out of range replaced by 0, so that compiled and plain code meet the same end."""
        if not isinstance(values, tf.Tensor) or not hasattr(self._step, "value"):
            return values
        if len(self._places) == _PLACES_MAX and key not in self._places:
            return values
        place, _ = self._places.setdefault(key, (len(self._places), describe))
        bad = (values < 0) | (values >= tf.cast(size, values.dtype))
        flat = tf.reshape(bad, [-1])
        first = tf.argmax(tf.cast(flat, tf.int8), output_type=tf.int64)
        number = tf.cast(tf.gather(tf.reshape(values, [-1]), first), tf.int64)
        rows = tf.cast(tf.maximum(tf.shape(flat)[0] // tf.maximum(tf.shape(values)[0], 1), 1), tf.int64)
        before = self._found[place]
        row = first // rows + self._global_batch.first_row(tf.shape(values)[0])
        now = tf.stack([tf.cast(self._step.value, tf.int64), number, row])
        after = tf.where((before[0] < 0) & tf.reduce_any(flat), now, before)
        self._found.assign(tf.tensor_scatter_nd_update(self._found, [[place]], [after]))
        return tf.where(bad, tf.zeros_like(values), values)
