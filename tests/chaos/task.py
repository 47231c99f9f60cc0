"""What chaos trains: small, with Dropout and BatchNormalization, logging which examples each step took."""

import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.task import Task

EXAMPLES = 331


class Pace(keras.callbacks.Callback):
    """Sleeps in ten steps for as long as the file says: chaos lets the job run fast when it has done its worst."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        time.sleep(float(Path(os.environ["CHAOS_PACE"]).read_text()) / 10)


class Traced(Task):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def model(self) -> keras.Model:
        # Sum and sum of squares of the numbers of the examples of each step.
        self.seen = tf.Variable(tf.zeros((self.steps, 2), tf.int32), trainable=False)
        layers = [
            keras.layers.Dense(16),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.2),
        ]
        return keras.Sequential([keras.Input((1,)), *layers, keras.layers.Dense(1)])

    def train_data(self) -> Any:
        return np.arange(EXAMPLES, dtype="float32")[:, None], np.arange(EXAMPLES, dtype="int32")

    def evaluation_data(self) -> Any:
        x, _ = self.train_data()
        return x[::7], x[::7] / EXAMPLES

    def loss(self) -> Any:
        return keras.losses.MeanSquaredError()

    def train_step(self, model: Any, optimizer: Any, batch: Any) -> dict[str, Any]:
        x, number = batch
        taken = tf.stack([tf.reduce_sum(number), tf.reduce_sum(number * number)])
        self.seen.assign(tf.tensor_scatter_nd_update(self.seen, [[tf.cast(optimizer.iterations, tf.int32)]], [taken]))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x / EXAMPLES, training=True) - x / EXAMPLES) ** 2)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}

    def callbacks(self) -> list[Any]:
        return [Pace()]
