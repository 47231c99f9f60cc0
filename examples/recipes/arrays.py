"""NumPy arrays: several inputs, and weights of examples.

Inputs may be a dict, a tuple or a list of arrays, as the model takes them. A third array weighs the examples. orch shuffles
arrays anew for each epoch, from `train.seed`, and a restart goes on in the middle of them at no cost.
"""

import keras
import numpy as np

from trainer.task import Task


class Arrays(Task):
    def __init__(self, examples: int = 256) -> None:
        self.examples = examples

    def model(self):
        sizes = keras.Input((3,), name="sizes")
        kind = keras.Input((), name="kind", dtype="int32")
        features = keras.layers.concatenate([sizes, keras.layers.Embedding(5, 4)(kind)])
        return keras.Model({"sizes": sizes, "kind": kind}, keras.layers.Dense(1)(features))

    def train_data(self):
        random = np.random.default_rng(0)
        sizes = random.normal(size=(self.examples, 3)).astype("float32")
        kind = random.integers(0, 5, self.examples).astype("int32")
        y = sizes.sum(axis=1, keepdims=True) + kind[:, None]
        weights = np.where(kind == 0, 2.0, 1.0)
        return {"sizes": sizes, "kind": kind}, y, weights

    def loss(self):
        return "mse"
