"""What the tasks of the suite are made of: small arrays, a plain model, and a callback that notes what it is told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from trainer.task import Task

TRAINED = 48
HELD_OUT = 20
"""No multiple of the batch: the last batch of an evaluation is smaller."""
WIDTH = 6
CLASSES = 3

heard: list[tuple[Any, ...]] = []
"""What callbacks were told in the present run: hook, its number, its logs."""
built: list["Case"] = []
"""The present run's task, once it is made."""
stepped = False
"""Whether the present run came to a first block."""


def plain(logs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Logs as they are compared: floats, and lists of them."""
    return {name: np.asarray(value, np.float64).tolist() for name, value in (logs or {}).items()}


class Recorder(keras.callbacks.Callback):
    """Notes the end of each epoch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        heard.append(("epoch_end", epoch, plain(logs)))


class EveryCall(Recorder):
    """Notes every call there is, and the parameters at the beginning."""

    def on_train_begin(self, logs: Any = None) -> None:
        heard.append(("train_begin", 0, {name: self.params.get(name) for name in ("epochs", "steps")}))

    def on_train_end(self, logs: Any = None) -> None:
        heard.append(("train_end", 0, plain(logs)))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        heard.append(("epoch_begin", epoch, plain(logs)))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        heard.append(("train_batch_begin", batch, plain(logs)))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        heard.append(("train_batch_end", batch, plain(logs)))

    def on_test_begin(self, logs: Any = None) -> None:
        heard.append(("test_begin", 0, plain(logs)))

    def on_test_end(self, logs: Any = None) -> None:
        heard.append(("test_end", 0, plain(logs)))

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        heard.append(("test_batch_begin", batch, plain(logs)))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        heard.append(("test_batch_end", batch, plain(logs)))


def make(kind: str, count: int, seed: int) -> tuple[Any, Any]:
    """`count` examples of a kind: numbers [count, 6] with y [count, 1], labels, onehot, binary, probabilities, images [count, 8,
    8, 2], series [count, 5, 3], tokens [count, 7] with zeros at the end."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, WIDTH)).astype("float32")
    mixed = x @ np.random.default_rng(99).normal(size=(WIDTH, CLASSES)) + 0.3 * random.normal(size=(count, CLASSES))
    number = mixed[:, :1].astype("float32")
    label = mixed.argmax(1).astype("int32")
    if kind == "labels":
        return x, label
    if kind == "onehot":
        return x, np.eye(CLASSES, dtype="float32")[label]
    if kind == "binary":
        return x, (number > 0).astype("float32")
    if kind == "probabilities":
        odds = np.exp(mixed)
        return x, (odds / odds.sum(1, keepdims=True)).astype("float32")
    if kind == "positive":
        return x, np.exp(0.3 * number)
    if kind == "images":
        return random.normal(size=(count, 8, 8, 2)).astype("float32"), number
    if kind == "series":
        series = random.normal(size=(count, 5, 3)).astype("float32")
        return series, series.sum((1, 2))[:, None] / 5
    if kind == "tokens":
        tokens = random.integers(1, 20, (count, 7)).astype("int32")
        lengths = random.integers(2, 8, count)
        tokens[np.arange(7)[None] >= lengths[:, None]] = 0
        return tokens, (tokens.sum(1, keepdims=True) / 50).astype("float32")
    assert kind == "numbers"
    return x, number


_LOSSES = {
    "labels": "sparse_categorical_crossentropy", "onehot": "categorical_crossentropy", "binary": "binary_crossentropy",
    "probabilities": "kl_divergence",
}  # fmt: skip
_LAST = {"labels": (CLASSES, "softmax"), "onehot": (CLASSES, "softmax"), "binary": (1, "sigmoid")}
_LAST |= {"probabilities": (CLASSES, "softmax"), "positive": (1, "softplus")}


class Case(Task):
    """A regression of six numbers by two Dense layers; a case says what it does otherwise."""

    kind = "numbers"
    folder = Path()
    """Of the present run, for files; the same after a kill, and for all workers."""
    every_call = False
    """Whether the calls that callbacks get are compared too: then blocks have one step."""
    by_oracle = False
    """Whether this object is the oracle's: a task may give it another way to the number that is right by hand."""
    ready = False
    """Whether train_data and evaluation_data give batches, which the oracle takes as they are."""
    oracle_batch = 0
    """The oracle's batch, where it is not the job's."""
    oracle_evaluation_batch = 0
    """The same in evaluations."""
    oracle_class_weight: dict[int, float] | None = None
    """The oracle's class weights, where they are not the job's."""
    predicts = True
    """Whether the exported model can answer as the trained one: not where it has a state that no format of Keras keeps."""
    by_hand = False
    """Whether the oracle runs the model's train_step in a loop of its own, and takes the mean of what it gives."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Case":
        task = super().__new__(cls)
        built[:] = [task]
        return task

    def train_data(self) -> Any:
        return make(self.kind, TRAINED, 1)

    def evaluation_data(self) -> Any:
        return make(self.kind, HELD_OUT, 2)

    def model(self) -> Any:
        return keras.Sequential([keras.Input((WIDTH,)), *self.layers(), self.last()])

    def layers(self) -> list[Any]:
        """Those before the last one."""
        return [keras.layers.Dense(8, "tanh")]

    def last(self) -> Any:
        """The layer that fits to y."""
        units, activation = _LAST.get(self.kind, (1, None))
        return keras.layers.Dense(units, activation)

    def loss(self) -> Any:
        return _LOSSES.get(self.kind, "mse")

    def optimizer(self) -> Any:
        return keras.optimizers.SGD(0.1)

    def metrics(self) -> Any:
        return ["mae"] if self.kind not in _LOSSES else ["accuracy"]

    def own_callbacks(self) -> list[Any]:
        """Those of the case, before the one that notes what it is told."""
        return []

    def callbacks(self) -> Any:
        return [*self.own_callbacks(), EveryCall() if self.every_call else Recorder()]

    def optimizers(self, model: Any) -> list[Any]:
        """Those whose variables are compared."""
        return [model.optimizer]

    def before_fit(self, model: Any) -> None:
        """What the oracle does to the compiled model before `fit`: where Keras alone would be wrong."""

    def after_fit(self, model: Any) -> None:
        """The same after `fit`."""

    def facts(self) -> dict[str, Any]:
        """What else is compared after training: anything that JSON takes."""
        return {}


registered = keras.saving.register_keras_serializable("conformance")
