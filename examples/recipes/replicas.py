"""Several replicas.

Write the task as for one device: several workers, or several GPUs, train what one device would with the whole global batch.
A loss may compare the examples of a batch, as this one does. What happens within a layer sees its replica's examples alone:
BatchNormalization takes `synchronized=True` for the statistics of the whole batch, and a layer of yours that mixes the rows of
a batch is refused before training. Dropout masks differ by replica (`train.replica_masks`).

    resources: {workers: 4}                   # train.global_batch_size must divide by the number of replicas
"""

import keras
import tensorflow as tf

from trainer.task import Task
from trainer.tasks.digits import load_digits


class Pairs(Task):
    """Images of one digit are to lie close to each other, and far from all others of the batch."""

    def model(self):
        return keras.Sequential(
            [
                keras.Input((8, 8)),
                keras.layers.Flatten(),
                keras.layers.Dense(32, activation="relu"),
                keras.layers.BatchNormalization(synchronized=True),
                keras.layers.Dense(8),
                keras.layers.UnitNormalization(),
            ]
        )

    def train_data(self):
        return load_digits()

    def train_step(self, model, optimizer, batch):
        images, labels = batch
        with tf.GradientTape() as tape:
            codes = model(images, training=True)  # of the whole global batch
            alike = tf.cast(labels[:, None] == labels[None, :], tf.float32) - tf.eye(tf.shape(labels)[0])
            log_shares = tf.nn.log_softmax(codes @ tf.transpose(codes) / 0.1 - 1e9 * tf.eye(tf.shape(labels)[0]))
            loss = -tf.reduce_sum(alike * log_shares) / tf.maximum(tf.reduce_sum(alike), 1.0)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}
