"""The demo: handwritten digits of 8x8 pixels (optdigits, see data/README.md), a small dense network, 97 % in seconds."""

from importlib import resources
from typing import Any

import numpy as np

from trainer.task import Task

TEST_EVERY = 5
"""Every fifth example is held out. The file is in order of writers, so each writer is in both parts."""


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """All 1,797 digits: images float32 [1797, 8, 8] in 0..1, labels int32 [1797]."""
    with resources.files("trainer.tasks").joinpath("data/optdigits.npz").open("rb") as file, np.load(file) as data:
        return data["images"].astype(np.float32) / 16.0, data["labels"].astype(np.int32)


class Digits(Task):
    """Which digit is it?"""

    def __init__(self, hidden: list[int] | None = None, learning_rate: float = 0.003, dropout: float = 0.0) -> None:
        self.hidden = [64, 64] if hidden is None else hidden
        self.learning_rate = learning_rate
        self.dropout = dropout

    def model(self) -> Any:
        import keras

        layers = [keras.Input((8, 8)), keras.layers.Flatten()]
        for units in self.hidden:
            layers.append(keras.layers.Dense(units, activation="relu"))
            if self.dropout:
                layers.append(keras.layers.Dropout(self.dropout))
        return keras.Sequential([*layers, keras.layers.Dense(10)])

    def train_data(self) -> tuple[np.ndarray, np.ndarray]:
        images, labels = load_digits()
        kept = np.arange(len(labels)) % TEST_EVERY != 0
        return images[kept], labels[kept]

    def evaluation_data(self) -> tuple[np.ndarray, np.ndarray]:
        images, labels = load_digits()
        return images[::TEST_EVERY], labels[::TEST_EVERY]

    def loss(self) -> Any:
        import keras

        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def optimizer(self) -> Any:
        import keras

        return keras.optimizers.Adam(self.learning_rate)

    def metrics(self) -> list[Any]:
        import keras

        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
