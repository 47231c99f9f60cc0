"""From a job's configuration to a loop that is ready to run: task, data, model, restored state, compiled block."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import faults
from trainer.callbacks.hooks import Hooks, as_list
from trainer.checkpoint.made_with import MadeWith
from trainer.checkpoint.replicas import Replicas
from trainer.checkpoint.snapshot import NotEnoughMemory, SnapshotMemory
from trainer.checkpoint.state import TrainingState
from trainer.config import TrainConfig, TrainSection
from trainer.data.feed import Feed, make_feed
from trainer.data.load import TaskData
from trainer.data.order import Calendar, total_steps
from trainer.data.sources import BatchSource
from trainer.errors import ConfigError
from trainer.exit_codes import ExitCode
from trainer.export.exportable import form_of
from trainer.export.exporter import Exporter
from trainer.model.adapted import Adapted
from trainer.model.build import build_model
from trainer.model.reach import Reached, modules_of, reach
from trainer.process.best import KEY as BEST
from trainer.process.best import Best
from trainer.process.channel import Channel
from trainer.process.collective import Collective
from trainer.process.evaluate import Evaluator
from trainer.process.fingerprint import check_equal, go_on_from, made_with
from trainer.process.host_state import host_state, restore_progress, restore_state, versions
from trainer.process.loop import Loop
from trainer.process.plan import EarlyStopping, Pace, Plan, Progress
from trainer.process.saves import Saves
from trainer.process.strategy import check_batch
from trainer.process.tensorboard import TensorBoard
from trainer.process.training import Training
from trainer.program.global_batch import GlobalBatch
from trainer.program.mixing import check_rows
from trainer.program.ranges import Ranges
from trainer.program.steps import CompiledBlock, choose_mode
from trainer.rundir.attempts import CommitRef
from trainer.rundir.open import open_store
from trainer.rundir.store import Store
from trainer.task import Task, load_task
from trainer.wire.process import Phase, Start

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Given:
    """What a process was told, and where it runs."""

    channel: Channel
    start: Start
    config: TrainConfig
    strategy: Any
    store: Store

    @property
    def train(self) -> TrainSection:
        return self.config.train

    @property
    def replicas(self) -> int:
        return int(self.strategy.num_replicas_in_sync)

    @property
    def chief(self) -> bool:
        return self.start.index == 0

    @property
    def first_step(self) -> int:
        restored = self.start.record.restore
        return restored.step if restored is not None else 0


@dataclass(frozen=True)
class _Loaded:
    """What the task gave, and what hangs on it."""

    task: Task
    data: TaskData
    callbacks: list[Any]
    model: keras.Model
    plan: Plan
    made: MadeWith
    sample: Any
    exporter: Exporter | None
    roots: dict[str, Any]
    reached: Reached
    own_metrics: list[keras.Metric]
    """Those that the model does not list."""


@dataclass(frozen=True)
class _Built:
    """The program of steps, and the state that it changes."""

    block: CompiledBlock
    feed: Feed
    global_batch: GlobalBatch
    state: TrainingState
    adapted: Adapted
    hooks: Hooks


def prepare(channel: Channel, start: Start, config: TrainConfig, strategy: Any) -> Training:
    """Load, build, restore and compile. All workers do it together."""
    channel.enter(Phase.RESTORE)
    record = start.record
    given = _Given(channel, start, config, strategy, open_store(config.run_directory))
    loaded = _load(given)
    built = _build(given, loaded)
    early = EarlyStopping(config.train.stop_when) if config.train.stop_when else None
    best = Best(config.export, given.store, loaded.exporter) if config.export.best else None
    progress = Progress()
    if record.restore is not None:
        _restore(given, loaded, built, progress, early, best, record.restore)
    if record.world_size > 1:
        built.state.check_equal()
        replicas = Replicas(strategy)
        built.adapted.check_equal(replicas)
        check_equal(loaded.made, loaded.data.source, loaded.data.evaluation, replicas)
    faults.reach("process.restored")

    memory = _compile(given, built, progress.step)
    collective = Collective(strategy, record.world_size)
    evaluator = _evaluator(given, loaded, built, collective)
    if early is not None:
        _check_followed("train.stop_when", early.rule.metric, evaluator)
    if best is not None:
        _check_followed("export.best", best.metric, evaluator)
    faults.reach("process.compiled")
    of_packages = versions()

    def about(step: int) -> Mapping[str, Any]:
        return {
            "epoch": loaded.plan.calendar.epoch_of(step),
            "examples_seen": loaded.data.examples_seen(loaded.plan.calendar, step),
            "host_state": host_state(progress, loaded.plan, loaded.data, early, best, loaded.made),
            "seed": config.train.seed,
            "world_size": record.world_size,
            "replicas": given.replicas,
            "global_batch_size": config.train.global_batch_size,
            "versions": of_packages,
        }

    restored_step = progress.step if record.restore else None
    loop = Loop(
        plan=loaded.plan,
        pace=Pace(built.feed.capacity),
        block=built.block,
        evaluator=evaluator,
        state=built.state,
        saves=Saves(channel, built.state, memory, config.checkpoint, about, restored_step=restored_step),
        collective=collective,
        hooks=built.hooks,
        early=early,
        best=best,
        channel=channel,
        tensorboard=TensorBoard(given.store, record.number) if given.chief else None,
        chief=given.chief,
        progress=progress,
        stop_at_nan=config.train.on_nan == "stop",
    )
    return Training(loop, loaded.exporter, config.checkpoint.last_save_timeout)


def _load(given: _Given) -> _Loaded:
    """The task, its data and its model, with every variable made and none restored."""
    config, train, strategy = given.config, given.train, given.strategy
    assert train.task is not None
    task = load_task(train.task, train.params, config.task_root)
    data = TaskData(task, train)
    keras.utils.set_random_seed(train.seed)
    callbacks = _callbacks(task, train)
    model = build_model(strategy, task, train.seed, lambda model: data.fit_to(model, train.global_batch_size))
    if not isinstance(data.source, BatchSource):
        check_batch(train.global_batch_size, given.replicas)
    plan = _plan(config, data.calendar(callbacks=bool(callbacks)), cut_at_epochs=bool(callbacks))
    made = made_with(config, data.source, data.evaluation, model.optimizer)
    sample = data.source.sample(1)
    exporter = None
    if given.chief:
        inputs = keras.utils.unpack_x_y_sample_weight(sample)[0]
        exporter = Exporter(model, given.store, given.start.record.number, form_of(model), config, inputs)
    roots = {"task": task, "model": model, "callbacks": callbacks, **modules_of(task, config.task_root)}
    reached = reach(roots)
    own_metrics = [metric for metric in reached.metrics if not _listed(metric, model)]
    return _Loaded(task, data, callbacks, model, plan, made, sample, exporter, roots, reached, own_metrics)


def _build(given: _Given, loaded: _Loaded) -> _Built:
    """The block of steps, its feed, and all that training changes."""
    task, model, plan, reached = loaded.task, loaded.model, loaded.plan, loaded.reached
    global_batch = GlobalBatch(given.strategy, same_masks=given.train.replica_masks == "same")
    if given.replicas > 1 and not given.start.record.restarts:
        with given.channel.within(Phase.COMPILE):
            size = given.train.global_batch_size
            check_rows(given.strategy, given.replicas, task, model, loaded.data.source, size, reached)

    mode = choose_mode(given.train.compile, model, loaded.sample, given.replicas, tpu=given.config.tpu)
    feed = make_feed(
        given.strategy,
        loaded.data.source,
        calendar=plan.calendar,
        seed=given.train.seed,
        first_step=given.first_step,
        waits=lambda: given.channel.within(Phase.DATA),
    )
    if feed.shapes_vary and mode == "xla" and given.train.compile == "auto":
        mode = "graph"  # XLA would compile anew for every shape
    block = CompiledBlock(
        given.strategy,
        task,
        model,
        feed,
        mode,
        global_batch,
        Ranges(given.strategy, global_batch, "the training batch of step"),
        _begins(plan.calendar, feed, callbacks=bool(loaded.callbacks)),
        loaded.own_metrics,
        compiling=lambda: given.channel.within(Phase.COMPILE),
    )
    if unbuilt := [optimizer for optimizer in reached.optimizers if not optimizer.built]:
        block.build_optimizers(given.first_step, unbuilt)
        reached = reach(loaded.roots)
    block.learn(given.first_step)
    adapted = Adapted(reached.adapted, model)
    state = _state(given.strategy, model, reached, block, blobs=lambda: hooks.state() | adapted.state())
    hooks = Hooks(
        loaded.callbacks,
        model,
        plan.calendar,
        plan.total_steps,
        during=lambda: given.channel.within(Phase.CALLBACK),
        chief=given.chief,
        run=given.config.run_directory,
        variables=list(reached.variables.values()),
        keeping=state.kept,
        as_exported=state.mean_unsynchronised,
    )
    return _Built(block, feed, global_batch, state, adapted, hooks)


def _restore(
    given: _Given,
    loaded: _Loaded,
    built: _Built,
    progress: Progress,
    early: EarlyStopping | None,
    best: Best | None,
    ref: CommitRef,
) -> None:
    given.channel.restoring(built.state.size_bytes)
    commit = restore_state(built.state, given.store, ref, given.config, loaded.data)
    built.adapted.restore(built.state.restored_blobs)
    built.hooks.restore(built.state.restored_blobs)
    if best is not None:
        best.restore(commit.host_state.get(BEST))
    go_on_from(commit, loaded.model.optimizer, loaded.made, tell=given.chief)
    restore_progress(progress, early, commit.step, commit.host_state, loaded.plan.total_steps)


def _compile(given: _Given, built: _Built, step: int) -> SnapshotMemory | None:
    """The block's program; before that room for the snapshots, where this worker makes them."""
    block, fd = built.block, given.start.memory_fd
    given.channel.enter(Phase.COMPILE, step)
    memory = SnapshotMemory(fd) if fd is not None else None
    if memory is not None:
        _reserve(memory, built.state.size_bytes, again=given.start.record.restarts > 0)
    began = time.monotonic()
    block.compile(step)
    log.info(
        "compiled mode=%s seconds=%.2f replicas=%d steps_of_a_block_max=%d",
        block.mode,
        time.monotonic() - began,
        given.replicas,
        built.feed.capacity,
    )
    for variable in built.state.without(block.variables()):
        log.warning(
            "%s %s is used by the step, but nothing leads to it from the task, the model or your modules' globals: no "
            "checkpoint holds it; make it an attribute of the task",
            variable.name,
            tuple(variable.shape),
        )
    return memory


