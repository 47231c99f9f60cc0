"""A step of your own, by tf.GradientTape.

`train_step` takes the place of Keras' own; everything else (epochs, evaluation, checkpoints, several workers) stays. A metric
that is an attribute counts through an epoch, other values are averaged over it. `model.train_step` of a keras.Model of yours
works too, and needs no method here.
"""

import keras
import tensorflow as tf

from trainer.task import Task
from trainer.tasks.digits import load_digits


class Clipped(Task):
    def model(self):
        self.accuracy = keras.metrics.SparseCategoricalAccuracy()
        return keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(10)])

    def optimizer(self):
        return keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 1000), momentum=0.9)

    def train_data(self):
        return load_digits()

    def train_step(self, model, optimizer, batch):
        images, labels = batch
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
        weights = model.trainable_variables
        gradients, norm = tf.clip_by_global_norm(tape.gradient(loss, weights), 1.0)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        self.accuracy.update_state(labels, logits)
        return {"loss": loss, "gradient_norm": norm, "accuracy": self.accuracy.result()}
