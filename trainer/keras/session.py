"""A script in its training process: its calls of `fit`, one after the other, saved, stopped and gone on with."""

import contextlib
import logging
import math
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import keras
import tensorflow as tf

from trainer import faults
from trainer.callbacks.stock import flattened
from trainer.checkpoint import restore
from trainer.checkpoint.made_with import KEY as MADE_WITH
from trainer.checkpoint.made_with import of_job
from trainer.checkpoint.restore import Restored
from trainer.checkpoint.snapshot import SnapshotMemory
from trainer.config import TrainConfig
from trainer.data.checksum import label_checksum
from trainer.errors import ConfigError
from trainer.exit_codes import ExitCode
from trainer.keras.calls import Calls, Done
from trainer.keras.epochs import Epochs
from trainer.keras.fit import Fit
from trainer.keras.marks import changed, marks_of
from trainer.keras.position import KEY, Logs, Position
from trainer.keras.strategies import outside_of_strategy, scope_of_script
from trainer.process.channel import Channel
from trainer.process.collective import Collective, Decision, data_differ
from trainer.process.host_state import versions
from trainer.process.plan import Pace
from trainer.process.saves import Saves
from trainer.process.tensorboard import TensorBoard
from trainer.program.logs import as_numbers
from trainer.rundir.attempts import CommitRef
from trainer.rundir.store import Store
from trainer.wire.process import Block, Evaluated, Phase, Start

log = logging.getLogger(__name__)

_STEPS_MAX = 1 << 20


