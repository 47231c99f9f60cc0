"""Losses: each of keras.losses, every reduction, functions and classes of one's own, several outputs, sample weights."""

from typing import Any

import keras
import numpy as np

from tests.conformance.base import HELD_OUT, TRAINED, Case, make, registered
from tests.conformance.catalogue import entry

_OF_KIND = {
    "BinaryCrossentropy": "binary", "BinaryFocalCrossentropy": "binary", "Hinge": "binary", "SquaredHinge": "binary",
    "Dice": "binary", "Tversky": "binary", "CategoricalCrossentropy": "onehot", "CategoricalFocalCrossentropy": "onehot",
    "CategoricalGeneralizedCrossEntropy": "labels", "CategoricalHinge": "onehot", "KLDivergence": "probabilities",
    "SparseCategoricalCrossentropy": "labels", "Poisson": "positive", "MeanSquaredLogarithmicError": "positive",
    "MeanAbsolutePercentageError": "positive", "CosineSimilarity": "probabilities", "Circle": "labels",
}  # fmt: skip
STOCK = (
    "BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalCrossentropy", "CategoricalFocalCrossentropy",
    "CategoricalGeneralizedCrossEntropy", "CategoricalHinge", "Circle", "CosineSimilarity", "Dice", "Hinge", "Huber",
    "KLDivergence", "LogCosh", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredError",
    "MeanSquaredLogarithmicError", "Poisson", "SparseCategoricalCrossentropy", "SquaredHinge", "Tversky",
)  # fmt: skip
"""Of keras.losses all but CTC, which has an entry of its own."""


