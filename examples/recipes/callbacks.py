"""Callbacks.

Keras' own and yours, with hooks of epochs and of batches. What they remember survives a restart: here `ReduceLROnPlateau`
goes on counting, and `Best.epochs` is complete. A hook of batches makes blocks of one step: prefer hooks of epochs.
"""

import keras

from trainer.task import Task
from trainer.tasks.digits import load_digits


class Best(keras.callbacks.Callback):
    """Ends training once the accuracy is good enough."""

    def __init__(self, enough):
        super().__init__()
        self.enough = enough
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(float(logs["val_accuracy"]))
        if self.epochs[-1] >= self.enough:
            self.model.stop_training = True


class Watched(Task):
    def __init__(self, enough: float = 0.97) -> None:
        self.best = Best(enough)

    def model(self):
        return keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(10)])

    def train_data(self):
        images, labels = load_digits()
        return images[:1500], labels[:1500]

    def evaluation_data(self):  # with `evaluate: {every: epoch}` in the job file
        images, labels = load_digits()
        return images[1500:], labels[1500:]

    def loss(self):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def metrics(self):
        return ["accuracy"]

    def callbacks(self):
        return [keras.callbacks.ReduceLROnPlateau("val_accuracy", patience=2), self.best]
