"""Kinds of models: how they are put together, what they take and what they give."""

from typing import Any

import keras
import numpy as np

from tests.conformance.base import HELD_OUT, TRAINED, WIDTH, Case, make, registered
from tests.conformance.catalogue import entry

layers = keras.layers


def branches(count: int, seed: int) -> tuple[Any, Any, Any]:
    """Three columns of x in two parts, and two targets."""
    x, y = make("numbers", count, seed)
    return (x[:, :2], x[:, 2:]), y, (x[:, :1] > 0).astype("float32")


@entry("A Sequential model with an Input", part="fast")
class Sequential(Case):
    pass


@entry("A Sequential model without an Input: it is built by its first batch", part="whole")
class SequentialWithoutInput(Case):
    def model(self) -> Any:
        return keras.Sequential([layers.Dense(8, "tanh"), layers.Dense(1)])


@entry("A job of steps without callbacks: blocks go over the ends of epochs")
class NoCallbacks(Case):
    def callbacks(self) -> Any:
        return []


@entry("Everything in float64", allowed={"four": 1e-12, "two": 1e-12, "one": 1e-14, "xla": 1e-12})
class Float64(Case):
    def __init__(self) -> None:
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")


@entry("Inputs and outputs by name, losses and metrics by output, weights of losses", part="fast")
class NamedInputsAndOutputs(Case):
    def train_data(self) -> Any:
        (a, b), y, sign = branches(TRAINED, 1)
        return {"a": a, "b": b}, {"number": y, "sign": sign}

    def evaluation_data(self) -> Any:
        (a, b), y, sign = branches(16, 2)
        return {"a": a, "b": b}, {"number": y, "sign": sign}

    def model(self) -> Any:
        a, b = keras.Input((2,), name="a"), keras.Input((4,), name="b")
        both = layers.Concatenate()([layers.Dense(4, "tanh")(a), layers.Dense(4, "tanh")(b)])
        outputs = {"number": layers.Dense(1, name="number")(both)}
        outputs["sign"] = layers.Dense(1, "sigmoid", name="sign")(both)
        model = keras.Model({"a": a, "b": b}, outputs)
        model.compile(
            keras.optimizers.SGD(0.1),
            loss={"number": "mse", "sign": "binary_crossentropy"},
            loss_weights={"number": 1.0, "sign": 0.4},
            metrics={"number": ["mae"], "sign": ["accuracy", keras.metrics.AUC(name="auc")]},
        )
        return model


@entry(
    "A smaller last batch in the evaluation of a model with two outputs",
    other=True,
    why="fit counts the last, smaller batch as a whole one in the losses of single outputs; here each example counts once",
)
class SmallerLastBatchOfTwoOutputs(NamedInputsAndOutputs):
    oracle_evaluation_batch = HELD_OUT

    def evaluation_data(self) -> Any:
        (a, b), y, sign = branches(HELD_OUT, 2)
        return {"a": a, "b": b}, {"number": y, "sign": sign}


@entry("Inputs and outputs as tuples, losses as a list with weights", part="whole")
class ListedInputsAndOutputs(Case):
    def train_data(self) -> Any:
        x, y, sign = branches(TRAINED, 1)
        return x, (y, sign)

    def evaluation_data(self) -> Any:
        x, y, sign = branches(16, 2)
        return x, (y, sign)

    def model(self) -> Any:
        inputs = [keras.Input((2,)), keras.Input((4,))]
        both = layers.Concatenate()([layers.Dense(4, "tanh")(inputs[0]), layers.Dense(4, "tanh")(inputs[1])])
        outputs = [layers.Dense(1, name="number")(both), layers.Dense(1, "sigmoid", name="sign")(both)]
        model = keras.Model(inputs, outputs)
        model.compile(
            keras.optimizers.SGD(0.1),
            loss=["mse", keras.losses.BinaryCrossentropy()],
            loss_weights=[0.5, 2.0],
            metrics=[["mae"], ["accuracy"]],
        )
        return model


@entry("Two outputs, one of them without a loss", part="whole")
class OutputWithoutLoss(Case):
    def model(self) -> Any:
        x = keras.Input((WIDTH,))
        hidden = layers.Dense(8, "tanh", name="hidden")(x)
        return keras.Model(x, {"number": layers.Dense(1, name="number")(hidden), "hidden": hidden})

    def train_data(self) -> Any:
        x, y = make("numbers", TRAINED, 1)
        return x, {"number": y, "hidden": np.zeros((TRAINED, 8), "float32")}

    def evaluation_data(self) -> Any:
        x, y = make("numbers", 16, 2)
        return x, {"number": y, "hidden": np.zeros((16, 8), "float32")}

    def loss(self) -> Any:
        return {"number": "mse"}

    def metrics(self) -> Any:
        return {"number": ["mae"]}


