"""Forms of data: generators, datasets of single examples and of batches, texts, columns, weights in the data itself."""

from typing import Any

import keras
import tensorflow as tf

from tests.conformance.base import HELD_OUT, TRAINED, Case, make
from tests.conformance.catalogue import entry

layers = keras.layers


@entry("A tf.data.Dataset of single examples, in its own order", part="fast")
class Dataset(Case):
    def train_data(self) -> Any:
        return tf.data.Dataset.from_tensor_slices(make("numbers", TRAINED, 1))

    def evaluation_data(self) -> Any:
        return tf.data.Dataset.from_tensor_slices(make("numbers", HELD_OUT, 2))
