"""What XLA draws is what a graph draws."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.program.draws import as_a_graph_draws

SEED = (123_456, 7)


def drawn(function: Callable[[], Any], *, xla: bool) -> np.ndarray:
    with as_a_graph_draws():
        return np.asarray(tf.function(function, jit_compile=xla, autograph=False)())


@pytest.mark.parametrize(
    "function",
    [
        lambda: tf.nn.experimental.stateless_dropout(tf.ones((33, 17)), 0.3, SEED),
        lambda: tf.random.stateless_uniform((33, 7), SEED),
        lambda: tf.random.stateless_uniform((33, 7), SEED, dtype=tf.float16),
        lambda: tf.random.stateless_uniform((1000,), SEED, 3, 20, tf.int32),
        lambda: keras.random.dropout(tf.ones((5, 5)), 0.5, seed=3),
    ],
    ids=["dropout", "uniform", "half", "integers", "keras"],
)
def test_xla_draws_what_a_graph_draws(function: Callable[[], Any]) -> None:
    graph = np.asarray(tf.function(function, autograph=False)())
    np.testing.assert_array_equal(drawn(function, xla=True), graph)
    np.testing.assert_array_equal(drawn(function, xla=False), graph)


def test_within_a_range_it_is_the_same_but_for_the_last_bit() -> None:
    def function() -> Any:
        return tf.random.stateless_uniform((1000,), SEED, -2.0, 3.0)

    np.testing.assert_allclose(drawn(function, xla=True), drawn(function, xla=False), rtol=0, atol=3e-7)


def test_an_algorithm_that_is_named_stays() -> None:
    def function() -> Any:
        return tf.random.stateless_uniform((8,), SEED, alg="threefry", dtype=tf.float16)

    plain = np.asarray(tf.function(function, jit_compile=True)())
    np.testing.assert_array_equal(drawn(function, xla=True), plain)
