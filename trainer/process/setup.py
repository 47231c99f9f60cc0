"""From a job's configuration to a loop that is ready to run: task, data, model, restored state, compiled block."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import faults
from trainer.callbacks.hooks import Hooks, as_list
from trainer.checkpoint import restore
from trainer.checkpoint.made_with import KEY as MADE_WITH
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
from trainer.export.exporter import Exporter, load_line
from trainer.model.adapted import Adapted
from trainer.model.build import build_model
from trainer.model.reach import Reached, modules_of, reach
from trainer.process.best import KEY as BEST
from trainer.process.best import Best
from trainer.process.channel import Channel
from trainer.process.collective import Collective
from trainer.process.evaluate import Evaluator
from trainer.process.fingerprint import check_equal, go_on_from, made_with
from trainer.process.loop import Loop
from trainer.process.plan import EarlyStopping, Pace, Plan, Progress
from trainer.process.saves import Saves
from trainer.process.strategy import check_batch
from trainer.process.tensorboard import TensorBoard
from trainer.program.global_batch import GlobalBatch
from trainer.program.logs import Scores, as_numbers
from trainer.program.mixing import check_rows
from trainer.program.ranges import Ranges
from trainer.program.steps import Block, choose_mode
from trainer.rundir.attempts import CommitRef
from trainer.rundir.commits import Commit
from trainer.rundir.open import open_store
from trainer.rundir.store import Store
from trainer.task import Task, load_task
from trainer.wire.process import Phase, Result, Start

log = logging.getLogger(__name__)

_LAST_EVENTS_S = 2.0
"""For the events after a stop, out of the grace period."""


@dataclass
class Training:
    """A loop, and what is to be done after it."""

    loop: Loop
    exporter: Exporter | None
    """The chief's."""
    patience_s: float
    """How long the export is tried while the store makes trouble."""

    def stop(self) -> None:
        """After a stop, all workers call it: what is left of the chief's events, where the store takes it at once."""
        if self.loop.tensorboard is not None:
            self.loop.tensorboard.close(_LAST_EVENTS_S)

    def finish(self) -> None:
        """Export and report, once the loop is done. All workers call it; the chief writes."""
        loop = self.loop
        loop.channel.enter(Phase.EXPORT, loop.progress.step)
        loop.saves.release_memory()
        digest = loop.state.weights_sha256()
        with loop.state.mean_unsynchronised():
            if not loop.chief:
                return
            evaluation = loop.progress.evaluation or {"metrics": {}}
            metrics = as_numbers(loop.progress.scores | evaluation["metrics"])
            assert self.exporter is not None
            exported = self.exporter.write("model", loop.progress.step, metrics, patience_s=self.patience_s)
            self.exporter.point(exported, loop.best.publish() if loop.best is not None else None)
            faults.reach("process.exported")
        if loop.tensorboard is not None:
            loop.tensorboard.close()
        loop.channel.send(
            Result(
                step=loop.progress.step,
                total_steps=loop.plan.total_steps,
                metrics=metrics,
                weights_sha256=digest,
                export=exported.url,
                load=load_line(exported),
                reason=loop.progress.finished,
            )
        )
        faults.reach("process.reported")


