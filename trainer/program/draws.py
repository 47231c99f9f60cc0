"""XLA draws the random numbers that a graph draws.

Left alone, XLA takes another algorithm (ThreeFry for Philox), which its CPU compiler also computes anew in each use of a mask: a
step of two Dropouts takes 20 times as long (2.2 ms; by Philox 0.11). And of the bits it is given it makes other float32 numbers
(of the upper 23, where TensorFlow's kernels take the lower 23). With both put right, Dropout and uniform noise under XLA are
those of Keras' fit, bit for bit. Normal numbers stay others: XLA inverts the error function, the kernels do as Box and Muller.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import gen_stateless_random_ops_v2 as kernels  # what all draws come down to
from tensorflow.python.ops import random_ops_util

from trainer.replaced import replaced

_PHILOX, _AUTO_SELECT = tf.random.Algorithm.PHILOX.value, tf.random.Algorithm.AUTO_SELECT.value
_FRACTION_BITS, _BITS_OF_ONE = 0x7FFFFF, 0x3F800000
"""Of a float32."""


@contextlib.contextmanager
def as_a_graph_draws() -> Iterator[None]:
    """For what is traced in it and compiled by XLA. An algorithm that is named stays."""
    key_counter_alg, uniform = random_ops_util.get_key_counter_alg, kernels.stateless_random_uniform_v2

    def by_philox(seed: Any, alg: Any) -> Any:
        automatic = alg is None or random_ops_util.convert_alg_to_int(alg) == _AUTO_SELECT
        return key_counter_alg(seed, _PHILOX if automatic else alg)

    def of_lower_bits(shape: Any, key: Any, counter: Any, alg: Any, dtype: Any = tf.float32, name: Any = None) -> Any:
        if dtype != tf.float32:
            return uniform(shape, key=key, counter=counter, alg=alg, dtype=dtype, name=name)
        bits = kernels.stateless_random_uniform_full_int_v2(
            shape, key=key, counter=counter, alg=alg, dtype=tf.int32, name=name
        )
        return tf.bitcast((bits & _FRACTION_BITS) | _BITS_OF_ONE, tf.float32) - 1.0

    with (
        replaced(random_ops_util, "get_key_counter_alg", by_philox),
        replaced(kernels, "stateless_random_uniform_v2", of_lower_bits),
    ):
        yield