@registered
class Configured(keras.Model):
    """A model of one's own that can be saved."""

    def __init__(self, units: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.hidden, self.out = layers.Dense(units, "tanh"), layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.out(self.hidden(x))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


class Unconfigured(keras.Model):
    """A model of one's own without get_config, whose constructor takes an argument."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.hidden, self.drop, self.out = layers.Dense(units, "tanh"), layers.Dropout(0.2), layers.Dense(1)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.out(self.drop(self.hidden(x), training=training))


@entry("A subclass of Model with get_config", part="fast")
class Subclass(Case):
    def model(self) -> Any:
        return Configured(7)


@entry("A subclass of Model without get_config: trained as any, exported as weights", random="layer")
class SubclassWithoutConfig(Case):
    def model(self) -> Any:
        return Unconfigured(7)


@entry("A model within a model", random="layer")
class Nested(Case):
    def model(self) -> Any:
        inner = keras.Sequential([keras.Input((WIDTH,)), layers.Dense(8, "tanh"), layers.Dropout(0.1)], name="inner")
        x = keras.Input((WIDTH,))
        return keras.Model(x, layers.Dense(1)(inner(x)))


@entry("One layer called on two inputs", part="whole")
class SharedLayer(Case):
    def train_data(self) -> Any:
        x, y = make("numbers", TRAINED, 1)
        return (x[:, :3], x[:, 3:]), y

    def evaluation_data(self) -> Any:
        x, y = make("numbers", HELD_OUT, 2)
        return (x[:, :3], x[:, 3:]), y

    def model(self) -> Any:
        a, b = keras.Input((3,)), keras.Input((3,))
        shared = layers.Dense(8, "tanh")
        return keras.Model([a, b], layers.Dense(1)(layers.Subtract()([shared(a), shared(b)])))


@entry("A part that is frozen before compiling", part="whole")
class FrozenPart(Case):
    def layers(self) -> Any:
        return [layers.Dense(8, "tanh", trainable=False), layers.Dense(4, "tanh")]


@entry("A frozen model with BatchNormalization below a new head, as in transfer learning", part="whole")
class FrozenBase(Case):
    def model(self) -> Any:
        below = keras.Sequential([keras.Input((WIDTH,)), layers.Dense(8), layers.BatchNormalization()], name="below")
        below.trainable = False
        x = keras.Input((WIDTH,))
        return keras.Model(x, layers.Dense(1)(below(x, training=False)))


@entry("No y at all: the loss comes from add_loss")
class Autoencoder(Case):
    def train_data(self) -> Any:
        return make("numbers", TRAINED, 1)[0]

    def evaluation_data(self) -> Any:
        return make("numbers", HELD_OUT, 2)[0]

    def model(self) -> Any:
        x = keras.Input((WIDTH,))
        decoded = layers.Dense(WIDTH)(layers.Dense(2, "tanh")(x))
        return keras.Model(x, OwnError()([x, decoded]))

    def loss(self) -> Any:
        return None

    def metrics(self) -> Any:
        return []


@registered
class OwnError(layers.Layer):
    """Adds the error of its second input as the loss."""

    def call(self, inputs: Any) -> Any:
        x, decoded = inputs
        self.add_loss(keras.ops.mean(keras.ops.square(x - decoded)))
        return decoded


@entry("Weights of one's own by hand: variables of the model itself")
class OwnVariables(Case):
    def model(self) -> Any:
        return ByHand()


@registered
class ByHand(keras.Model):
    """w x + b, its variables made in build, and one that is not trained."""

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(shape[-1], 1), initializer="glorot_uniform", name="w")
        self.b = self.add_weight(shape=(), initializer="zeros", name="b")
        self.offset = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(0.5), trainable=False, name="offset"
        )
        self.built = True

    def call(self, x: Any) -> Any:
        return x @ self.w + self.b + self.offset


@entry("Two Dense layers of one kernel: an embedding that is used again at the end", part="whole")
class TiedWeights(Case):
    def train_data(self) -> Any:
        x, _ = make("numbers", TRAINED, 1)
        return x, np.tanh(x)

    def evaluation_data(self) -> Any:
        x, _ = make("numbers", HELD_OUT, 2)
        return x, np.tanh(x)

    def model(self) -> Any:
        return Tied()


@registered
class Tied(keras.Model):
    """An autoencoder whose decoder is the encoder's kernel, turned."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.encode = layers.Dense(4, "tanh")

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(self.encode(x), keras.ops.transpose(self.encode.kernel))


@entry("More than one dtype: an int column is embedded, a float column is not", part="whole")
class MixedColumns(Case):
    def _columns(self, count: int, seed: int) -> Any:
        x, y = make("numbers", count, seed)
        return {"number": x, "kind": np.abs(x[:, 0] * 3).astype("int64") % 5}, y

    def train_data(self) -> Any:
        return self._columns(TRAINED, 1)

    def evaluation_data(self) -> Any:
        return self._columns(HELD_OUT, 2)

    def model(self) -> Any:
        number, kind = keras.Input((WIDTH,), name="number"), keras.Input((), name="kind", dtype="int64")
        both = layers.Concatenate()([layers.Dense(4, "tanh")(number), layers.Embedding(5, 3)(kind)])
        return keras.Model({"number": number, "kind": kind}, layers.Dense(1)(both))
