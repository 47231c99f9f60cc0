"""MNIST: 60,000 handwritten digits of 28x28 pixels. Keras downloads the data once, unless `path` names an mnist.npz."""

from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import ConfigError
from trainer.task import Task


class Mnist(Task):
    """A dense or a convolutional network; images float32 [n, 28, 28, 1] in 0..1, labels int32 [n]."""

    def __init__(
        self,
        hidden: list[int] | None = None,
        learning_rate: float = 0.001,
        convolutional: bool = False,
        path: str | None = None,
    ) -> None:
        self.hidden = [128] if hidden is None else hidden
        self.learning_rate = learning_rate
        self.convolutional = convolutional
        self.path = path

    def model(self) -> Any:
        import keras

        layers: list[Any] = [keras.Input((28, 28, 1))]
        if self.convolutional:
            for filters in (32, 64):
                layers += [keras.layers.Conv2D(filters, 3, activation="relu"), keras.layers.MaxPooling2D()]
        layers.append(keras.layers.Flatten())
        layers += [keras.layers.Dense(units, activation="relu") for units in self.hidden]
        return keras.Sequential([*layers, keras.layers.Dense(10)])

    def train_data(self) -> tuple[np.ndarray, np.ndarray]:
        return self._load("train")

    def evaluation_data(self) -> tuple[np.ndarray, np.ndarray]:
        return self._load("test")

    def loss(self) -> Any:
        import keras

        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def optimizer(self) -> Any:
        import keras

        return keras.optimizers.Adam(self.learning_rate)

    def metrics(self) -> list[Any]:
        import keras

        return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]

    def _load(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        if self.path is None:
            import keras

            train, test = keras.datasets.mnist.load_data()
            images, labels = train if part == "train" else test
        else:
            if not Path(self.path).is_file():
                raise ConfigError(
                    f"there is no file {self.path}", remedy="params.path names an mnist.npz as Keras keeps it."
                )
            with np.load(self.path) as data:
                images, labels = data[f"x_{part}"], data[f"y_{part}"]
        return images.astype(np.float32)[..., None] / 255.0, labels.astype(np.int32)
