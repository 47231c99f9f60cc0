"""Steps per second of one small model: Keras' fit, the best loop we know how to write by hand, and `orch run` with everything on.

    python benchmarks/steps.py [--repetitions 5] [--seconds 6]

The model is 784-32-32-10 with ReLU, batch 64, Adam, on data of MNIST's size and shape (random: its values do not matter here).
All contenders see the same data in shuffled order. They take turns, each repetition in a process of its own; medians are shown,
and ratios of medians. `orch run` is measured by the Block messages of a real run (RUN/metrics): the steps of its second half by
the time between the blocks around them, so that evaluations, saves and agreement between blocks count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

EXAMPLES, FEATURES, CLASSES, BATCH = 60_000, 784, 10, 64
HIDDEN = (32, 32)


def data() -> tuple[Any, Any]:
    """x float32 [60000, 784] in 0..1, y int32 [60000]."""
    import numpy as np

    random = np.random.default_rng(0)
    return random.random((EXAMPLES, FEATURES), np.float32), random.integers(0, CLASSES, EXAMPLES).astype(np.int32)


def model() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(units, activation="relu") for units in HIDDEN]
    return keras.Sequential([keras.Input((FEATURES,)), *layers, keras.layers.Dense(CLASSES)])


def loss() -> Any:
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def keras_fit(steps_per_execution: int, seconds: float) -> float:
    """model.fit at its best: arrays, shuffled, the better of Keras' own choice of jit and none."""
    return max(_fit(steps_per_execution, jit, seconds / 2) for jit in ("auto", False))


def _fit(steps_per_execution: int, jit: Any, seconds: float) -> float:
    x, y = data()
    whole = EXAMPLES // BATCH * BATCH
    trained = model()
    trained.compile("adam", loss(), metrics=["accuracy"], steps_per_execution=steps_per_execution, jit_compile=jit)
    return rate_of_fit(trained, x[:whole], y[:whole], BATCH, seconds)


def rate_of_fit(trained: Any, x: Any, y: Any, batch_size: int, seconds: float) -> float:
    """Steps per second of the fastest epoch of fit, the first one left out, since it compiles."""
    import keras

    end = time.perf_counter() + seconds
    rates = [0.0]

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch:
                rates.append(len(x) / batch_size / (time.perf_counter() - self.began))
            self.model.stop_training = bool(epoch) and time.perf_counter() > end

    trained.fit(x, y, batch_size, epochs=100_000, verbose=0, callbacks=[Clock()])
    return max(rates)


def by_hand(seconds: float) -> float:
    """The best loop we know: data on the device, a block's indices computed outside, the whole block one XLA program."""
    import numpy as np
    import tensorflow as tf

    x, y = map(tf.constant, data())
    trained, loss_function, block = model(), loss(), 4096
    import keras

    optimizer = keras.optimizers.Adam()
    optimizer.build(trained.trainable_variables)

    @tf.function(jit_compile=True, autograph=False)
    def train(indices: Any) -> Any:
        def body(step: Any, total: Any) -> Any:
            rows = indices[step]
            with tf.GradientTape() as tape:
                value = loss_function(tf.gather(y, rows), trained(tf.gather(x, rows), training=True))
            weights = trained.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
            return step + 1, total + value

        return tf.while_loop(lambda step, total: step < block, body, (tf.constant(0), tf.constant(0.0)))[1] / block

    random = np.random.default_rng(0)

    def indices() -> Any:
        epochs = -(-block * BATCH // EXAMPLES)
        row = np.concatenate([random.permutation(EXAMPLES) for _ in range(epochs)])[: block * BATCH]
        return tf.constant(row.reshape(block, BATCH).astype(np.int32))

    float(train(indices()))
    began, blocks = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        float(train(indices()))
        blocks += 1
    return blocks * block / (time.perf_counter() - began)


TASK = """
import sys
sys.path.append({here!r})
import steps
from trainer.task import Task

class Small(Task):
    def model(self):
        return steps.model()
    def train_data(self):
        return steps.data()
    def evaluation_data(self):
        x, y = steps.data()
        return x[:10000], y[:10000]
    def loss(self):
        return steps.loss()
    def metrics(self):
        return ["accuracy"]
"""


def orch_run(seconds: float) -> float:
    """A real `orch run`: metrics, checkpoints every 2 s, an evaluation of 10,000 examples every 20,000 steps, TensorBoard."""
    train = {
        "task": "task.py:Small",
        "steps": max(20_000, int(seconds * 8000)),
        "global_batch_size": BATCH,
        "evaluate": {"every": 20_000, "batch_size": 1000},
    }
    return rate_of_blocks(lines_of_a_run(TASK, train))


def lines_of_a_run(task: str, train: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics of the run directory of `orch run`, of a task that may import what lies beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "task.py").write_text(task.format(here=str(Path(__file__).parent)))
        job = {"name": "measured", "train": train, "checkpoint": {"every": "2s"}}
        Path(folder, "job.yaml").write_text(json.dumps(job))
        orch = Path(sys.executable).with_name("orch")
        done = subprocess.run([orch, "run", "job.yaml"], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr + done.stdout)
        return [
            json.loads(line)
            for path in sorted(Path(folder, "runs/measured/metrics").rglob("*.jsonl"))
            for line in path.read_text().splitlines()
        ]


def rate_of_blocks(lines: list[dict[str, Any]]) -> float:
    """Steps per second of the second half of a run, all that happened between its blocks included."""
    times = [line for line in lines if line.get("type") == "block"]
    half = times[len(times) // 2 :]
    return (half[-1]["step"] - half[0]["step"]) / (half[-1]["time"] - half[0]["time"])


CONTENDERS: dict[str, Callable[[float], float]] = {
    "Keras fit, steps_per_execution=1": lambda seconds: keras_fit(1, seconds),
    "Keras fit, steps_per_execution=100": lambda seconds: keras_fit(100, seconds),
    "by hand: one XLA program a block": by_hand,
    "orch run, everything on": orch_run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each repetition")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(CONTENDERS[arguments.only](arguments.seconds))
        return
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for repetition in range(arguments.repetitions):
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--only", name, "--seconds", str(arguments.seconds)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            rates[name].append(float(done.stdout.split()[-1]))
            print(
                f"{repetition + 1}/{arguments.repetitions} {name}: {rates[name][-1]:,.0f}", file=sys.stderr, flush=True
            )
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        print(f"{name:36} {median:10,.0f} steps/s   ({min(rates[name]):,.0f} to {max(rates[name]):,.0f})")
    fit_1, fit_100, hand, ours = medians.values()
    print(f"orch run / by hand:          {ours / hand:.2f}   (expected: at least 0.95)")
    print(f"orch run / Keras' best fit:  {ours / max(fit_1, fit_100):.2f}   (expected: at least 2)")


if __name__ == "__main__":
    main()