def prepare(channel: Channel, start: Start, config: TrainConfig, strategy: Any) -> Training:
    """Load, build, restore and compile. All workers do it together."""
    channel.enter(Phase.RESTORE)
    record, train = start.record, config.train
    replicas: int = strategy.num_replicas_in_sync
    chief = start.index == 0
    store = open_store(config.run_directory)
    assert train.task is not None
    task = load_task(train.task, train.params, config.task_root)
    data = TaskData(task, train)
    keras.utils.set_random_seed(train.seed)
    callbacks = _callbacks(task, train)
    model = build_model(strategy, task, train.seed, lambda model: data.fit_to(model, train.global_batch_size))
    if not isinstance(data.source, BatchSource):
        check_batch(train.global_batch_size, replicas)
    plan = _plan(config, data.calendar(callbacks=bool(callbacks)), cut_at_epochs=bool(callbacks))
    made = made_with(config, data.source, data.evaluation, model.optimizer)
    sample = data.source.sample(1)
    exporter = None
    if chief:
        inputs = keras.utils.unpack_x_y_sample_weight(sample)[0]
        exporter = Exporter(model, store, record.number, form_of(model), config, inputs)
    roots = {"task": task, "model": model, "callbacks": callbacks, **modules_of(task, config.task_root)}
    reached = reach(roots)
    own_metrics = [metric for metric in reached.metrics if not _listed(metric, model)]
    global_batch = GlobalBatch(strategy, same_masks=train.replica_masks == "same")
    first_step = record.restore.step if record.restore is not None else 0
    if replicas > 1 and not record.restarts:
        with channel.within(Phase.COMPILE):
            check_rows(strategy, replicas, task, model, data.source, train.global_batch_size, reached)

    mode = choose_mode(train.compile, model, sample, replicas, tpu=config.tpu)
    feed = make_feed(
        strategy,
        data.source,
        calendar=plan.calendar,
        seed=train.seed,
        first_step=first_step,
        waits=lambda: channel.within(Phase.DATA),
    )
    if feed.shapes_vary and mode == "xla" and train.compile == "auto":
        mode = "graph"  # XLA would compile anew for every shape
    begins = _begins(plan.calendar, feed, callbacks=bool(callbacks))
    ranges = Ranges(strategy, global_batch, "the training batch of step")
    block = Block(
        strategy,
        task,
        model,
        feed,
        mode,
        global_batch,
        ranges,
        begins,
        own_metrics,
        compiling=lambda: channel.within(Phase.COMPILE),
    )
    if unbuilt := [optimizer for optimizer in reached.optimizers if not optimizer.built]:
        block.build_optimizers(first_step, unbuilt)
        reached = reach(roots)
    block.learn(first_step)
    adapted = Adapted(reached.adapted, model)
    state = _state(strategy, model, reached, block, blobs=lambda: hooks.state() | adapted.state())
    hooks = Hooks(
        callbacks,
        model,
        plan.calendar,
        plan.total_steps,
        during=lambda: channel.within(Phase.CALLBACK),
        chief=chief,
        run=config.run_directory,
        variables=list(reached.variables.values()),
        keeping=state.kept,
        as_exported=state.mean_unsynchronised,
    )
    early = EarlyStopping(train.stop_when) if train.stop_when else None
    best = Best(config.export, store, exporter) if config.export.best else None
    progress = Progress()
    if record.restore is not None:
        channel.restoring(state.size_bytes)
        commit = _restore_state(state, store, record.restore, config, data)
        adapted.restore(state.restored_blobs)
        hooks.restore(state.restored_blobs)
        if best is not None:
            best.restore(commit.host_state.get(BEST))
        go_on_from(commit, model.optimizer, made, tell=chief)
        _restore_progress(progress, early, commit.step, commit.host_state, plan.total_steps)
    if record.world_size > 1:
        state.check_equal()
        replicas_of_all = Replicas(strategy)
        adapted.check_equal(replicas_of_all)
        check_equal(made, data.source, data.evaluation, replicas_of_all)
    faults.reach("process.restored")

    channel.enter(Phase.COMPILE, progress.step)
    memory = SnapshotMemory(start.memory_fd) if start.memory_fd is not None else None
    if memory is not None:
        _reserve(memory, state.size_bytes, again=record.restarts > 0)
    began = time.monotonic()
    block.compile(progress.step)
    log.info(
        "compiled mode=%s seconds=%.2f replicas=%d steps_of_a_block_max=%d",
        block.mode,
        time.monotonic() - began,
        replicas,
        feed.capacity,
    )
    for variable in state.without(block.variables()):
        log.warning(
            "%s %s is used by the step, but nothing leads to it from the task, the model or your modules' globals: no "
            "checkpoint holds it; make it an attribute of the task",
            variable.name,
            tuple(variable.shape),
        )
    collective = Collective(strategy, record.world_size)
    evaluator = None
    if data.evaluation is not None:
        evaluator = Evaluator(
            task,
            model,
            data.evaluation,
            collective,
            strategy,
            global_batch,
            batch_size=train.evaluate.batch_size or train.global_batch_size,
            mode=block.mode,
            metrics=own_metrics,
        )
        evaluator.compile()
    if early is not None:
        _check_followed("train.stop_when", early.rule.metric, evaluator)
    if best is not None:
        _check_followed("export.best", best.metric, evaluator)
    faults.reach("process.compiled")
    versions = _versions()

    def about(step: int) -> Mapping[str, Any]:
        return {
            "epoch": plan.calendar.epoch_of(step),
            "examples_seen": data.examples_seen(plan.calendar, step),
            "host_state": {
                "order": data.order(),
                "evaluation": progress.evaluation
                and {"step": progress.evaluation["step"], "metrics": _written(progress.evaluation["metrics"])},
                "early_stopping": early.state() if early else None,
                "finished": {"reason": progress.finished, "total_steps": plan.total_steps}
                if progress.finished
                else None,
                "scores": _written(progress.scores),
                BEST: best.state() if best is not None else None,
                MADE_WITH: made.model_dump(mode="json"),
            },
            "seed": train.seed,
            "world_size": record.world_size,
            "replicas": replicas,
            "global_batch_size": train.global_batch_size,
            "versions": versions,
        }

    loop = Loop(
        plan=plan,
        pace=Pace(feed.capacity),
        block=block,
        evaluator=evaluator,
        state=state,
        saves=Saves(
            channel, state, memory, config.checkpoint, about, restored_step=progress.step if record.restore else None
        ),
        collective=collective,
        hooks=hooks,
        early=early,
        best=best,
        channel=channel,
        tensorboard=TensorBoard(store, record.number) if chief else None,
        chief=chief,
        progress=progress,
        stop_at_nan=train.on_nan == "stop",
    )
    return Training(loop, exporter, config.checkpoint.last_save_timeout)


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


