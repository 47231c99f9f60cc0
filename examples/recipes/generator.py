"""A generator.

The method itself may be one. It is called once an epoch and must yield the same each time: it seeds itself, or draws from
`numpy.random` and `random`, which are seeded for it. It yields single examples; `batched = True` says that they are batches,
where the model's inputs do not tell.
"""

import keras
import numpy as np

from trainer.task import Task


class Walks(Task):
    def model(self):
        return keras.Sequential([keras.Input((20, 1)), keras.layers.LSTM(8), keras.layers.Dense(1)])

    def train_data(self):
        for _ in range(200):
            walk = np.cumsum(np.random.normal(size=21)).astype("float32")
            yield walk[:20, None], walk[20:]

    def loss(self):
        return "mse"
