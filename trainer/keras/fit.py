"""One call of `fit`, from its first line to its end, and gone on with after a restart."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import keras
import numpy as np
from keras.src.utils.python_utils import pythonify_logs

from trainer.callbacks.memory import told_of
from trainer.checkpoint.replicas import Replicas
from trainer.checkpoint.restore import Restored
from trainer.checkpoint.state import TrainingState, blobs_of
from trainer.data.random_state import drawn_so_far, go_on_drawing
from trainer.keras.calls import Calls
from trainer.keras.epochs import DONE, Before, Epochs
from trainer.keras.known_faults import known_faults
from trainer.keras.marks import Marks
from trainer.keras.position import Logs, Position
from trainer.keras.variables import make_all, state_of
from trainer.program.logs import as_numbers

_DRAWS = "draws"


class Turns(Protocol):
    """What a call of fit hears of the outside: when to save, and that it has to stop."""

    chief: bool

    def begun(self, fit: "Fit") -> None:
        """Training begins, or goes on."""

    def trained(self, fit: "Fit", calls: int, seconds: float) -> None:
        """So many calls of the training function are done since the last time."""

    def turn(self, fit: "Fit") -> int:
        """How many calls of the training function, or batches of an evaluation, come before the next turn."""

    def evaluates(self, fit: "Fit") -> None:
        """An evaluation begins."""

    def evaluated(self, fit: "Fit", seconds: float, logs: Logs) -> None:
        """It has ended."""

    def ended(self, fit: "Fit") -> None:
        """This call of fit is done."""

    def on_its_own(self, *, brief: bool = False) -> AbstractContextManager[None]:
        """In it each worker computes by itself. `brief`: nothing is announced of it."""


class Fit:
    """Follows Keras' loop by its callbacks (Calls), and knows where it is."""

    def __init__(
        self,
        turns: Turns,
        model: keras.Model,
        epochs: tuple[int, int],
        marks: Marks,
        position: Position,
        restored: Restored | None = None,
    ) -> None:
        """
        Args:
            epochs: fit's arguments initial_epoch and epochs.
            marks: what the call was given.
            position: where to go on; of a call that is new, only `call` and `step` say something.
            restored: the checkpoint that says so.
        """
        self._turns = turns
        self.model = model
        self._replicas = Replicas(model.distribute_strategy)
        self.first_epoch, self.total_epochs = epochs
        self._from, self._restored, self._goes_on = position, restored, restored is not None
        self._marks = marks
        self.call, self.step = position.call, position.step
        self.epoch = self.first_epoch if position.epoch is None else position.epoch
        self.batch = position.batch
        self.over = position.over
        self._logs: Any = position.logs
        self._epoch_logs = position.epoch_logs
        self._epochs: Epochs | None = None
        self._calls: Calls | None = None
        self._state: TrainingState | None = None
        self._left, self._since, self._turned = 1, 0, time.monotonic()
        self._resumed: list[np.ndarray] | None = None
        """The metrics' values of the epoch that goes on, until it does."""
        self._of_epoch: list[np.ndarray] = []
        """Those before the evaluation that goes on."""
        self._evaluation_began: float | None = None
        self._as_exported = contextlib.ExitStack()

    @property
    def has_trained(self) -> bool:
        """Whether this call has trained a step, now or before a restart."""
        return self._goes_on or self.step > self._from.step

    @property
    def initial_epoch(self) -> int:
        """What fit is to be told for its argument of that name."""
        ended = self._from.over or (self._from.stopped and not self._from.batch)
        return self.total_epochs if self._restored is not None and ended else self.epoch

    # --- how Keras' parts come to it

    def follow(self, calls: Calls) -> None:
        """These are the call's callbacks."""
        self._calls = calls

    def read(self, epochs: Epochs) -> None:
        """This is where its batches come from."""
        self._epochs = epochs

    def before(self) -> Before | None:
        """What of the data was used before."""
        if self._restored is None or self._from.epoch is None:
            return None
        return Before(self._from.epoch - self.first_epoch, self._from.batch, self._from.pass_batches)

    # --- for whom it turns to

    @property
    def batches(self) -> int | None:
        """Of an epoch, where that is known."""
        known: int | None = self._epochs.num_batches if self._epochs is not None else None
        return known

    @property
    def total_steps(self) -> int | None:
        """Steps at the end of this call, unless it ends earlier."""
        if self.batches is None:
            return None
        return self.step + max(0, self.total_epochs - self.epoch) * self.batches - self.batch

    @property
    def state(self) -> TrainingState:
        """All that a checkpoint holds. Asked for once every variable is made."""
        if self._state is None:
            self._state = state_of(self.model, self._calls.callbacks if self._calls else [], self._blobs)
        return self._state

    @property
    def stops_at_nan(self) -> bool:
        """Whether the script itself looks at a loss that is no number."""
        calls = self._calls
        return calls is not None and any(isinstance(one, keras.callbacks.TerminateOnNaN) for one in calls.given)

    @property
    def evaluating(self) -> bool:
        """Whether an evaluation goes on."""
        return self._evaluation_began is not None

    def numbers(self) -> dict[str, float]:
        """Those of the last batch's logs that are one number."""
        return {name: value for name, value in pythonify_logs(self._logs).items() if isinstance(value, float)}

    @property
    def results(self) -> dict[str, float]:
        """The logs of the last epoch that is done, validation included, as single numbers."""
        return as_numbers(self._epoch_logs or {})

    def position(self) -> Position:
        """Where it is, but for the ends of other calls."""
        epochs = self._epochs
        told = epochs is not None and epochs.steps_per_epoch is None and epochs.data_adapter.num_batches is None
        return Position(
            call=self.call,
            step=self.step,
            epoch=self.epoch,
            batch=self.batch,
            over=self.over,
            pass_batches=epochs._num_batches if told and epochs is not None else None,
            stopped=bool(self.model.stop_training),
            logs=pythonify_logs(self._logs),
            epoch_logs=self._epoch_logs,
            marks=self._marks,
        )

    def leave_evaluation(self) -> None:
        """Metrics are again what they were before the evaluation that goes on, for a save."""
        self._as_exported.close()
        if self.evaluating:
            self._set_metrics(self._of_epoch)

    # --- Calls tells it

    def train_begun(self) -> None:
        calls, restored = self._calls, self._restored
        assert calls is not None
        with self._turns.on_its_own():
            calls.begin(told_of(blobs_of(restored)) if restored is not None else None, tell=self._turns.chief)
        if restored is not None:
            self._go_on(restored)
        self._restored = None
        self._turned = time.monotonic()
        self._turns.begun(self)

    def faults_of_keras(self) -> Iterator[str]:
        """What Keras is known to do wrong in such a call."""
        assert self._epochs is not None
        assert self._calls is not None
        return known_faults(self.model, self._epochs, self._calls.given)

    def epoch_begins(self, epoch: int) -> bool:
        if self._resumed is not None and epoch == self.epoch:
            self._set_metrics(self._resumed)
            self._resumed = None
            return False
        self.epoch, self.batch, self._resumed = epoch, 0, None
        return True

    def batch_begins(self) -> bool:
        return self._epochs is None or not self._epochs.repeats

    def batch_ended(self, last: int, logs: Logs) -> None:
        done = last + 1 if self.batches is None else min(last + 1, self.batches)
        self.step += done - self.batch
        self.batch, self._logs = done, logs
        self._count()

    def epoch_ended(self, epoch: int, logs: Logs) -> None:
        self.epoch, self.batch, self._epoch_logs = epoch + 1, 0, pythonify_logs(logs)

    def test_begins(self) -> None:
        self._tell()
        self._of_epoch = self._metrics()
        self._turns.evaluates(self)
        self._evaluation_began = time.monotonic()
        if self.model.distribute_strategy.num_replicas_in_sync > 1:
            self._as_exported.enter_context(self.state.mean_unsynchronised())

    def test_batch_ended(self) -> None:
        self._count()

    def test_ended(self, logs: Logs) -> None:
        assert self._evaluation_began is not None
        seconds, self._evaluation_began = time.monotonic() - self._evaluation_began, None
        self._as_exported.close()
        self._turns.evaluated(self, seconds, logs)
        self._turned = time.monotonic()

    def train_ends(self, logs: Logs | None) -> Logs | None:
        return logs if logs is not None else self._epoch_logs

    def train_ended(self) -> None:
        if self._restored is not None:  # of a call that was done before
            assert self._calls is not None
            make_all(self.model, self._epochs)
            self.state.assign(self._restored)
            if (told := told_of(self.state.restored_blobs)) is not None:
                self._calls.put_back(told)
            self._go_on_drawing()
            self.model.stop_training = self._from.stopped
            return
        self.over = True
        self._tell()
        self.state.settle()
        self._turns.ended(self)

    def on_its_own(self, *, brief: bool = False) -> AbstractContextManager[None]:
        if brief and self._replicas.count == 1:
            return nullcontext()
        return self._turns.on_its_own(brief=brief)

    # --- within

    def _count(self) -> None:
        self._left -= 1
        if not self.evaluating:
            self._since += 1
        if not self._left:
            self._tell()
            self._left = self._turns.turn(self)
            self._turned = time.monotonic()

    def _tell(self) -> None:
        """What was trained since the last time."""
        if self._since and not self.evaluating:
            self._turns.trained(self, self._since, time.monotonic() - self._turned)
            self._since = 0

    def _go_on(self, restored: Restored) -> None:
        """All is as it was when the checkpoint was made."""
        make_all(self.model, self._epochs)
        self.state.assign(restored)
        self._go_on_drawing()
        self.model.stop_training = self._from.stopped
        if not self._from.batch:
            return
        self._resumed = self._metrics()
        trains = self.model.train_function

        def trained_before(iterator: Any) -> Any:
            if iterator is DONE:
                self.model.train_function = trains
                return self._from.logs
            return trains(iterator)

        self.model.train_function = trained_before

    def _go_on_drawing(self) -> None:
        stored = self.state.restored_blobs.get(_DRAWS)
        # Data that Python code makes draws as it is read again.
        if stored is not None and not (self._epochs is not None and self._epochs.of_python):
            go_on_drawing(stored)

    def _blobs(self) -> dict[str, np.ndarray]:
        return (self._calls.state() if self._calls is not None else {}) | {_DRAWS: drawn_so_far()}

    def _metrics(self) -> list[np.ndarray]:
        return [np.array(self._replicas.local_values(variable)[0]) for variable in self._metric_variables()]

    def _set_metrics(self, values: list[np.ndarray]) -> None:
        for variable, value in zip(self._metric_variables(), values, strict=True):
            for component in self._replicas.components(variable):
                component.assign(value)

    def _metric_variables(self) -> list[Any]:
        return [variable for metric in self.model.metrics for variable in metric.variables]