def _check_same_order(commit: Commit, config: TrainConfig, data: TaskData) -> None:
    data.check_order(commit.host_state.get("order"))
    for name, now in (("global_batch_size", config.train.global_batch_size), ("seed", config.train.seed)):
        then = getattr(commit, name)
        if then != now and not (name == "global_batch_size" and data.order()["batched"]):
            raise ConfigError(
                f"the checkpoint {commit.ref.name} was made with train.{name} {then}, and the job file says {now}: the "
                "order of the data would break off",
                remedy=f"Set train.{name} to {then}, or start from nothing (--fresh, or another run.directory).",
            )


def _restore_state(state: TrainingState, store: Store, ref: CommitRef, config: TrainConfig, data: TaskData) -> Commit:
    """Load, verify and assign. What was read is let go before this returns: a save needs the room."""
    began = time.monotonic()
    restored = restore.load(store, ref)
    _check_same_order(restored.commit, config, data)
    state.assign(restored)
    log.info(
        "restored commit=%s size_mb=%.1f seconds=%.2f",
        ref.name,
        restored.commit.size_bytes / 1e6,
        time.monotonic() - began,
    )
    return restored.commit


def _restore_progress(
    progress: Progress, early: EarlyStopping | None, step: int, host_state: Mapping[str, Any], total: int
) -> None:
    progress.step = step
    evaluation = host_state.get("evaluation")
    if evaluation:
        progress.evaluation = {"step": int(evaluation["step"]), "metrics": _read(evaluation["metrics"])}
    progress.scores = _read(host_state.get("scores") or {})
    finished = host_state.get("finished")
    if early is not None:
        early.restore(host_state.get("early_stopping"))
    # Asked for another length, a job that had ended early goes on.
    if finished and finished["total_steps"] == total:
        progress.finished = finished["reason"]


def _written(scores: Scores) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in scores.items()}


def _read(scores: Mapping[str, Any]) -> Scores:
    return {name: np.array(value) if isinstance(value, list) else float(value) for name, value in scores.items()}


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
    block: Block,
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


def _versions() -> dict[str, str]:
    try:
        ours = metadata.version("orch")
    except metadata.PackageNotFoundError:
        ours = "unknown"
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "orch": ours,
    }
