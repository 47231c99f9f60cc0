"""A keras.utils.PyDataset.

Its batches are taken by number, in their order, so that a restart reads nothing again: for data that is too large for
memory and made of files. Draw by the number of the batch, or from `numpy.random` and `random`, which are seeded for each.
"""

import keras
import numpy as np

from trainer.task import Task


class Files(keras.utils.PyDataset):
    """Batch `index` is what file `index` would hold."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        x = np.random.default_rng(index).normal(size=(16, 8)).astype("float32")
        return x, x[:, :1] * x[:, 1:2]


class Products(Task):
    def model(self):
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "tanh"), keras.layers.Dense(1)])

    def train_data(self):
        return Files(20)

    def evaluation_data(self):
        return Files(3)

    def loss(self):
        return "mse"
