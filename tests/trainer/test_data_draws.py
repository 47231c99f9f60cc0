"""Which draws within a dataset a restart repeats."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.keras.data_draws import unrepeatable


def images() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(np.zeros((8, 4, 4, 3), np.float32))


def flipped(**how: Any) -> Callable[[Any], Any]:
    return lambda image: tf.image.random_flip_left_right(image, **how)


@pytest.fixture(autouse=True)
def unseeded() -> None:
    tf.random.set_seed(None)


FLIP = keras.layers.RandomFlip()


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (lambda: images().map(flipped()), ["without a seed"]),
        (lambda: images().map(flipped(seed=3)).shuffle(8).batch(2).prefetch(1), []),
        (lambda: images().map(flipped(seed=3), num_parallel_calls=2).batch(2), ["in several calls at once"]),
        (lambda: images().batch(2).map(lambda batch: FLIP(batch, training=True)), ["remembers how often"]),
        (lambda: images().map(lambda image: tf.image.stateless_random_flip_left_right(image, (1, 2))), []),
        (lambda: tf.data.Dataset.range(2).interleave(lambda _: images().map(flipped())), ["without a seed"]),
        (lambda: tf.data.Dataset.zip((images(), images().map(flipped()))), ["without a seed"]),
        (lambda: images().map(lambda image: image / 255), []),
    ],
)
def test_draws_that_no_restart_repeats_are_known(dataset: Callable[[], Any], said: list[str]) -> None:
    found = list(unrepeatable(dataset()))
    assert len(found) == len(said)
    for sentence, part in zip(found, said, strict=True):
        assert part in sentence


def test_draws_are_seeded_after_set_random_seed_and_repeat_with_each_iterator() -> None:
    keras.utils.set_random_seed(1)
    dataset = images().map(lambda image: image + tf.random.uniform(()))
    assert list(unrepeatable(dataset)) == []
    np.testing.assert_array_equal(np.array(list(dataset)), np.array(list(dataset)))


def test_a_generator_of_tensorflow_has_a_state() -> None:
    generator = tf.random.Generator.from_seed(1)
    (said,) = unrepeatable(images().map(lambda image: image + generator.uniform(())))
    assert "remembers" in said
