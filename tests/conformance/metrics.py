"""Metrics: each of keras.metrics, those that give several numbers, and those of one's own with states of all kinds."""

from typing import Any

import keras
import numpy as np

from tests.conformance.base import CLASSES, WIDTH, Case, make, registered
from tests.conformance.catalogue import entry

M = keras.metrics
layers = keras.layers


@entry("Metrics of numbers: errors, R2, correlations", id="metrics-of-numbers")
class OfNumbers(Case):
    def metrics(self) -> Any:
        return [
            M.MeanAbsoluteError(), M.MeanSquaredError(), M.RootMeanSquaredError(), M.MeanAbsolutePercentageError(),
            M.LogCoshError(), M.CosineSimilarity(), M.R2Score(), M.PearsonCorrelation(), M.ConcordanceCorrelation(),
            M.MeanMetricWrapper(keras.losses.huber, name="huber"), M.Accuracy(),
        ]  # fmt: skip


@entry("Metrics of positive numbers", id="metrics-of-positive-numbers", part="whole")
class OfPositive(Case):
    kind = "positive"

    def metrics(self) -> Any:
        return [M.MeanSquaredLogarithmicError(), M.Poisson()]


@entry(
    "Metrics of yes and no: AUC, precision, recall, counts, at thresholds",
    id="metrics-of-yes-and-no",
    also=("four", "two"),
)
class OfYesAndNo(Case):
    kind = "binary"

    def metrics(self) -> Any:
        return [
            "accuracy", M.BinaryAccuracy(threshold=0.4), M.AUC(name="auc"), M.AUC(name="prc", curve="PR"),
            M.Precision(), M.Recall(), M.Precision([0.3, 0.7], name="precisions"),
            M.TruePositives(), M.TrueNegatives(), M.FalsePositives(), M.FalseNegatives(), M.PrecisionAtRecall(0.5),
            M.RecallAtPrecision(0.5), M.SensitivityAtSpecificity(0.5), M.SpecificityAtSensitivity(0.5),
            M.F1Score(average="micro", threshold=0.5), M.FBetaScore(beta=2.0, threshold=0.5), M.BinaryIoU(),
            M.BinaryCrossentropy(), M.Hinge(), M.SquaredHinge(),
        ]  # fmt: skip


@entry("Metrics of classes as numbers", id="metrics-of-labels")
class OfLabels(Case):
    kind = "labels"

    def metrics(self) -> Any:
        return [
            "accuracy", M.SparseCategoricalAccuracy(name="sparse"), M.SparseTopKCategoricalAccuracy(2),
            M.SparseCategoricalCrossentropy(), M.MeanIoU(CLASSES, sparse_y_pred=False),
            M.IoU(CLASSES, [0, 2], sparse_y_pred=False),
        ]  # fmt: skip


@entry("Metrics of classes as vectors; F1 gives one number a class", id="metrics-of-vectors", part="whole")
class OfVectors(Case):
    kind = "onehot"

    def metrics(self) -> Any:
        return [
            "accuracy", M.CategoricalAccuracy(name="categorical"), M.TopKCategoricalAccuracy(2), M.CategoricalCrossentropy(),
            M.CategoricalHinge(), M.KLDivergence(), M.F1Score(), M.FBetaScore(average="macro"), M.AUC(multi_label=True),
            M.OneHotIoU(CLASSES, [0]), M.OneHotMeanIoU(CLASSES),
        ]  # fmt: skip


