"""Layers of your own.

A layer may make its weights when it is first called (`build`), have weights that are not trained, and add to the loss: all of
it is saved and restored. A number that a layer counts or averages is such a weight (`add_weight` with `trainable=False`), and
not a Python attribute, which a compiled step would change only once. Register the class, and Keras can read the export.
"""

import keras

from trainer.task import Task
from trainer.tasks.digits import load_digits


@keras.saving.register_keras_serializable("recipes")
class Scaled(keras.layers.Layer):
    """Dense, times a number that grows with the steps seen; its kernel is kept small by `strength`."""

    def __init__(self, units, strength=1e-3, **kwargs):
        super().__init__(**kwargs)
        self.units, self.strength = units, strength

    def build(self, input_shape):
        self.kernel = self.add_weight((input_shape[-1], self.units), name="kernel")
        self.seen = self.add_weight((), initializer="zeros", trainable=False, name="seen")

    def call(self, x, training=False):
        if training:
            self.seen.assign_add(1.0)
        self.add_loss(self.strength * keras.ops.sum(keras.ops.square(self.kernel)))
        return keras.ops.matmul(x, self.kernel) * (1.0 - 0.5 ** (1.0 + self.seen))

    def get_config(self):
        return super().get_config() | {"units": self.units, "strength": self.strength}


class Regularised(Task):
    def model(self):
        # No Input: the model is built by its first batch.
        return keras.Sequential([keras.layers.Flatten(), Scaled(32), keras.layers.ReLU(), keras.layers.Dense(10)])

    def train_data(self):
        return load_digits()

    def loss(self):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
