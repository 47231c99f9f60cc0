"""Keras callbacks at the boundaries of blocks and epochs."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras

from trainer.data.order import Calendar
from trainer.errors import ConfigError


class Hooks:
    """Calls the task's callbacks; see Task.callbacks for which hooks, and when."""

    def __init__(
        self,
        callbacks: Sequence[Any],
        model: keras.Model,
        calendar: Calendar,
        total_steps: int,
        during: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Callbacks run in the context that `during` gives. Raises ConfigError: something that is no callback."""
        for callback in callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                raise ConfigError(
                    f"callbacks() holds a {type(callback).__name__}, which is no keras.callbacks.Callback"
                )
        self._callbacks = list(callbacks)
        self._model = model
        self._calendar = calendar
        self._total_steps = total_steps
        self._during = during
        self._seen = 0
        model.stop_training = False
        epoch_steps = calendar.end_of(1)
        for callback in self._callbacks:
            callback.set_model(model)
            callback.set_params({"epochs": calendar.epoch_of(total_steps), "steps": epoch_steps, "verbose": 0})

    @property
    def active(self) -> bool:
        """Whether there are callbacks at all: the same on all workers."""
        return bool(self._callbacks)

    @property
    def stop_reason(self) -> str:
        """Why a callback wants training to end, or nothing."""
        return "a callback set model.stop_training" if self.active and self._model.stop_training else ""

    def begin(self, step: int, *, due: bool) -> None:
        """Training begins or goes on, after `step` steps. `due`: what follows the last of them was not called yet."""
        self._seen = -1 if due else step
        self._call("on_train_begin", {})
        if not due:
            self._begin_epoch(step)

    def due(self, step: int) -> bool:
        """Whether callbacks have yet to be called for what was done up to `step`."""
        return self.active and self._seen != step

    def block_done(self, step: int, metrics: dict[str, float], validation: dict[str, float] | None) -> None:
        """The turn after `step` steps. Does nothing when no step was done since the last one."""
        if step == self._seen:
            return
        self._seen = step
        self._call("on_train_batch_end", step - 1, metrics)
        if self._calendar.ends_epoch(step):
            self._call("on_epoch_end", self._calendar.epochs_done(step) - 1, metrics | (validation or {}))
            self._begin_epoch(step)

    def end(self) -> None:
        """Training is done."""
        self._call("on_train_end", {})

    def _begin_epoch(self, step: int) -> None:
        begins = step == 0 or self._calendar.ends_epoch(step)
        if begins and step < self._total_steps and not self.stop_reason:
            self._call("on_epoch_begin", self._calendar.epochs_done(step), {})

    def _call(self, hook: str, *arguments: Any) -> None:
        if not self._callbacks:
            return
        with self._during():
            for callback in self._callbacks:
                getattr(callback, hook)(*arguments)
