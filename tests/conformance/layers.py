"""Kinds of layers: with state, with losses and metrics of their own, with random numbers, with variables of TensorFlow."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.conformance.base import HELD_OUT, TRAINED, WIDTH, Case, make, registered
from tests.conformance.catalogue import entry

layers = keras.layers
OWN_PART = (
    "each replica normalises its own part of the batch, and the mean of what they keep is exported, as Keras documents it; "
    "with synchronized=True the whole batch is normalised as on one device"
)


class _Layers(Case):
    """Some layers below a Dense layer."""

    def layers(self) -> Any:
        return [layers.Dense(8, "tanh"), *self.tested()]

    def tested(self) -> Any:
        raise NotImplementedError


@entry(
    "BatchNormalization: its statistics, and what depends on them",
    part="fast",
    modes=("one", "xla", "killed"),
)
class BatchNormalization(_Layers):
    def tested(self) -> Any:
        return [layers.BatchNormalization(momentum=0.8)]


class OfParts(layers.BatchNormalization):
    """Normalises each part of a batch by itself, and keeps the mean of what parts would keep."""

    def __init__(self, parts: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = parts

    def call(self, x: Any, training: Any = None, mask: Any = None) -> Any:
        if not training:
            return super().call(x, training=training)
        kept = [self.moving_mean, self.moving_variance]
        before = [keras.ops.copy(variable) for variable in kept]
        outputs, after = [], []
        for part in keras.ops.split(x, self.parts):
            for variable, value in zip(kept, before, strict=True):
                variable.assign(value)
            outputs.append(super().call(part, training=True))
            after.append([keras.ops.copy(variable) for variable in kept])
        for variable, values in zip(kept, zip(*after, strict=True), strict=True):
            variable.assign(sum(values) / self.parts)
        return keras.ops.concatenate(outputs)


@entry(
    "BatchNormalization with four replicas", id="batch-normalization-of-four", params={"parts": 4}, modes=("four",),
    other=True, why=OWN_PART, allowed={"four": 1e-4},
)  # fmt: skip
@entry(
    "BatchNormalization with two replicas", id="batch-normalization-of-two", params={"parts": 2}, modes=("two",),
    other=True, why=OWN_PART, allowed={"two": 1e-4},
)  # fmt: skip
class BatchNormalizationOfParts(_Layers):
    def __init__(self, parts: int) -> None:
        self.parts = parts

    def tested(self) -> Any:
        if self.by_oracle:
            return [OfParts(self.parts, momentum=0.8)]
        return [layers.BatchNormalization(momentum=0.8)]


@entry("BatchNormalization that is synchronised over replicas", id="batch-normalization-synchronised")
class Synchronised(_Layers):
    def tested(self) -> Any:
        return [layers.BatchNormalization(momentum=0.8, synchronized=True)]


@entry("Dropout with a seed", random="layer", part="fast")
class DropoutSeeded(_Layers):
    def tested(self) -> Any:
        return [layers.Dropout(0.4, seed=5)]


@entry("Dropout twice, seeded by train.seed", random="layer", part="whole")
class Dropout(_Layers):
    def tested(self) -> Any:
        return [layers.Dropout(0.3), layers.Dense(8, "tanh"), layers.Dropout(0.3)]


@entry("Noise: GaussianNoise, GaussianDropout, AlphaDropout", random="layer", normal=True)
class Noise(_Layers):
    def tested(self) -> Any:
        return [layers.GaussianNoise(0.2), layers.GaussianDropout(0.2), layers.AlphaDropout(0.1)]


@entry("Images: convolutions, pooling, flips and crops at random", random="layer", part="ci")
class ImagesAugmented(Case):
    kind = "images"

    def model(self) -> Any:
        return keras.Sequential(
            [
                keras.Input((8, 8, 2)),
                layers.RandomFlip("horizontal", seed=1),
                layers.RandomTranslation(0.1, 0.1, seed=2),
                layers.Conv2D(4, 3, activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(1),
            ]
        )


@entry("Convolutions of all kinds, pooling, normalisation of channels", part="whole")
class Convolutions(Case):
    kind = "images"

    def optimizer(self) -> Any:
        return keras.optimizers.SGD(0.01)

    def model(self) -> Any:
        return keras.Sequential(
            [
                keras.Input((8, 8, 2)),
                layers.Conv2D(4, 3, padding="same", activation="relu"),
                layers.DepthwiseConv2D(3),
                layers.GroupNormalization(2),
                layers.SeparableConv2D(4, 3, padding="same", activation="relu"),
                layers.MaxPooling2D(2),
                layers.Conv2DTranspose(2, 2, strides=2),
                layers.Flatten(),
                layers.Dense(1),
            ]
        )


@entry("LayerNormalization, RMSNormalization, UnitNormalization, PReLU", part="whole")
class Normalisations(_Layers):
    def tested(self) -> Any:
        return [layers.LayerNormalization(), layers.PReLU(), layers.RMSNormalization(), layers.UnitNormalization()]


@entry("SpectralNormalization: a vector that changes with each call in training")
class SpectralNormalization(_Layers):
    def tested(self) -> Any:
        return [layers.SpectralNormalization(layers.Dense(6, "tanh"))]


@entry("Normalization that was adapted to the data", part="whole")
class Adapted(Case):
    def model(self) -> Any:
        adapted = layers.Normalization()
        adapted.adapt(make("numbers", TRAINED, 1)[0])
        return keras.Sequential([keras.Input((WIDTH,)), adapted, layers.Dense(8, "tanh"), layers.Dense(1)])


@entry("Regularisers of kernels, biases and activities", also=("four",), part="whole")
class Regularised(Case):
    def layers(self) -> Any:
        return [
            layers.Dense(8, "tanh", kernel_regularizer=keras.regularizers.L1L2(0.001, 0.01), bias_regularizer="l2"),
            layers.Dense(8, "relu", activity_regularizer=keras.regularizers.L2(0.01)),
            layers.Dense(4, kernel_regularizer=keras.regularizers.OrthogonalRegularizer(0.01)),
        ]


@entry("Constraints, which are applied after each update", part="whole")
class Constrained(Case):
    def layers(self) -> Any:
        return [layers.Dense(8, "tanh", kernel_constraint="max_norm"), layers.Dense(8, kernel_constraint="unit_norm")]


@registered
class Penalty(layers.Layer):
    """Adds the mean square of its input as a loss, and shows it by a metric of its own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shown = keras.metrics.Mean(name="penalty")

    def call(self, x: Any) -> Any:
        penalty = 0.1 * keras.ops.mean(keras.ops.square(x))
        self.add_loss(penalty)
        self.shown.update_state(penalty)
        return x


