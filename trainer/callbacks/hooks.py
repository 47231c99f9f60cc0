"""Keras callbacks, called as Keras' fit calls them, and what they remember in every checkpoint."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.callbacks.memory import Memory, Told, told_of
from trainer.callbacks.stock import NotANumber, adapters, averages_of, flattened, listens
from trainer.callbacks.values import Decoder
from trainer.data.order import Calendar
from trainer.errors import ConfigError, TaskError
from trainer.replaced import replaced

log = logging.getLogger(__name__)

Logs = Mapping[str, Any]
"""Metrics by name: float, or np.ndarray where a metric is no single number."""

_BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
_TEST_BATCH_HOOKS = ("on_test_batch_begin", "on_test_batch_end")
_TEST_HOOKS = ("on_test_begin", "on_test_end", *_TEST_BATCH_HOOKS)


class Hooks:
    """Calls the task's callbacks; see Task.callbacks for which hooks, and when.

    For the loop: `begin`; then `batch_begin` before each block, `batch_end` after it, and `block_done` once what follows the
    block (an evaluation) is done; at last `end`. Around an evaluation `test_begin` and `test_end`.
    """

    def __init__(
        self,
        callbacks: Any,
        model: keras.Model,
        calendar: Calendar,
        total_steps: int,
        during: Callable[[], AbstractContextManager[None]] = nullcontext,
        *,
        chief: bool = True,
        run: str = "",
        variables: Iterable[Any] = (),
        keeping: Callable[[], AbstractContextManager[None]] = nullcontext,
        as_exported: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """
        Args:
            callbacks: what Task.callbacks gave.
            during: callbacks run in the context that it gives.
            chief: whether this worker is the one that writes files and prints.
            run: the run directory.
            variables: those beside the model's and the optimizer's that checkpoints hold anyway.
            keeping: gives a context at whose end all variables are as at its beginning.
            as_exported: gives a context in which the model's variables are alike on all replicas, as in an export: what
                callbacks keep or write at an epoch's end is then the same on all workers.

        Raises:
            ConfigError: something that is no callback.
        """
        self._model, self._calendar, self._total_steps = model, calendar, total_steps
        self._during, self._keeping, self._as_exported, self._chief = during, keeping, as_exported, chief
        called = _without_backups(as_list(callbacks), chief=chief)
        if called and not any(isinstance(callback, keras.callbacks.History) for callback in called):
            called.append(keras.callbacks.History())
        self._adapters = adapters(called, chief=chief, run=run)
        self._variables = variables
        self._memory = Memory(self._adapters, self._kept_elsewhere)
        self._epoch = 0
        self._open = False
        self._logs: Logs = {}
        self._last_logs: Logs = {}
        self._restored: Told | None = None
        model.stop_training = False

    @property
    def active(self) -> bool:
        """Whether there are callbacks at all: the same on all workers."""
        return bool(self._adapters)

    @property
    def every_batch(self) -> bool:
        """Whether a hook of each training batch does something: then a block is one step."""
        return self._listen(_BATCH_HOOKS)

    @property
    def every_test_batch(self) -> bool:
        """The same for the batches of an evaluation."""
        return self._listen(_TEST_BATCH_HOOKS)

    @property
    def whole_evaluations(self) -> bool:
        """Whether an evaluation that has begun must come to its end: who was told of its beginning may wait for that."""
        return self._listen(_TEST_HOOKS)

    @property
    def ends_with_other_weights(self) -> bool:
        """Whether `end` may change the weights."""
        return self.active or bool(averages_of(self._model))

    @property
    def stop_reason(self) -> str:
        """Why a callback wants training to end, or nothing."""
        return "a callback set model.stop_training" if self.active and self._model.stop_training else ""

    def begin(self) -> None:
        """Training begins, or goes on. All workers call it."""
        document, decoder = self._restored or ({}, Decoder(()))
        if document:
            self._open, self._epoch = document["open"], document["epoch"]
            self._logs, self._last_logs = decoder.decode(document["logs"]), decoder.decode(document["last_logs"])
        steps = self._calendar.end_of(1) or self._total_steps
        params = {"verbose": "auto", "epochs": self._calendar.epoch_of(self._total_steps), "steps": steps}
        with self._memory.beginning(document.get("callbacks", []), decoder, tell=self._chief):
            for adapter in self._adapters:
                adapter.call("set_params", params)
                adapter.call("set_model", self._model)
                if isinstance(adapter.callback, keras.callbacks.History):
                    self._model.history = adapter.callback
            with self._keeping() if document and self._sets_variables() else nullcontext():
                self._call("on_train_begin", {})
        self._restored = None

    def batch_begin(self, step: int) -> None:
        """A block of steps follows the first `step` ones."""
        if not self._open:
            self._open, self._epoch = True, self._calendar.epochs_done(step)
            self._call("on_epoch_begin", self._epoch, {})
        if self.every_batch:
            self._call("on_train_batch_begin", self._batch(step), logs={})

    def batch_end(self, step: int, logs: Logs) -> None:
        """A block has ended with step `step`. `logs`: the means of the epoch so far."""
        self._logs = _pythonified(logs)
        if self.every_batch:
            self._call("on_train_batch_end", self._batch(step - 1), logs=dict(self._logs))

    def block_done(self, step: int, validation: Logs | None = None, *, done: bool = False) -> bool:
        """What follows a block is done. Whether an epoch ended: with the block, or because training is `done`.

        Nothing is called twice for a step, before and after a restart too.
        """
        if not (self.active and self._open and (done or self._calendar.ends_epoch(step))):
            return False
        self._last_logs = _pythonified({**self._logs, **(validation or {})})
        with self._as_exported():
            self._call("on_epoch_end", self._epoch, dict(self._last_logs))
        self._open = False
        return True

    def test_begin(self) -> None:
        """An evaluation begins."""
        self._call("on_test_begin", {})

    def test_batch_begin(self, batch: int) -> None:
        """Its batch `batch`, from 0, begins."""
        if self.every_test_batch:
            self._call("on_test_batch_begin", batch, logs={})

    def test_batch_end(self, batch: int, logs: Logs) -> None:
        """Its batch `batch` has ended. `logs`: the means over the batches so far, without val_."""
        if self.every_test_batch:
            self._call("on_test_batch_end", batch, logs=_pythonified(logs))

    def test_end(self, logs: Logs) -> None:
        """An evaluation has ended, with `logs`, without val_."""
        self._call("on_test_end", _pythonified(logs))

    def check_finite(self, step: int) -> None:
        """Before the state after `step` steps, the last one, is saved.

        Raises:
            Diverged: the loss is no number, and a callback looks at that. All were told of the end, as in fit.
        """
        for adapter in self._adapters:
            if isinstance(adapter, NotANumber) and adapter.sees(self._logs):
                self.end()
                raise adapter.diverged(step, self._logs)

    def end(self) -> None:
        """Training is done; with use_ema, the model gets the averages first, as in fit."""
        if averages_of(self._model):
            self._model.optimizer.finalize_variable_values(self._model.trainable_variables)
        self._call("on_train_end", dict(self._last_logs))

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold, by name: JSON as uint8, and the arrays that it speaks of."""
        if not self.active:
            return {}
        return self._memory.blobs(
            lambda encoder: {
                "open": self._open,
                "epoch": self._epoch,
                "logs": encoder.encode(dict(self._logs), "logs"),
                "last_logs": encoder.encode(dict(self._last_logs), "logs"),
            }
        )

    def restore(self, blobs: Mapping[str, np.ndarray]) -> None:
        """Take the `state` of a checkpoint; `begin` gives it to the callbacks. One that is empty is that of a fresh start."""
        self._restored = told_of(blobs)

    def _call(self, hook: str, *arguments: Any, **named: Any) -> None:
        if self._adapters:
            with self._during(), _alone(self._model):
                for adapter in self._adapters:
                    adapter.call(hook, *arguments, **named)

    def _listen(self, hooks: Iterable[str]) -> bool:
        return any(listens(adapter.callback, hook) for adapter in self._adapters for hook in hooks)

    def _batch(self, step: int) -> int:
        """The number of step `step`, both from 0, within its epoch."""
        return step - (self._calendar.end_of(self._calendar.epochs_done(step)) or 0)

    def _kept_elsewhere(self) -> list[Any]:
        optimizer = self._model.optimizer
        return [*self._model.variables, *(optimizer.variables if optimizer is not None else ()), *self._variables]

    def _sets_variables(self) -> bool:
        """Whether code of the user's runs at the beginning, which may change what was restored."""
        return any(
            not getattr(getattr(adapter.callback, hook), "__module__", "").startswith("keras.")
            for adapter in self._adapters
            for hook in ("on_train_begin", "set_model")
        )