def _evaluator(given: _Given, loaded: _Loaded, built: _Built, collective: Collective) -> Evaluator | None:
    if loaded.data.evaluation is None:
        return None
    evaluator = Evaluator(
        loaded.task,
        loaded.model,
        loaded.data.evaluation,
        collective,
        given.strategy,
        built.global_batch,
        batch_size=given.train.evaluate.batch_size or given.train.global_batch_size,
        mode=built.block.mode,
        metrics=loaded.own_metrics,
    )
    evaluator.compile()
    return evaluator


def _callbacks(task: Task, train: TrainSection) -> list[Any]:
    """The task's, without what the loop does itself, which needs no look at every batch."""
    return [
        callback
        for callback in as_list(task.callbacks())
        if train.on_nan != "stop" or type(callback) is not keras.callbacks.TerminateOnNaN
    ]


def _reserve(memory: SnapshotMemory, size_bytes: int, *, again: bool) -> None:
    try:
        memory.reserve(size_bytes)
    except NotEnoughMemory as error:
        if again:  # there was room before; who has it now may give it back
            error.code = ExitCode.LOST_PEER
        raise


def _plan(config: TrainConfig, calendar: Calendar, *, cut_at_epochs: bool) -> Plan:
    train = config.train
    total = total_steps(calendar, train.steps, train.epochs)
    assert total is not None
    return Plan(total, calendar, train.evaluate.every, config.checkpoint.every_steps, cut_at_epochs)


