"""Steps per second of five kinds of models: Keras' best `fit` beside `orch run` with everything on, in the same run.

    python benchmarks/models.py [--repetitions 3] [--seconds 12] [--models lstm,cnn]

Keras' best is the fastest epoch of fit with steps_per_execution=64, over arrays, with and without jit_compile. `orch run` is a
real run with metrics, checkpoints every 2 s and TensorBoard; its rate is that of the steps between the blocks around them: once
for its first ten seconds of training, once for what comes after. The contenders take
turns, each in a process of its own; medians and their ratios are shown.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import steps

BATCH, WARM_S = 32, 10.0
FASTER = {"mlp": 5.0, "table": 7.0, "transformer": 2.0}
"""How many times the rate of fit a run may have, where it is more than 1.5: its number of steps is to last."""


def mlp() -> tuple[Any, Any, Any]:
    import keras

    layers = [keras.layers.Dense(32, "relu"), keras.layers.Dense(32, "relu")]
    return keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10)]), (784,), 10


def table() -> tuple[Any, Any, Any]:
    import keras

    x = keras.Input((30,))
    h = keras.layers.BatchNormalization()(x)
    for units in (64, 32):
        h = keras.layers.Dropout(0.1)(keras.layers.Dense(units, "relu")(h))
    return keras.Model(x, keras.layers.Dense(2)(h)), (30,), 2


def cnn() -> tuple[Any, Any, Any]:
    import keras

    layers = keras.layers
    body = [layers.Conv2D(16, 3, activation="relu"), layers.MaxPooling2D(), layers.Conv2D(32, 3, activation="relu")]
    head = [layers.MaxPooling2D(), layers.Flatten(), layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *body, *head]), (28, 28, 1), 10


def lstm() -> tuple[Any, Any, Any]:
    import keras

    layers = keras.layers
    return keras.Sequential([keras.Input((40, 16)), layers.LSTM(32), layers.Dense(4)]), (40, 16), 4


def gru() -> tuple[Any, Any, Any]:
    import keras

    layers = keras.layers
    return keras.Sequential([keras.Input((40, 16)), layers.GRU(32), layers.Dense(4)]), (40, 16), 4


def transformer() -> tuple[Any, Any, Any]:
    import keras

    layers = keras.layers
    x = keras.Input((32, 32))
    h = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
    h = layers.LayerNormalization()(h + layers.Dense(32)(layers.Dense(64, "gelu")(h)))
    return keras.Model(x, layers.Dense(4)(layers.GlobalAveragePooling1D()(h))), (32, 32), 4


MODELS: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
    "mlp": mlp, "table": table, "cnn": cnn, "transformer": transformer, "lstm": lstm, "gru": gru,
}  # fmt: skip


def made(name: str) -> tuple[Any, Any, Any, Any]:
    """Model, loss, and 4,096 examples of random data (its values do not matter here)."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    model, shape, classes = MODELS[name]()
    random = np.random.default_rng(0)
    x = random.random((4096, *shape), np.float32)
    y = random.integers(0, classes, 4096).astype(np.int32)
    return model, keras.losses.SparseCategoricalCrossentropy(from_logits=True), x, y


def keras_fit(name: str, seconds: float) -> float:
    """The better of Keras' fit with and without jit."""
    return max(_fit(name, jit, seconds / 2) for jit in (True, False))


def _fit(name: str, jit: bool, seconds: float) -> float:
    model, loss, x, y = made(name)
    model.compile("adam", loss, metrics=["accuracy"], steps_per_execution=64, jit_compile=jit)
    return steps.rate_of_fit(model, x, y, BATCH, seconds)


TASK = """
import sys
sys.path.append({here!r})
import models
from trainer.task import Task

class Model(Task):
    def __init__(self, name):
        self.made = models.made(name)
    def model(self):
        return self.made[0]
    def train_data(self):
        return self.made[2:]
    def loss(self):
        return self.made[1]
    def metrics(self):
        return ["accuracy"]
"""


def orch_run(name: str, count: int, compiled: str) -> tuple[float, float]:
    """Steps per second of a run of `count` steps in the first ten seconds of training, and after them."""
    train = {"task": "task.py:Model", "params": {"name": name}, "steps": count, "global_batch_size": BATCH}
    lines = steps.lines_of_a_run(TASK, train | {"compile": compiled})
    blocks = [line for line in lines if line.get("type") == "block"]
    began = blocks[0]["time"]
    first = [line for line in blocks if line["time"] <= began + WARM_S]
    later = [line for line in blocks if line["time"] > began + WARM_S]
    return _rate(first), _rate(later)


def _rate(blocks: list[dict[str, Any]]) -> float:
    if len(blocks) < 3:
        return float("nan")
    return (blocks[-1]["step"] - blocks[0]["step"]) / (blocks[-1]["time"] - blocks[0]["time"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="of fit; orch run trains 10 s and as long again")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--compile", default="auto", help="train.compile of orch run")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(keras_fit(arguments.only[0], arguments.seconds))
        return
    for name in arguments.models.split(","):
        rates: dict[str, list[float]] = {"fit": [], "first": [], "later": []}
        for _ in range(arguments.repetitions):
            command = [sys.executable, __file__, "--only", name, "fit", "--seconds", str(arguments.seconds)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            rates["fit"].append(float(done.stdout.split()[-1]))
            count = int(rates["fit"][-1] * FASTER.get(name, 1.5) * (WARM_S + arguments.seconds))
            first, later = orch_run(name, count, arguments.compile)
            rates["first"].append(first)
            rates["later"].append(later)
        fit, first, later = (statistics.median(values) for values in rates.values())
        print(
            f"{name:12} fit {fit:8,.0f}   orch run {later:8,.0f} steps/s   ratio {later / fit:5.2f}   "
            f"first ten seconds {first / fit:5.2f} ({first / later:.2f} of later)",
            flush=True,
        )


if __name__ == "__main__":
    main()
