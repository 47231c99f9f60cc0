"""A generator as training data. It is called once an epoch and must yield the same each time: so it seeds itself.

After a restart it is read again from its beginning up to where training was. Arrays have no such cost: where the data fits
into memory, return arrays.
"""

from collections.abc import Iterator

import keras
import numpy as np

from trainer.task import Task

LENGTH = 64


def examples(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Single examples: a signal float32 [64], and 1.0 where a sine hides in its noise."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        hidden = random.integers(0, 2)
        time = np.arange(LENGTH) * random.uniform(0.2, 0.8) + random.uniform(0, 2 * np.pi)
        signal = random.normal(size=LENGTH) + 1.5 * hidden * np.sin(time)
        yield signal.astype("float32"), np.float32([hidden])


class Waves(Task):
    """Is there a sine in the noise?"""

    def model(self) -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((LENGTH,)),
                keras.layers.Reshape((LENGTH, 1)),
                keras.layers.Conv1D(16, 9, activation="relu"),
                keras.layers.GlobalMaxPooling1D(),
                keras.layers.Dense(1),
            ]
        )

    def train_data(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield from examples(4000, seed=0)

    def evaluation_data(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield from examples(500, seed=1)

    def loss(self) -> keras.losses.Loss:
        return keras.losses.BinaryCrossentropy(from_logits=True)

    def metrics(self) -> list[keras.metrics.Metric]:
        return [keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)]
