"""Tasks for jobs that are disturbed: paced, so that a test acts in the middle of them whatever the machine's speed."""

import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.task import Task
from trainer.tasks.digits import Digits

EXAMPLES = 300
STEPS_LOGGED = 4000


class Counting(keras.callbacks.Callback):
    """Knows how many steps were done, whatever the epoch."""

    @property
    def done(self) -> int:
        return int(self.model.optimizer.iterations)


class Pause(keras.callbacks.Callback):
    """Sleeps after each step, for `seconds` in ten of them."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        time.sleep(self._seconds / 10)


class Hold(Counting):
    """At the end of `step` it waits until the file `go` is there."""

    def __init__(self, step: int, go: str) -> None:
        super().__init__()
        self._step = step
        self._go = Path(go)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        while self.done >= self._step and not self._go.exists():
            time.sleep(0.02)


class Paced(Digits):
    """Digits with a pause after each step. With `hold_at` it trains no further than that step until the file `go` is there:
    a job that is to be disturbed before its end does not come to it first, however slow the machine is. (Its hang_timeout
    must bear that.)"""

    def __init__(self, pause_s: float = 0.05, hold_at: int = 0, go: str = "") -> None:
        super().__init__(hidden=[16])
        self.pause_s = pause_s
        self._hold = [Hold(hold_at, go)] if hold_at else []

    def callbacks(self) -> list[Any]:
        return [Pause(self.pause_s), *self._hold]


class Strolls(Digits):
    """Digits with a pause after each epoch of 22 steps, so that an endless job leaves the processors to others."""

    def __init__(self, pause_s: float = 0.2) -> None:
        super().__init__(hidden=[16])
        self._pause_s = pause_s

    def callbacks(self) -> list[Any]:
        return [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: time.sleep(self._pause_s))]


class Waits(Digits):
    """Once its data comes late on worker 0, and once a callback takes long on worker 1: longer than a hang's limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(hidden=[16])
        self._seconds = seconds

    def train_data(self) -> Any:
        for number, example in enumerate(zip(*super().train_data(), strict=True)):
            if number == 640 and os.environ["ORCH_INDEX"] == "0":
                time.sleep(self._seconds)
            yield example

    def callbacks(self) -> list[Any]:
        seconds = self._seconds

        class Long(keras.callbacks.Callback):
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                if epoch == 1 and os.environ["ORCH_INDEX"] == "1":
                    time.sleep(seconds)

        return [Long()]


class TellsEpochs(keras.callbacks.Callback):
    """Prints, on every worker, each epoch's end with what it is given."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        print(f"EPOCH {epoch} loss {logs['loss']:.6f} val_loss {logs['val_loss']:.6f}", flush=True)


class LongEvaluation(Paced):
    """Its evaluation takes minutes, until the file `go` is there; `go`.begun tells that it has begun."""

    def __init__(self, go: str) -> None:
        super().__init__(pause_s=0.0)
        self._go_at = Path(go)

    def evaluation_data(self) -> Any:
        for number, example in enumerate(zip(*super().evaluation_data(), strict=True)):
            if number and not self._go_at.exists():
                self._go_at.with_suffix(".begun").touch()
                time.sleep(0.4)
            yield example

    def callbacks(self) -> list[Any]:
        return [TellsEpochs()]


class Normalised(Paced):
    """BatchNormalization's statistics differ between replicas: each save is a collective."""

    def model(self) -> keras.Model:
        layers = [
            keras.layers.Flatten(),
            keras.layers.Dense(16),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
        return keras.Sequential([keras.Input((8, 8)), *layers, keras.layers.Dropout(0.2), keras.layers.Dense(10)])


class Once(Counting):
    """On one worker, after `step` steps, does something; the first time only, whatever the attempt."""

    def __init__(self, folder: str, worker: int, step: int) -> None:
        super().__init__()
        self._marker = Path(folder, f"{type(self).__name__}-{worker}")
        self._mine = os.environ["ORCH_INDEX"] == str(worker)
        self._step = step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._mine and self.done >= self._step and not self._marker.exists():
            self._marker.touch()
            self.act()

    def act(self) -> None:
        raise NotImplementedError


class Hang(Once):
    def act(self) -> None:
        wait_for_ever()


def wait_for_ever() -> None:
    time.sleep(3600)


class Hangs(Paced):
    """Worker 1 stands still once; the others then sit in a collective that never completes."""

    def __init__(self, folder: str, step: int) -> None:
        super().__init__()
        self._hang = (folder, 1, step)

    def callbacks(self) -> list[Any]:
        return [*super().callbacks(), Hang(*self._hang)]


class Raise(Counting):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if os.environ["ORCH_INDEX"] == "1" and self.done >= 40:
            raise KeyError("a slip of the user's")


class Raises(Paced):
    def callbacks(self) -> list[Any]:
        return [*super().callbacks(), Raise()]


class Crash(Counting):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if os.environ["ORCH_INDEX"] == "1" and self.done >= 40:
            os.abort()


class Crashes(Paced):
    """Worker 1 aborts at the same step each time."""

    def callbacks(self) -> list[Any]:
        return [*super().callbacks(), Crash()]


class Numbered(Task):
    """Each example is its own number; `seen`, a variable of the task, logs which examples each step took."""

    def __init__(self, batch: int, pause_s: float = 0.05) -> None:
        self.batch = batch
        self.pause_s = pause_s

    def model(self) -> keras.Model:
        self.seen = tf.Variable(tf.zeros((STEPS_LOGGED, EXAMPLES), tf.int32), trainable=False)
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])

    def train_data(self) -> Any:
        return np.arange(EXAMPLES, dtype="float32")[:, None], np.arange(EXAMPLES, dtype="int32")

    def train_step(self, model: Any, optimizer: Any, batch: Any) -> dict[str, Any]:
        x, number = batch
        taken = tf.reduce_sum(tf.one_hot(number, EXAMPLES, dtype=tf.int32), axis=0)
        self.seen.assign(tf.tensor_scatter_nd_update(self.seen, [[tf.cast(optimizer.iterations, tf.int32)]], [taken]))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x / EXAMPLES, training=True) - x / EXAMPLES) ** 2)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}

    def callbacks(self) -> list[Any]:
        return [Pause(self.pause_s)]