@contextlib.contextmanager
def _alone(model: keras.Model) -> Iterator[None]:
    """A callback may predict with the model: each worker by itself, whether or not the others do."""
    if not isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        yield
        return

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        raise TaskError(
            "a callback called model.evaluate, which Keras cannot do with several workers",
            remedy="Give the task an evaluation_data(): logs then have its val_ numbers. Or train with one worker.",
        )

    with replaced(model, "_distribute_strategy", None), replaced(model, "evaluate", evaluate):
        yield


def as_list(callbacks: Any) -> list[Any]:
    """The callbacks in what Task.callbacks gave: None, one, a CallbackList, or a list or tuple of these, nested too.

    Raises:
        ConfigError: something that is no callback.
    """
    found = flattened(callbacks)
    for one in found:
        if isinstance(one, keras.callbacks.Callback):
            continue
        is_class = isinstance(one, type) and issubclass(one, keras.callbacks.Callback)
        what = f"the class {one.__name__}" if is_class else f"a {type(one).__name__}"
        raise ConfigError(
            f"callbacks() holds {what}, which is no keras.callbacks.Callback",
            remedy=f"Write {one.__name__}() there."
            if is_class
            else "Return a list of keras.callbacks.Callback objects.",
        )
    return found


def _without_backups(callbacks: list[Any], *, chief: bool) -> list[Any]:
    taken = [callback for callback in callbacks if isinstance(callback, keras.callbacks.BackupAndRestore)]
    if taken and chief:
        log.info("BackupAndRestore is not called: orch's own checkpoints do its work, to the step (checkpoint.every)")
    return [callback for callback in callbacks if callback not in taken]


def _pythonified(logs: Logs) -> dict[str, Any]:
    """As Keras hands logs to callbacks: in order of name, and as float what is one number."""
    plain: dict[str, Any] = {}
    for name, value in sorted(logs.items()):
        if isinstance(value, Mapping):
            plain |= _pythonified(value)
            continue
        try:
            plain[name] = float(value)
        except (TypeError, ValueError):
            plain[name] = value
    return plain
