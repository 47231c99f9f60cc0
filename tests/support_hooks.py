"""A small training with Hooks in this process, step by step; and one that is killed after a commit, and goes on from it."""

import collections
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.callbacks.hooks import Hooks
from trainer.data.order import Calendar

BATCH, STEPS_PER_EPOCH, EPOCHS = 16, 4, 6
STEPS = STEPS_PER_EPOCH * EPOCHS


def data(examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(examples, 5)).astype("float32")
    return x, (x[:, :1] * x[:, 1:2] + 0.3 * random.normal(size=(examples, 1))).astype("float32")


def make_model(**optimizer: Any) -> keras.Model:
    keras.utils.clear_session()  # so that names do not count up
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05, **optimizer), "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    return model


class Training:
    """What the loop does with Hooks, of any callbacks, on Keras' own steps."""

    def __init__(
        self, callbacks: Any, *, model: keras.Model | None = None, chief: bool = True, run: str = "run"
    ) -> None:
        self.model = model or make_model()
        self.x, self.y = data(BATCH * STEPS_PER_EPOCH, 0)
        self.held_out = data(32, 1)
        self.calendar = Calendar(len(self.x), BATCH)
        self.callbacks = callbacks
        self.hooks = Hooks(callbacks, self.model, self.calendar, STEPS, chief=chief, run=run)
        self.model.make_train_function()
        self.model.make_test_function()
        self.step = 0
        self._evaluated = 0

    def commit(self) -> tuple[int, list[np.ndarray], dict[str, np.ndarray]]:
        return self.step, [keras.ops.convert_to_numpy(variable) for variable in self._variables()], self.hooks.state()

    def go_on_from(self, commit: tuple[int, list[np.ndarray], dict[str, np.ndarray]]) -> "Training":
        self.step, values, blobs = commit
        self._evaluated = self.step
        self.model.train_on_batch(self.x[:BATCH], self.y[:BATCH])  # metrics have their variables after a step
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)
        self.hooks.restore(blobs)
        return self

    def run(self, until: int = STEPS) -> "Training":
        """From the beginning or the commit to step `until`; with STEPS, to the end of training."""
        self.hooks.begin()
        return self.on(until)

    def on(self, until: int = STEPS) -> "Training":
        """Further, to step `until`."""
        while True:
            done = self.step >= STEPS or bool(self.hooks.stop_reason)
            ends = self.step > 0 and (done or self.calendar.ends_epoch(self.step))
            self.hooks.block_done(
                self.step, self._evaluate() if ends and self.step != self._evaluated else None, done=done
            )
            if done or self.hooks.stop_reason:
                self.hooks.check_finite(self.step)
                self.hooks.end()
                return self
            if self.step >= until:
                return self
            self.hooks.batch_begin(self.step)
            if self.step % STEPS_PER_EPOCH == 0:
                self.model.reset_metrics()
            first = self.step % STEPS_PER_EPOCH * BATCH
            logs = self.model.train_function(iter([(self.x[first : first + BATCH], self.y[first : first + BATCH])]))
            self.step += 1
            self.hooks.batch_end(self.step, logs)

    def weights(self) -> list[np.ndarray]:
        return [np.array(weight) for weight in self.model.get_weights()]

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables, *self.model.metrics_variables]

    def _evaluate(self) -> dict[str, float]:
        self._evaluated = self.step
        metrics = [keras.ops.convert_to_numpy(variable) for variable in self.model.metrics_variables]
        self.hooks.test_begin()
        self.model.reset_metrics()
        x, y = self.held_out
        for batch in range(2):
            self.hooks.test_batch_begin(batch)
            rows = slice(batch * BATCH, (batch + 1) * BATCH)
            logs = self.model.test_function(iter([(x[rows], y[rows])]))
            self.hooks.test_batch_end(batch, logs)
        self.hooks.test_end(logs)
        for variable, value in zip(self.model.metrics_variables, metrics, strict=True):
            variable.assign(value)
        return {f"val_{name}": value for name, value in logs.items()}


def killed_and_gone_on(
    make: Callable[[Path], Sequence[Any]], folder: Path, *, commit_at: int, killed_at: int, **options: Any
) -> Training:
    """Trained to `killed_at`, then gone on to the end from what was committed at `commit_at`."""
    model = options.pop("model", make_model)
    first = Training(make(folder), model=model(), **options).run(commit_at)
    commit = first.commit()
    first.on(killed_at)
    return Training(make(folder), model=model(), **options).go_on_from(commit).run()


def events(folder: Path) -> collections.Counter[tuple[str, int, bytes]]:
    """What the event files below `folder` hold: how often each tag, step and value."""
    found: collections.Counter[tuple[str, int, bytes]] = collections.Counter()
    for path in sorted(folder.rglob("*tfevents*")):
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                found[value.tag, event.step, value.tensor.SerializeToString()] += 1
    return found
