"""A tf.data.Dataset.

Its order is its own; one that shuffles is made anew by this method for each reading, and seeded by `train.seed`. This one ends
with `batch`, so its batches are used as they are, and `train.global_batch_size` does not count; single examples are batched by
orch. After a restart it is read again from its beginning up to where training was.
"""

import keras
import tensorflow as tf

from trainer.task import Task


def wave(number):
    """A noisy sine float32 [32], and its frequency float32 [1]."""
    noise = tf.random.stateless_normal([32], seed=[number, 7], stddev=0.1)
    frequency = 0.1 + tf.cast(number % 10, tf.float32) / 20.0
    return tf.sin(tf.range(32.0) * frequency) + noise, frequency[None]


class Waves(Task):
    def model(self):
        return keras.Sequential([keras.Input((32,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(1)])

    def train_data(self):
        numbers = tf.data.Dataset.range(400).shuffle(400)
        return numbers.map(wave, num_parallel_calls=tf.data.AUTOTUNE).batch(16, drop_remainder=True)

    def evaluation_data(self):
        return tf.data.Dataset.range(1000, 1050).map(wave).batch(16)

    def loss(self):
        return "mse"