class Stock(Case):
    """One of keras.losses with its defaults."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = _OF_KIND.get(name, "numbers")

    def last(self) -> Any:
        # Circle compares embeddings of unit length within a batch.
        return keras.layers.UnitNormalization() if self.name == "Circle" else super().last()

    def loss(self) -> Any:
        return getattr(keras.losses, self.name)()

    def metrics(self) -> Any:
        return []

    def optimizer(self) -> Any:
        slow = {"MeanAbsolutePercentageError": 0.002, "Circle": 0.001}
        return keras.optimizers.SGD(slow.get(self.name, 0.1))


for _name in STOCK:
    _of_all = _name in ("Dice", "Tversky", "Circle")  # they look at the whole batch, not at each example
    entry(
        f"keras.losses.{_name}" + (", which looks at the whole batch" if _of_all else ""),
        id=f"loss-{_name}",
        params={"name": _name},
        part="ci" if _name == "Dice" else "whole",
    )(Stock)


@entry("keras.losses.CTC", part="whole")
class Ctc(Case):
    def _data(self, count: int, seed: int) -> Any:
        x, _ = make("series", count, seed)
        return x, np.random.default_rng(seed).integers(1, 4, (count, 2)).astype("int32")

    def train_data(self) -> Any:
        return self._data(TRAINED, 1)

    def evaluation_data(self) -> Any:
        return self._data(16, 2)

    def model(self) -> Any:
        return keras.Sequential(
            [keras.Input((5, 3)), keras.layers.GRU(6, return_sequences=True), keras.layers.Dense(5)]
        )

    def loss(self) -> Any:
        return keras.losses.CTC()

    def metrics(self) -> Any:
        return []


@entry("The reduction sum", id="reduction-sum", params={"reduction": "sum"}, also=("four",))
@entry("The reduction mean", id="reduction-mean", part="whole", params={"reduction": "mean"})
@entry(
    "The reduction mean_with_sample_weight",
    id="reduction-by-weight",
    part="whole",
    params={"reduction": "mean_with_sample_weight"},
)
@entry(
    "The reduction mean_with_sample_weight, with weights of examples",
    id="reduction-by-weight-weighted",
    params={"reduction": "mean_with_sample_weight", "weighted": True},
)
@entry(
    "The reduction sum with weights of examples",
    id="reduction-sum-weighted",
    part="whole",
    params={"reduction": "sum", "weighted": True},
)
class Reduced(Case):
    def __init__(self, reduction: str, weighted: bool = False) -> None:
        self.reduction, self.weighted = reduction, weighted

    def _data(self, count: int, seed: int) -> Any:
        x, y = make("numbers", count, seed)
        weights = np.random.default_rng(seed).uniform(0.0, 2.0, count).astype("float32")
        return (x, y, weights) if self.weighted else (x, y)

    def train_data(self) -> Any:
        return self._data(TRAINED, 1)

    def evaluation_data(self) -> Any:
        return self._data(HELD_OUT, 2)

    def loss(self) -> Any:
        return keras.losses.MeanSquaredError(reduction=self.reduction)

    def optimizer(self) -> Any:
        return keras.optimizers.SGD(0.01)


def one_number(y: Any, p: Any) -> Any:
    """A root of a mean over the batch."""
    return keras.ops.sqrt(keras.ops.mean(keras.ops.square(y - p)))


def one_an_example(y: Any, p: Any) -> Any:
    """An error of each example."""
    return keras.ops.mean(keras.ops.abs(y - p) ** 1.5, axis=-1)


def dice(y: Any, p: Any) -> Any:
    """One number a batch, as in scripts for segmentation."""
    ops = keras.ops
    return 1.0 - (2.0 * ops.sum(y * p) + 1.0) / (ops.sum(y) + ops.sum(p) + 1.0)


@entry("A function that gives one number a batch", part="fast", also=("four", "two"))
class LossOfOneNumber(Case):
    def loss(self) -> Any:
        return one_number


@entry("A function that gives one number an example", part="whole")
class LossOfExamples(Case):
    def loss(self) -> Any:
        return one_an_example


@entry("A Dice loss of one's own: one number a batch")
class OwnDice(Case):
    kind = "binary"

    def loss(self) -> Any:
        return dice

    def optimizer(self) -> Any:
        return keras.optimizers.SGD(1.0)


@registered
class Focal(keras.losses.Loss):
    """A class of one's own."""

    def __init__(self, gamma: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gamma = gamma

    def call(self, y: Any, p: Any) -> Any:
        ops = keras.ops
        p = ops.clip(p, 1e-6, 1 - 1e-6)
        return -ops.mean(y * (1 - p) ** self.gamma * ops.log(p) + (1 - y) * p**self.gamma * ops.log(1 - p), axis=-1)


@entry("A subclass of Loss", part="whole")
class OwnLossClass(Case):
    kind = "binary"

    def loss(self) -> Any:
        return Focal()


@registered
class Ranking(keras.losses.Loss):
    """Compares every example of a batch with every other."""

    def call(self, y: Any, p: Any) -> Any:
        ops = keras.ops
        wanted, found = y - ops.transpose(y), p - ops.transpose(p)
        return ops.mean(ops.relu(0.5 - ops.sign(wanted) * found), axis=-1)


@entry("A loss that compares the examples of a batch with each other")
class LossOfPairs(Case):
    def loss(self) -> Any:
        return Ranking()


@entry("Label smoothing and from_logits", part="whole")
class Smoothed(Case):
    kind = "onehot"

    def last(self) -> Any:
        return keras.layers.Dense(3)

    def loss(self) -> Any:
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)


@entry("Weights of examples")
class SampleWeights(Reduced):
    def __init__(self) -> None:
        super().__init__("sum_over_batch_size", weighted=True)

    def model(self) -> Any:
        model = super().model()
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"], weighted_metrics=["mse"])
        return model


@entry("Weights of points in time: one for each of five outputs of an example", part="whole")
class TemporalWeights(Case):
    def _data(self, count: int, seed: int) -> Any:
        x, _ = make("series", count, seed)
        return x, x.sum(-1, keepdims=True), np.tile(np.float32([1, 1, 0.5, 0, 2]), (count, 1))

    def train_data(self) -> Any:
        return self._data(TRAINED, 1)

    def evaluation_data(self) -> Any:
        return self._data(16, 2)

    def model(self) -> Any:
        return keras.Sequential([keras.Input((5, 3)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