@entry("add_loss in a layer, and a metric of the layer's own", part="fast", also=("four",))
class LayerWithLossAndMetric(_Layers):
    def tested(self) -> Any:
        return [Penalty()]


@registered
class Counting(layers.Layer):
    """Adds a hundredth of the number of its calls in training, which it counts in a weight."""

    def build(self, shape: Any) -> None:
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.calls.assign_add(1.0)
        return x * self.scale + 0.01 * self.calls


@entry("State that changes with each call: a counter that the output depends on", part="fast")
class LayerThatCounts(_Layers):
    def tested(self) -> Any:
        return [Counting()]


@registered
class Averaging(layers.Layer):
    """Subtracts a running mean of its input over the batch."""

    def build(self, shape: Any) -> None:
        self.mean = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False, name="mean")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * keras.ops.mean(x, axis=0))
        return x - self.mean


MIXES = {
    "refused": dict.fromkeys(("four", "two"), "gives a row of the batch another result when other rows are beside it"),
    "why": "each replica's layers see its part of the batch alone, and this one needs all of it",
}


@entry("A layer of one's own with a running mean over the batch", **MIXES)
class LayerWithRunningMean(_Layers):
    def tested(self) -> Any:
        return [Averaging()]


@registered
class RawVariables(layers.Layer):
    """Its state is a tf.Variable, which Keras does not know as a weight."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen = tf.Variable(0.0, trainable=False)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.seen.assign_add(1.0)
        return x * (1.0 + 0.01 * self.seen)


@entry(
    "A layer whose state is a tf.Variable: Keras does not count it among the weights, and a restart must not forget it"
)
class LayerWithTfVariable(_Layers):
    def tested(self) -> Any:
        return [RawVariables(name="raw")]

    def model(self) -> Any:
        self.made = super().model()
        return self.made

    def facts(self) -> Any:
        return {"seen": float(self.made.get_layer("raw").seen)}

    predicts = False


@registered
class Sampling(layers.Layer):
    """The sampling layer of a variational autoencoder, with its loss and its own random numbers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(7)

    def call(self, inputs: Any, training: bool = False) -> Any:
        mean, log_var = inputs
        ops = keras.ops
        self.add_loss(-0.05 * ops.mean(1 + log_var - ops.square(mean) - ops.exp(log_var)))
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        return mean + ops.exp(0.5 * log_var) * noise if training else mean


