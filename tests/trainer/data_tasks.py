"""Tasks of test_data_jobs.py, which differ in the form of their data alone. Loaded by file, as a user's are."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.task import Task

RANDOM, OWN = np.random.default_rng(3), np.random.default_rng()
"""The same in each process, and not."""
X = np.maximum(RANDOM.normal(size=(52, 5)).astype("float32"), 0)
Y = (X[:, 0] > 0).astype("int32") + (X[:, 1] > 0)
WORDS = [RANDOM.integers(0, 5, 1 + number % 4).tolist() for number in range(52)]
BATCH = 8
BATCHES = [(X[at : at + BATCH], Y[at : at + BATCH]) for at in range(0, len(X), BATCH)]


def network() -> keras.Model:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(6, "tanh"), keras.layers.Dense(3, "softmax")])
    model.compile(keras.optimizers.SGD(0.3, momentum=0.5), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    def __init__(self, *, shuffled: bool = False) -> None:
        super().__init__()
        self.shuffled = shuffled
        self.order = np.arange(len(X))

    def __len__(self) -> int:
        return len(BATCHES)

    def __getitem__(self, number: int) -> Any:
        rows = self.order[number * BATCH : (number + 1) * BATCH]
        noise = np.random.normal(0, 0.01, X[rows].shape).astype("float32") if self.shuffled else 0
        return X[rows] + noise, Y[rows]

    def on_epoch_end(self) -> None:
        if self.shuffled:
            np.random.shuffle(self.order)


class Forms(Task):
    """The last batch is smaller than the others."""

    def __init__(self, form: str = "arrays") -> None:
        self.form = form

    def model(self) -> keras.Model:
        if self.form != "ragged":
            return network()
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((None,), dtype="int32"),
                layers.Embedding(5, 4),
                layers.GlobalAveragePooling1D(),
                layers.Dense(3, "softmax"),
            ]
        )
        model.compile(keras.optimizers.SGD(0.3), "sparse_categorical_crossentropy")
        return model

    def train_data(self) -> Any:
        slices = tf.data.Dataset.from_tensor_slices((X, Y))
        return {
            "arrays": (X, Y),
            "examples": slices,
            "dataset": slices.batch(BATCH),
            "generator": lambda: iter(BATCHES),
            "pydataset": Batches(),
            "shuffled": Batches(shuffled=True),
            "sparse": (tf.sparse.from_dense(X), Y),
            "reshuffled": slices.cache().shuffle(len(X)).batch(BATCH),
            "unlike": slices.shuffle(len(X), seed=int(OWN.integers(1 << 30)), reshuffle_each_iteration=False),
            "unlike arrays": tuple(part[OWN.permutation(len(X))] for part in (X, Y)),
            "ragged": (tf.ragged.constant(WORDS, dtype=tf.int32), Y),
        }[self.form]

    def evaluation_data(self) -> Any:
        return self.train_data()
