"""Layers that mix the rows of a batch are told from all others, before several replicas divide it."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.data.sources import ArraySource
from trainer.errors import ConfigError
from trainer.model.reach import reach
from trainer.program.mixing import check_rows
from trainer.task import Task

SIZE = 24
layers = keras.layers


class Centred(layers.Layer):
    def call(self, x: Any) -> Any:
        return x - tf.reduce_mean(x, 0, keepdims=True)


class OwnNormalisation(layers.Layer):
    """In training alone, as BatchNormalization."""

    def call(self, x: Any, training: bool = False) -> Any:
        return x / (1.0 + tf.math.reduce_std(x, 0)) if training else x


class BatchDeviation(layers.Layer):
    """One more feature, as the discriminators of GANs have it."""

    def call(self, x: Any) -> Any:
        deviation = tf.reduce_mean(tf.math.reduce_std(x, 0))
        return tf.concat([x, tf.fill((tf.shape(x)[0], 1), deviation)], 1)


class AddsSum(layers.Layer):
    def call(self, x: Any) -> Any:
        self.add_loss(tf.reduce_sum(x**2))
        return x


class AddsMean(layers.Layer):
    def call(self, x: Any) -> Any:
        self.add_loss(tf.reduce_mean(x**2))
        return x


class Counts(layers.Layer):
    """A state that changes with each call in training, and its output with it."""

    def build(self, shape: Any) -> None:
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.count.assign_add(1.0)
        return x + self.count


class RunningMean(layers.Layer):
    """Subtracts, and keeps, a mean over batches."""

    def build(self, shape: Any) -> None:
        self.mean = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False, name="mean")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.mean.assign(0.5 * self.mean + 0.5 * tf.reduce_mean(x, 0))
        return x - self.mean


class RunningMaximum(RunningMean):
    """Keeps what is no mean over rows; its output shows nothing of it."""

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.mean.assign(tf.maximum(self.mean, tf.reduce_max(x, 0)))
        return x


class CountsInAPlainVariable(layers.Layer):
    """Not one that Keras tracks."""

    def __init__(self) -> None:
        super().__init__()
        self.count = tf.Variable(0.0, trainable=False)

    def call(self, x: Any) -> Any:
        self.count.assign_add(1.0)
        return x * (1.0 + 0.0009 * self.count)


class Trains(Task):
    def __init__(self, *stack: Any) -> None:
        self._stack = stack

    def model(self) -> keras.Model:
        model = keras.Sequential([keras.Input((6,)), layers.Dense(8), *self._stack, layers.Dense(1)])
        model.compile("sgd", "mse", metrics=["mae"])
        return model

    def train_data(self) -> Any:
        random = np.random.default_rng(0)
        return random.normal(size=(SIZE, 6)).astype("float32"), random.normal(size=(SIZE, 1)).astype("float32")


class OwnStep(Trains):
    def train_step(self, model: Any, optimizer: Any, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return {"loss": loss}


def check(task: Task, replicas: int = 4) -> dict[str, np.ndarray]:
    """The variables afterwards."""
    keras.utils.set_random_seed(1)
    model = task.model()
    source = ArraySource(task.train_data(), SIZE, 0)
    reached = reach({"task": task, "model": model})
    before = {path: keras.ops.convert_to_numpy(variable) for path, variable in reached.variables.items()}
    check_rows(tf.distribute.get_strategy(), replicas, task, model, source, SIZE, reached)
    for path, variable in reached.variables.items():
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), before[path], err_msg=path)
    assert float(model.metrics[0].result()) == 0.0, "a trial leaves nothing in the metrics"
    return before


@pytest.mark.parametrize("kind", [Trains, OwnStep])
@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (Centred, "another result when other rows are beside it"),
        (OwnNormalisation, "another result when other rows are beside it"),
        (BatchDeviation, "another result when other rows are beside it"),
        (RunningMean, "another result when other rows are beside it"),
        (RunningMaximum, "keeps something of a batch in .*mean that is no mean over its rows"),
        (AddsSum, "adds .* to the loss of a batch, and .* on average"),
    ],
)
def test_a_layer_that_mixes_rows_is_refused(kind: type[Trains], layer: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        check(kind(layer()))
    assert "one worker and one device" in str(refused.value.remedy)


def test_a_sum_beside_numbers_that_are_drawn_is_found() -> None:
    """As in the encoder of a variational autoencoder."""

    class Samples(layers.Layer):
        def call(self, x: Any) -> Any:
            self.add_loss(-0.5 * tf.reduce_sum(1.0 + x - x**2 - tf.exp(x)))
            return x + keras.random.normal(tf.shape(x)) * tf.exp(0.5 * x)

    with pytest.raises(ConfigError, match="adds"):
        check(Trains(Samples()))


@pytest.mark.parametrize("replicas", [2, 3, 8])
@pytest.mark.parametrize(
    "stack",
    [
        (AddsMean(),),
        (Counts(),),
        (CountsInAPlainVariable(),),
        (layers.Dropout(0.5),),
        (layers.BatchNormalization(),),
        (layers.BatchNormalization(synchronized=True), layers.GaussianNoise(0.1)),
        (layers.LayerNormalization(), layers.ActivityRegularization(l2=0.1)),
        (layers.SpectralNormalization(layers.Dense(4, kernel_regularizer="l2")),),
        (layers.Reshape((2, 4)), layers.GRU(3)),
    ],
)
def test_all_others_are_taken(stack: Any, replicas: int) -> None:
    assert check(Trains(*stack), replicas)


def test_a_number_drawn_in_each_call_is_no_mixing() -> None:
    class Noisy(layers.Layer):
        def call(self, x: Any) -> Any:
            return x + keras.random.normal(tf.shape(x))

    class OwnSeeds(layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seeds = keras.random.SeedGenerator(7)

        def call(self, x: Any) -> Any:
            return x + keras.random.normal(tf.shape(x), seed=self.seeds)

    assert check(Trains(Noisy()))
    assert check(Trains(OwnSeeds()))
