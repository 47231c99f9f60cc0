"""What adapt() taught the preprocessing layers of a task: kept beside the variables, and alike on all workers."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.checkpoint.replicas import Replicas
from trainer.errors import ConfigError
from trainer.model.adapted import Adapted
from trainer.model.reach import reach

layers = keras.layers
WORDS = ["plot film", "film good", "film bad plot"]


def lookup(words: Sequence[str]) -> Any:
    layer = layers.StringLookup()
    layer.adapt(np.array(" ".join(words).split()))
    return layer


def text(words: Sequence[str], mode: str = "int") -> Any:
    layer = layers.TextVectorization(output_mode=mode)
    layer.adapt(list(words))
    return layer


def bins(words: Sequence[str]) -> Any:
    layer = layers.Discretization(num_bins=4)
    layer.adapt(np.array([[len(word)] for word in words] * 5, "float32"))
    return layer


def numbers(words: Sequence[str]) -> Any:
    layer = layers.IntegerLookup()
    layer.adapt(np.array([len(word) for word in words]))
    return layer


def normalised(words: Sequence[str]) -> Any:
    layer = layers.Normalization()
    layer.adapt(np.array([[len(word)] for word in words], "float32"))
    return layer


def adapted(layer: Any, *, in_model: bool) -> Adapted:
    model = keras.Sequential([layer] if in_model else [layers.Dense(1)])
    return Adapted(reach({"task": {"layer": layer}, "model": model}).adapted, model)


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lookup, tf.constant(["film", "bad", "none"])),
        (text, tf.constant(["film bad none"])),
        (lambda words: text(words, "tf_idf"), tf.constant(["film bad none"])),
        (bins, tf.constant([[3.0], [8.0], [12.0]])),
        (numbers, tf.constant([9, 13, 1])),
        (normalised, tf.constant([[3.0], [8.0]])),
    ],
)
def test_a_layer_of_the_model_gets_back_what_it_had(make: Any, value: Any) -> None:
    before, after = make(WORDS), make(["good good plot", "film", "none none none"])
    expected = np.asarray(before(value))
    assert not np.array_equal(np.asarray(after(value)), expected)
    for variable, old in zip(after.variables, before.variables, strict=True):
        variable.assign(old)  # as a restore does it
    adapted(after, in_model=True).restore(adapted(before, in_model=True).state())
    np.testing.assert_array_equal(np.asarray(after(value)), expected)


def test_a_layer_that_stands_in_the_data_must_learn_the_same_again() -> None:
    saved = adapted(lookup(WORDS), in_model=False).state()
    adapted(lookup(WORDS), in_model=False).restore(saved)
    with pytest.raises(ConfigError, match="was adapted to other data than at the checkpoint"):
        adapted(lookup(WORDS[:1]), in_model=False).restore(saved)


def test_a_checkpoint_without_them_is_taken() -> None:
    layer = lookup(WORDS)
    adapted(layer, in_model=True).restore({})
    assert layer.get_vocabulary()[1] == "film"


def test_workers_must_have_learned_the_same() -> None:
    class Two(Replicas):
        def __init__(self, other: Adapted) -> None:
            super().__init__(tf.distribute.get_strategy())
            self.other = other

        def all_gather(self, rows: Any) -> np.ndarray:
            sent: list[np.ndarray] = []

            class Takes(Replicas):
                def all_gather(self, rows: Any) -> np.ndarray:
                    sent.append(rows[0])
                    return np.stack(rows)

            self.other.check_equal(Takes(tf.distribute.get_strategy()))
            return np.stack([rows[0], sent[0]])

    own = adapted(lookup(WORDS), in_model=True)
    own.check_equal(Two(adapted(lookup(WORDS), in_model=True)))
    with pytest.raises(ConfigError, match="on one worker than on another"):
        own.check_equal(Two(adapted(lookup(["plot plot film"]), in_model=True)))