def _listed(metric: keras.Metric, model: keras.Model) -> bool:
    """Whether the model lists a metric, by itself or within another one."""
    listed = {id(variable) for known in model.metrics for variable in known.variables}
    return all(id(variable) in listed for variable in metric.variables)


def _begins(calendar: Calendar, feed: Feed, *, callbacks: bool) -> Callable[[int, int], np.ndarray]:
    """Where metrics begin anew: with each epoch. Without epochs, at the beginning, or for want of callbacks with every block."""
    if calendar.examples is not None or callbacks:
        return feed.begins_epoch
    return lambda first_step, steps: np.arange(feed.capacity) == 0


def _state(
    strategy: Any,
    model: keras.Model,
    reached: Reached,
    block: CompiledBlock,
    blobs: Callable[[], Mapping[str, np.ndarray]],
) -> TrainingState:
    """All that training changes, and a warning of what looks as if it were meant to be trained, and is not."""
    metrics = [
        variable for metric in [*model.metrics, *reached.metrics, *block.averages] for variable in metric.variables
    ]
    state = TrainingState(strategy, model, model.optimizer, list(reached.variables.values()), metrics, blobs)
    trained = {id(variable.value) for variable in model.trainable_variables}
    for path, variable in reached.variables.items():
        if isinstance(variable, tf.Variable) and variable.trainable and id(variable) not in trained:
            log.warning(
                "%s is a tf.Variable that no Keras layer tracks: it is saved, but fit would not train it, and neither does "
                "orch without a train_step of the task's own; use self.add_weight, or trainable=False",
                path,
            )
    log.info(
        "state variables=%d size_mb=%.1f of_optimizers=%d of_metrics=%d",
        state.variables,
        state.size_bytes / 1e6,
        len(reached.optimizers),
        len(metrics),
    )
    return state


def _check_followed(field: str, metric: str, evaluator: Evaluator | None) -> None:
    if evaluator is None:
        raise ConfigError(
            f"{field} follows {metric}, but the task has no evaluation_data",
            remedy=f"Give the task an evaluation_data(), or leave out {field}.",
        )
    names = evaluator.names()
    if metric not in names:
        raise ConfigError(
            f"{field} follows {metric}, which the evaluation does not give",
            remedy=f"It gives {', '.join(names)}.",
        )
