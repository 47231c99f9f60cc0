"""Two networks that train each other.

`model` returns the one that is exported. The other one, and its optimizer, are attributes that are made in `model`: they are
saved and restored with it. Random numbers come from a SeedGenerator, whose state is saved too.
"""

import keras
import tensorflow as tf

from trainer.task import Task
from trainer.tasks.digits import load_digits


def network(inputs, outputs, activation=None):
    layers = [keras.layers.Dense(64, activation="relu"), keras.layers.Dense(outputs, activation=activation)]
    return keras.Sequential([keras.Input((inputs,)), *layers])


class Forger(Task):
    def __init__(self, code: int = 8) -> None:
        self.code = code

    def model(self):
        self.judge = network(64, 1)
        self.judges_optimizer = keras.optimizers.Adam(1e-4)
        self.judges_optimizer.build(self.judge.trainable_variables)
        self.draws = keras.random.SeedGenerator(0)
        return network(self.code, 64, "sigmoid")

    def train_data(self):
        images, _ = load_digits()
        return images.reshape(-1, 64)

    def optimizer(self):
        return keras.optimizers.Adam(1e-4)

    def train_step(self, model, optimizer, batch):
        entropy = keras.losses.BinaryCrossentropy(from_logits=True)
        code = keras.random.normal((tf.shape(batch)[0], self.code), seed=self.draws)
        with tf.GradientTape() as of_judge, tf.GradientTape() as of_forger:
            real, forged = self.judge(batch, training=True), self.judge(model(code, training=True), training=True)
            judges_loss = entropy(tf.ones_like(real), real) + entropy(tf.zeros_like(forged), forged)
            forgers_loss = entropy(tf.ones_like(forged), forged)
        weights = self.judge.trainable_variables
        self.judges_optimizer.apply_gradients(zip(of_judge.gradient(judges_loss, weights), weights, strict=True))
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(of_forger.gradient(forgers_loss, weights), weights, strict=True))
        return {"judge": judges_loss, "forger": forgers_loss}