@entry("A variational autoencoder: random numbers and a loss within a layer", random="layer", normal=True)
class Variational(Case):
    def train_data(self) -> Any:
        x = make("numbers", TRAINED, 1)[0]
        return x, x

    def evaluation_data(self) -> Any:
        x = make("numbers", HELD_OUT, 2)[0]
        return x, x

    def model(self) -> Any:
        x = keras.Input((WIDTH,))
        hidden = layers.Dense(8, "tanh")(x)
        code = Sampling()([layers.Dense(2)(hidden), layers.Dense(2)(hidden)])
        return keras.Model(x, layers.Dense(WIDTH)(code))


@entry("A Lambda layer, and operations on symbolic tensors", part="whole")
class LambdaAndOperations(Case):
    def model(self) -> Any:
        x = keras.Input((WIDTH,))
        hidden = layers.Lambda(lambda value: value * 2.0, output_shape=(WIDTH,))(x)
        hidden = keras.ops.concatenate([hidden, keras.ops.square(x)], axis=-1) / 2.0
        return keras.Model(x, layers.Dense(1)(hidden))


@entry("A layer that takes the mean over the whole batch in its output", **MIXES)
class BatchMean(Case):
    def model(self) -> Any:
        x = keras.Input((WIDTH,))
        hidden = layers.Dense(8, "tanh")(x)
        return keras.Model(x, layers.Dense(1)(Centred()(hidden)))


@registered
class Centred(layers.Layer):
    """Its output depends on all examples of the batch, in evaluation too."""

    def call(self, x: Any) -> Any:
        return x - keras.ops.mean(x, axis=0, keepdims=True)


@entry("EinsumDense, Identity, Reshape, Permute, and merging layers", part="whole")
class Rearranged(Case):
    def model(self) -> Any:
        x = keras.Input((WIDTH,))
        square = layers.Permute((2, 1))(layers.Reshape((2, 3))(x))
        one = layers.EinsumDense("abc,cd->abd", output_shape=(3, 4), bias_axes="d")(square)
        both = layers.Add()([layers.Flatten()(one), layers.Dense(12)(x)])
        return keras.Model(x, layers.Dense(1)(layers.Maximum()([layers.Identity()(both), layers.Dense(12)(x)])))


@entry("Discretization and CategoryEncoding within the model", part="whole")
class Encoded(Case):
    def model(self) -> Any:
        x = keras.Input((WIDTH,))
        bins = layers.Discretization(bin_boundaries=np.linspace(-1, 1, 5).tolist())(x)
        return keras.Model(x, layers.Dense(1)(layers.CategoryEncoding(6, output_mode="count")(bins)))
