"""The callbacks of one `fit`, called as Keras calls them; what they were told before is not told again."""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np

from trainer.callbacks.memory import Memory, Told
from trainer.callbacks.stock import Adapter, BestWeights, adapters, flattened
from trainer.callbacks.values import Decoder
from trainer.keras.position import Logs


class Follower(Protocol):
    """Who follows a call of fit by its callbacks. Each is called after the callbacks, but for those that say otherwise."""

    def train_begun(self) -> None: ...

    def epoch_begins(self, epoch: int) -> bool:
        """Before the callbacks; whether they are to be told."""

    def batch_begins(self) -> bool:
        """Before the callbacks; whether they are to be told."""

    def batch_ended(self, last: int, logs: Logs) -> None: ...

    def epoch_ended(self, epoch: int, logs: Logs) -> None: ...

    def test_begins(self) -> None:
        """Before the callbacks."""

    def test_batch_ended(self) -> None: ...

    def test_ended(self, logs: Logs) -> None: ...

    def train_ends(self, logs: Logs | None) -> Logs | None:
        """Before the callbacks; the logs that they are told."""

    def train_ended(self) -> None: ...

    def on_its_own(self, *, brief: bool = False) -> contextlib.AbstractContextManager[None]:
        """In it callbacks are called: each worker by itself. `brief`: for a batch, of which nothing is announced."""


class Calls(keras.callbacks.CallbackList):  # type: ignore[misc]
    """Keras' list of callbacks, for a call of fit that is followed, and gone on with."""

    def __init__(
        self,
        follower: Follower,
        callbacks: Any = None,
        add_history: bool = False,
        add_progbar: bool = False,
        model: Any = None,
        *,
        chief: bool,
        run: str,
        elsewhere: Callable[[], list[Any]],
        **params: Any,
    ) -> None:
        """
        Args:
            follower: is told of all.
            chief: whether this worker writes files and prints.
            run: the run directory, which tells this job's files from others'.
            elsewhere: variables that checkpoints hold anyway.
            params: as Keras gives them.
        """
        self._follower = follower
        self._replayed = False
        self.callbacks: list[Any]
        self.given = flattened(callbacks)
        """As the script gave them. BackupAndRestore is not called: a checkpoint does its work."""
        called = [one for one in self.given if not isinstance(one, keras.callbacks.BackupAndRestore)]
        super().__init__(called, add_history=add_history, add_progbar=add_progbar)
        # What Keras itself does wrong is left to it here: with one worker, fit is fit.
        self._adapters = adapters(self.callbacks, chief=chief, run=run)
        self.memory = Memory(self._adapters, elsewhere)
        if not chief:
            self.callbacks = [_Through(adapter) for adapter in self._adapters]
        self.set_model(model)
        self.set_params(params)

    def begin(self, told: Told | None, *, tell: bool) -> None:
        """What on_train_begin does, for callbacks that remember `told`; `tell`: warn of what is lost."""
        document, decoder = told or ({}, Decoder(()))
        with self.memory.beginning(document.get("callbacks", []), decoder, tell=tell), self._follower.on_its_own():
            super().on_train_begin(None)

    def put_back(self, told: Told) -> None:
        """Callbacks of a call that is done are as it left them."""
        document, decoder = told
        self.memory.put_back(document.get("callbacks", []), decoder)

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold of them, by name."""
        if self._async_train:
            self._flush_futures()
        return self.memory.blobs()

    # --- Keras calls these

    def on_train_begin(self, logs: Any = None) -> None:
        self._follower.train_begun()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._follower.epoch_begins(epoch):
            with self._follower.on_its_own():
                super().on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._replayed = not self._follower.batch_begins()
        if not self._replayed:
            with self._follower.on_its_own(brief=True):
                super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self._replayed:
            with self._follower.on_its_own(brief=True):
                super().on_train_batch_end(batch, logs)
            self._follower.batch_ended(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        with self._follower.on_its_own():
            super().on_epoch_end(epoch, logs)
        self._follower.epoch_ended(epoch, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        self._follower.test_begins()
        with self._follower.on_its_own(brief=True):
            super().on_test_begin(logs)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        with self._follower.on_its_own(brief=True):
            super().on_test_batch_begin(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        with self._follower.on_its_own(brief=True):
            super().on_test_batch_end(batch, logs)
        self._follower.test_batch_ended()

    def on_test_end(self, logs: Any = None) -> None:
        with self._follower.on_its_own(brief=True):
            super().on_test_end(logs)
        self._follower.test_ended(logs)

    def on_train_end(self, logs: Any = None) -> None:
        logs = self._follower.train_ends(logs)
        with self._follower.on_its_own():
            super().on_train_end(logs)
        self._follower.train_ended()


class Done(Calls):
    """For a call of fit that was done before: nobody is told anything."""

    def on_train_begin(self, logs: Any = None) -> None:
        pass

    def on_train_end(self, logs: Any = None) -> None:
        self._follower.train_ended()


class _Through:
    """A callback of a worker that writes nothing: called by its adapter."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._call = Adapter.call.__get__(adapter) if isinstance(adapter, BestWeights) else adapter.call

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._adapter.callback, name)
        if not name.startswith(("on_", "set_")):
            return found
        return lambda *arguments, **named: self._call(name, *arguments, **named)
