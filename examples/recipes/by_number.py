"""Examples by number, read when they are needed.

For data of files, or made on the way, that do not fit into memory: a count, and a function of TensorFlow that gives one
example. orch shuffles all of them anew for each epoch, a restart reads nothing again, and with several workers each reads its
own part alone. What `augment` draws from its seed is the same after a restart, and another draw in each epoch.
`Examples.of(DATASET)` takes what has a length and items by number: a dataset of another library.
"""

import keras
import tensorflow as tf

from trainer.data import Examples
from trainer.task import Task


def wave(number):
    phase = tf.cast(number, tf.float32) * 0.37
    return tf.sin(phase + tf.range(12.0) * 0.3), tf.sin(phase + 12 * 0.3)[None]


def noisy(x, y, seed):
    return x + tf.random.stateless_normal(x.shape, seed, stddev=0.01), y


class Next(Task):
    def model(self):
        return keras.Sequential([keras.Input((12,)), keras.layers.Dense(16, "tanh"), keras.layers.Dense(1)])

    def train_data(self):
        return Examples(400, wave).augment(noisy)

    def evaluation_data(self):
        return Examples(50, lambda number: wave(number + 1000))

    def loss(self):
        return "mse"
