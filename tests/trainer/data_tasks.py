"""Tasks of test_data_jobs.py, which differ in the form of their data alone. Loaded by file, as a user's are."""

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.data import Examples
from trainer.task import Task

RANDOM, OWN = np.random.default_rng(3), np.random.default_rng()
"""The same in each process, and not."""
X = np.maximum(RANDOM.normal(size=(52, 5)).astype("float32"), 0)
Y = (X[:, 0] > 0).astype("int32") + (X[:, 1] > 0)
WORDS = [RANDOM.integers(0, 5, 1 + number % 4).tolist() for number in range(52)]
TEXTS = [[f"w{word % 7} w{word % 3}"] for word in range(52)]
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


class Items:
    """As datasets of other libraries are."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, number: int) -> Any:
        if READ_BY:
            with open(f"{READ_BY}-{os.getpid()}", "a") as file:
                file.write(f"{number}\n")
        return X[number], Y[number]

    def __iter__(self) -> Any:
        raise AssertionError("it is to be read by number")


READ_BY = os.environ.get("TEST_READ_BY")
"""Where each process notes what it reads, in this order."""


class Looking(keras.Model):  # type: ignore[misc]
    """Its loss looks at the inputs of the whole batch."""

    def compute_loss(self, x: Any, y: Any, y_pred: Any, *others: Any, **named: Any) -> Any:
        return super().compute_loss(x, y, y_pred, *others, **named) + 0.01 * keras.ops.max(x)


class ItemsOfBatches(Items):
    """The same whose items are batches, as those of a PyDataset are."""

    def __len__(self) -> int:
        return len(BATCHES)

    def __getitem__(self, number: int) -> Any:
        return BATCHES[number]

    def __iter__(self) -> Any:
        return iter(BATCHES)


def by_number() -> Examples:
    return Examples(len(X), lambda number: (tf.gather(X, number), tf.gather(Y, number)))


class Forms(Task):
    """The last batch is smaller than the others."""

    def __init__(self, form: str = "arrays", evaluated: bool = True) -> None:
        self.form, self.evaluated = form, evaluated

    def model(self) -> keras.Model:
        if self.form == "looking":
            inputs = keras.Input((5,))
            model = Looking(inputs, network()(inputs))
            model.compile(
                keras.optimizers.SGD(0.3, momentum=0.5), "sparse_categorical_crossentropy", metrics=["accuracy"]
            )
            return model
        if self.form == "texts":
            words = keras.layers.TextVectorization(
                output_sequence_length=2, vocabulary=[f"w{word}" for word in range(7)]
            )
            layers = [keras.layers.Embedding(9, 4), keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
            model = keras.Sequential([keras.Input((1,), dtype="string"), words, *layers])
            model.compile(keras.optimizers.SGD(0.3), "sparse_categorical_crossentropy", metrics=["accuracy"])
            return model
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
            "by number": by_number(),
            "looking": by_number(),
            "items": Items(),
            "items of batches": ItemsOfBatches(),
            "texts": Examples(len(X), lambda number: (tf.gather(TEXTS, number), tf.gather(Y, number))),
            "mapped": by_number().map(lambda x, y: (x * 2, y)).map(lambda x, y: (x / 2, y)),
            "augmented": by_number().augment(
                lambda x, y, seed: (x + tf.random.stateless_normal([5], seed, stddev=0.01), y)
            ),
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
        return self.train_data() if self.evaluated else None