class Session:
    """All calls of fit of one process. Every worker has one, and all go through the same turns."""

    current: "Session | None" = None
    """That of this process."""

    def __init__(self, channel: Channel, start: Start, config: TrainConfig, strategy: Any, store: Store) -> None:
        self._channel, self._start, self._config, self._store = channel, start, config, store
        self.strategy = strategy
        self.chief = start.index == 0
        self.collective = Collective(strategy, start.record.world_size)
        self._memory = SnapshotMemory(start.memory_fd) if start.memory_fd is not None else None
        restore_from = start.record.restore
        self._from = Position.read(restore.commit_of(store, restore_from).host_state) if restore_from else None
        self._ends: dict[int, CommitRef] = dict(self._from.ends) if self._from is not None else {}
        self._calls = 0
        self.alone = False
        """Whether each worker computes by itself now: within callbacks."""
        self.tries_rows = not start.record.restarts
        """Whether a first batch is tried for layers that mix its rows: not again after a restart."""
        self._labels = 0
        self._told: set[str] = set()
        self._fit: Fit | None = None
        """The call of fit that goes on."""
        self.last: Fit | None = None
        """The one that was done last."""
        self._waits: list[str] = []
        self._step = 0
        self._pace = Pace(_STEPS_MAX)
        self._saves: Saves | None = None
        self._saved = start.record.restore
        """What was handed to the writer last; at first the commit that was restored."""
        self._of: Fit | None = None
        """Whose variables `_saves` copies."""
        self._tensorboard = TensorBoard(store, start.record.number) if self.chief else None
        self._versions = versions()
        self._made_with = of_job(config.train, config.task_root).model_dump(mode="json")

    # --- install.py calls these in the place of Keras' own

    def fit(self, keras_fit: Callable[..., Any], model: keras.Model, arguments: dict[str, Any]) -> Any:
        """One call of model.fit, with all its arguments by name."""
        if self._fit is not None or not model.compiled:  # a callback trains another model; Keras says what is missing
            return keras_fit(model, **arguments)
        arguments = arguments | {
            "callbacks": flattened(arguments["callbacks"])
        }  # not a CallbackList, which Keras would use
        if model.distribute_strategy is not self.strategy:
            raise ConfigError(
                f"the script makes a tf.distribute strategy, and fits {model.name!r}, which was made outside of its scope: each "
                "worker would train it for itself",
                remedy="Make and compile the model within `with strategy.scope():`, or leave the strategy out of the script: "
                "orch gives it the job's.",
            )
        fit = self._next_fit(model, arguments)
        self._fit, self._waits = fit, ["calls", "epochs"]
        try:
            history = keras_fit(model, **arguments | {"initial_epoch": fit.initial_epoch})
        finally:
            self._fit = None
        self.last = fit
        self._step, self._calls = fit.step, self._calls + 1
        self._channel.enter(Phase.SCRIPT, self._step)
        return history

    def callbacks(self, *arguments: Any, **named: Any) -> keras.callbacks.CallbackList:
        """Keras makes a list of callbacks."""
        fit = self._fit
        if fit is None or "calls" not in self._waits:
            return keras.callbacks.CallbackList(*arguments, **named)
        self._waits.remove("calls")
        calls = (Done if fit.over else Calls)(
            fit,
            *arguments,
            chief=self.chief,
            run=f"{self._config.run_directory}#{fit.call}",
            elsewhere=lambda: [*fit.model.variables, *(fit.model.optimizer.variables if fit.model.optimizer else ())],
            **named,
        )
        fit.follow(calls)
        if self.chief and not fit.over:
            self._warn(fit.faults_of_keras())
        return calls

    def epochs(self, *arguments: Any, **named: Any) -> Epochs:
        """Keras makes an iterator over epochs."""
        fit = self._fit
        if fit is None or "epochs" not in self._waits:
            return Epochs(*arguments, **named)
        self._waits.remove("epochs")
        seed = zlib.crc32(f"{self._config.train.seed} {fit.call}".encode())
        epochs = Epochs(*arguments, before=fit.before(), seed=seed, **named)
        fit.read(epochs)
        if fit.over:
            epochs.pass_over()
        return epochs

    def trains_on(self, batch: Any) -> None:
        """A batch that each worker has read for itself is about to be trained."""
        if self._start.record.world_size > 1:  # else there is nobody to compare it with
            self._labels = label_checksum(batch, self._labels)

    # --- Fit calls these

    def begun(self, fit: Fit) -> None:
        self._channel.enter(Phase.TRAIN, fit.step)
        faults.reach("process.compiled")

    def trained(self, fit: Fit, calls: int, seconds: float) -> None:
        self._pace.observe(calls, seconds)
        steps = calls * fit.model.steps_per_execution
        numbers = fit.numbers()
        if not math.isfinite(numbers.get("loss", 0.0)):
            self._not_finite(fit)
        self._channel.send(
            Block(
                step=fit.step,
                steps=steps,
                seconds=seconds,
                total_steps=fit.total_steps,
                epoch=fit.epoch,
                replicas=fit.model.distribute_strategy.num_replicas_in_sync,
                metrics=numbers,
            ),
            droppable=True,
        )
        if self._tensorboard is not None:
            self._tensorboard.scalars(fit.step, numbers | {"steps_per_second": steps / max(seconds, 1e-9)})
        faults.reach("process.block")

    def _not_finite(self, fit: Fit) -> None:
        if self._config.train.on_nan != "stop" or fit.stops_at_nan:
            self._warn(["the loss is not a finite number; training goes on"])
            return
        raise self._saves_of(fit).diverged(f"the loss is not a finite number at step {fit.step} or before")

    def turn(self, fit: Fit) -> int:
        turn = self.collective.agree(self._proposal(fit), chief=self.chief)
        if not turn.same_labels:
            raise data_differ("the script", f", to model.fit up to step {fit.step}")
        if turn.stop:
            self._stop(fit)
        if turn.save:
            self._save(fit, "interval")
            self._channel.enter(Phase.TRAIN, fit.step)
        return max(1, turn.next_steps)

    def _proposal(self, fit: Fit) -> Decision:
        stop = self._channel.stop_reason is not None
        if not self.chief:
            return Decision(stop=stop, labels=self._labels)
        if fit.evaluating:
            return Decision(stop=stop, labels=self._labels, next_steps=self._pace.next_steps(_STEPS_MAX))
        every = self._config.checkpoint.every_steps
        by_steps = every is not None and fit.step // every > (self._saved.step if self._saved else 0) // every
        until = every - fit.step % every if every is not None else _STEPS_MAX
        return Decision(
            stop=stop,
            next_steps=self._pace.next_steps(-(-until // fit.model.steps_per_execution)),
            save=fit.call not in self._ends and self._saves_of(fit).due(fit.step, by_steps=by_steps),
            labels=self._labels,
        )

    def evaluates(self, fit: Fit) -> None:
        self._channel.enter(Phase.EVALUATE, fit.step)

    def evaluated(self, fit: Fit, seconds: float, logs: Logs) -> None:
        numbers = {f"val_{name}": value for name, value in as_numbers(logs).items()}
        self._channel.send(Evaluated(step=fit.step, examples=0, seconds=seconds, metrics=numbers))
        if self._tensorboard is not None:
            self._tensorboard.scalars(fit.step, numbers)
        self._channel.enter(Phase.TRAIN, fit.step)
        faults.reach("process.evaluated")

    def ended(self, fit: Fit) -> None:
        if not fit.has_trained or fit.call in self._ends:
            return
        saves = self._saves_of(fit)
        self._channel.enter(Phase.SAVE, fit.step, "last")
        unsaved = self.chief and not saves.is_saved(fit.step)
        if self.collective.agree(Decision(save=unsaved), chief=self.chief).save:
            self._save(fit, "last")
        if self.chief:
            saves.wait_committed(fit.step)
        assert self._saved is not None
        self._ends[fit.call] = self._saved
        faults.reach("process.last-saved")

    @contextlib.contextmanager
    def on_its_own(self, *, brief: bool = False) -> Iterator[None]:
        before, self.alone = self.alone, True
        try:
            told = contextlib.nullcontext() if brief else self._channel.within(Phase.CALLBACK)
            with told, outside_of_strategy():
                yield
        finally:
            self.alone = before

    # --- script.py calls these

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """In it the script runs: what it makes is made for all devices."""
        if self.strategy is tf.distribute.get_strategy():
            yield
            return
        with scope_of_script(self.strategy):
            yield

    @property
    def step(self) -> int:
        """Steps done in all calls of fit."""
        return self._step

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what is left of the curves."""
        if self._tensorboard is not None:
            self._tensorboard.close(timeout_s)

    # --- within

    def _next_fit(self, model: keras.Model, arguments: Mapping[str, Any]) -> Fit:
        call, epochs = self._calls, (int(arguments["initial_epoch"]), int(arguments["epochs"]))
        marks = marks_of(model, arguments)
        newest = self._from is not None and self._from.call == call
        ref = self._start.record.restore if newest else self._ends.get(call)
        if ref is None:
            return Fit(self, model, epochs, marks, Position(call=call, step=self._step))
        restored = self._load(ref)
        goes_on = Position.read(restored.commit.host_state)
        if self.chief and (differing := changed(goes_on.marks, marks)):
            log.warning(
                "the script is not repeated as it was: %s differ from when %s was saved, from which training goes on. Seed what "
                "it draws, and let its data stay the same",
                ", ".join(differing),
                restored.commit.ref.name,
            )
        self._channel.restoring(restored.commit.size_bytes)
        return Fit(self, model, epochs, marks, goes_on, restored)

    def _warn(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            if sentence not in self._told:
                self._told.add(sentence)
                log.warning("%s", sentence)

    def _load(self, ref: CommitRef) -> Restored:
        began = time.monotonic()
        restored = restore.load(self._store, ref)
        log.info(
            "restored commit=%s size_mb=%.1f seconds=%.2f",
            ref.name,
            restored.commit.size_bytes / 1e6,
            time.monotonic() - began,
        )
        return restored

    def _saves_of(self, fit: Fit) -> Saves:
        """The saves of a call of fit, whose variables are all made."""
        if self._saves is not None and self._of is fit:
            return self._saves
        if self._memory is not None:
            self._memory.reserve(fit.state.size_bytes)
        if self._saves is None:
            self._saves = Saves(
                self._channel,
                fit.state,
                self._memory,
                self._config.checkpoint,
                lambda step: self._about(),
                restored_step=self._saved.step if self._saved is not None else None,
            )
        else:  # one of the call before may still be in flight, where an error ended it
            self._saves.copies(fit.state)
        self._of = fit
        return self._saves

    def _save(self, fit: Fit, why: Any) -> None:
        fit.leave_evaluation()
        self._saves_of(fit).save(fit.step, why)
        self._saved = CommitRef(step=fit.step, attempt=self._start.record.number)

    def _about(self) -> dict[str, Any]:
        fit = self._of
        assert fit is not None
        ends = {call: ref for call, ref in self._ends.items() if call < fit.call}
        position = replace(fit.position(), ends=ends).written()
        return {
            "epoch": fit.epoch,
            "examples_seen": 0,
            "host_state": {KEY: position, MADE_WITH: self._made_with},
            "seed": self._config.train.seed,
            "world_size": self._start.record.world_size,
            "replicas": fit.model.distribute_strategy.num_replicas_in_sync,
            "global_batch_size": 0,
            "versions": self._versions,
        }

    def _stop(self, fit: Fit) -> NoReturn:
        """Save, where that is not done, and end the process: nothing of the script runs any more."""
        log.info(
            "stopping step=%d reason=%s", fit.step, self._channel.stop_reason or "another worker was asked to stop"
        )
        unsaved = self.chief and fit.call not in self._ends and not self._saves_of(fit).is_handed_over(fit.step)
        if self.collective.agree(Decision(save=unsaved), chief=self.chief).save:
            self._save(fit, "stop")
        self.collective.leave(self._start.index, self._start.record.world_size)
        faults.reach("process.left")
        self.close(2.0)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ExitCode.STOPPED)
