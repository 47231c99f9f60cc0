"""Random choices that a script leaves unseeded: made from the job's seed, so that each start of the script makes the same.

What a script seeds itself is left alone, also by tf.random.set_seed, after which all of TensorFlow's operations are seeded.
"""

import contextlib
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.data.util import random_seed as of_datasets
from tensorflow.python.eager import context

from trainer.keras.strategies import outside_of_strategy
from trainer.replaced import replaced


def unseeded() -> bool:
    """Whether an operation without a seed of its own has none now."""
    # Asked for a seed, TensorFlow would draw one, and all that follow would be others.
    return context.global_seed() is None


@contextlib.contextmanager
def unseeded_by(seed: int) -> Iterator[None]:
    """Within it random, numpy.random and Keras draw by `seed`, and so do datasets that shuffle."""
    random.seed(seed)
    np.random.seed(seed)
    numbers = itertools.count()
    get_seed = of_datasets.get_seed

    def seeds(own: Any) -> Any:
        if own is not None or not unseeded():
            return get_seed(own)
        words = np.random.SeedSequence([seed, next(numbers)]).generate_state(2)
        return tuple(tf.constant(int(word >> 1), tf.int64) for word in words)

    with replaced(of_datasets, "get_seed", seeds):
        yield


class Shuffles:
    """The order of arrays in `fit` where nothing seeds it: another one with each iterator, by the seed and its number."""

    def __init__(self, seed: int) -> None:
        with outside_of_strategy(), tf.device("CPU:0"):  # of this process: data is read by each worker
            self._number = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._seed = seed

    @contextlib.contextmanager
    def made_with(self) -> Iterator[None]:
        """Within it, datasets are made whose tf.random.shuffle goes by the present number."""

        def shuffle(value: Any, seed: Any = None, name: Any = None) -> Any:
            # By its first number, each batch of shuffle="batch" is shuffled in its own way.
            number = self._number + tf.cast(value[0], tf.int64) * (1 << 20)
            return tf.random.experimental.stateless_shuffle(
                value, tf.stack([tf.constant(self._seed, tf.int64), number])
            )

        with replaced(tf.random, "shuffle", shuffle):
            yield

    def next(self) -> None:
        """An iterator is about to be made."""
        self._number.assign_add(1)
