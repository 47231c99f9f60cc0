"""An autoencoder that trains by a step of its own: the loss needs no labels, and gradients are clipped by hand."""

import keras
import numpy as np
import tensorflow as tf

from trainer.task import Task
from trainer.tasks.digits import Digits


class Autoencoder(Task):
    """Squeezes an image of 64 pixels through `code` numbers and back."""

    def __init__(self, code: int = 8) -> None:
        self.code = code

    def model(self) -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Dense(32, activation="relu"),
                keras.layers.Dense(self.code),
                keras.layers.Dense(32, activation="relu"),
                keras.layers.Dense(64, activation="sigmoid"),
            ]
        )

    def optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(0.003)

    def train_data(self) -> np.ndarray:
        images, _ = Digits().train_data()
        return images.reshape(-1, 64)

    def evaluation_data(self) -> np.ndarray:
        images, _ = Digits().evaluation_data()
        return images.reshape(-1, 64)

    def train_step(self, model, optimizer, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(batch, training=True) - batch) ** 2)
        weights = model.trainable_variables
        gradients, norm = tf.clip_by_global_norm(tape.gradient(loss, weights), 1.0)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"loss": loss, "gradient_norm": norm}

    def evaluate_step(self, model, batch):
        return {"error": tf.reduce_mean((model(batch, training=False) - batch) ** 2)}