@registered
class Tracked(keras.Model):
    """Mean and Sum as attributes, updated in call."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden, self.out = layers.Dense(8, "tanh"), layers.Dense(1)
        self.size, self.total = M.Mean(name="size"), M.Sum(name="total")

    def call(self, x: Any) -> Any:
        hidden = self.hidden(x)
        self.size.update_state(keras.ops.mean(keras.ops.abs(hidden), axis=-1))
        self.total.update_state(keras.ops.ones_like(hidden[:, 0]))
        return self.out(hidden)


@entry("Mean and Sum that the model updates in its call")
class OfTheModel(Case):
    def model(self) -> Any:
        return Tracked()


@registered
class LargestError(M.Metric):
    """max |y - p| so far; result() gives the variable itself, as the guide of Keras shows it."""

    def __init__(self, name: str = "largest_error", copies: bool = False, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.copies = copies
        self.most = self.add_variable((), "zeros", name="most")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        error = keras.ops.max(keras.ops.abs(keras.ops.cast(y_true, "float32") - y_pred))
        self.most.assign(keras.ops.maximum(self.most, error))

    def result(self) -> Any:
        return self.most + 0.0 if self.copies else self.most


@registered
class LowestScore(M.Metric):
    """The lowest prediction so far: its state starts at 1000."""

    def __init__(self, name: str = "lowest_score", copies: bool = False, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.copies = copies
        self.low = self.add_variable((), keras.initializers.Constant(1000.0), name="low")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.low.assign(keras.ops.minimum(self.low, keras.ops.min(y_pred)))

    def result(self) -> Any:
        return self.low + 0.0 if self.copies else self.low

    def reset_state(self) -> None:
        self.low.assign(1000.0)


@registered
class Histogram(M.Metric):
    """How many predictions fall below each of four bounds: a vector of counts, int64."""

    def __init__(self, name: str = "histogram", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.counts = self.add_variable((4,), "zeros", dtype="int64", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        below = keras.ops.reshape(y_pred, (-1, 1)) < np.float32([-1, 0, 1, 2])
        self.counts.assign_add(keras.ops.sum(keras.ops.cast(below, "int64"), axis=0))

    def result(self) -> Any:
        return keras.ops.cast(self.counts, "float32")


@registered
class Spread(M.Metric):
    """Gives a dict: mean and deviation of the predictions."""

    def __init__(self, name: str = "spread", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.sums = self.add_variable((3,), "zeros", name="sums")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        ops = keras.ops
        self.sums.assign_add(ops.stack([ops.sum(ops.ones_like(y_pred)), ops.sum(y_pred), ops.sum(ops.square(y_pred))]))

    def result(self) -> Any:
        ops = keras.ops
        count = ops.maximum(self.sums[0], 1.0)
        mean = self.sums[1] / count
        return {"spread_mean": mean, "spread_deviation": ops.sqrt(ops.maximum(self.sums[2] / count - mean**2, 0.0))}


@entry(
    "A maximum whose result() gives its variable, and a minimum that starts at 1000",
    part="fast",
    also=("four",),
    other=True,
    why="fit shows such a variable as it is after the epoch's evaluation; here it is training's, as where result() gives a copy",
)
class OwnExtremes(Case):
    def metrics(self) -> Any:
        return [LargestError(copies=self.by_oracle), LowestScore(copies=self.by_oracle)]


@entry("Metrics of one's own that give a vector of integers, and a dict")
class OwnVectors(Case):
    def metrics(self) -> Any:
        return [Histogram(), Spread()]


def close(y: Any, p: Any) -> Any:
    """A function as a metric."""
    return keras.ops.cast(keras.ops.abs(y - p) < 0.5, "float32")


@entry("Functions as metrics, and texts", part="whole")
class Functions(Case):
    def metrics(self) -> Any:
        return [close, "mse", keras.losses.log_cosh]


@entry("Weighted metrics beside unweighted ones", part="whole")
class Weighted(Case):
    kind = "binary"

    def _weighted(self, count: int, seed: int) -> Any:
        x, y = make("binary", count, seed)
        return x, y, np.random.default_rng(seed).uniform(0.0, 2.0, count).astype("float32")

    def train_data(self) -> Any:
        return self._weighted(48, 1)

    def evaluation_data(self) -> Any:
        return self._weighted(20, 2)

    def model(self) -> Any:
        model = keras.Sequential([keras.Input((WIDTH,)), layers.Dense(8, "tanh"), layers.Dense(1, "sigmoid")])
        weighted = ["accuracy", M.AUC(name="weighted_auc")]
        model.compile(
            keras.optimizers.SGD(0.1), "binary_crossentropy", metrics=[M.AUC(name="auc")], weighted_metrics=weighted
        )
        return model
