"""`fit` on several replicas: every batch of the script is the global one, and trains what one device trains with it.

Keras' own way raises an error under MultiWorkerMirroredStrategy, and elsewhere trains something else than one device does
(docs/fit.md). Here each replica gets the whole batch, and its step is traced as in a block of a task (program/global_batch.py).
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import trainer as of_fit
from keras.src.trainers.trainer import Trainer

from trainer.keras.strategies import outside_of_strategy
from trainer.model.build import build_variables, check_for_replicas
from trainer.model.reach import reach
from trainer.program.exchange import on_first_replica
from trainer.program.global_batch import GlobalBatch
from trainer.program.mixing import check_batch_rows
from trainer.program.steps import build_applied
from trainer.replaced import replaced


class Beside(Protocol):
    """Who else has to do with it."""

    def trains_on(self, batch: Any) -> None:
        """A batch is about to be trained."""

    @property
    def tries_rows(self) -> bool:
        """Whether a first batch is tried, for layers that mix the rows of a batch."""

    @property
    def alone(self) -> bool:
        """Whether each worker computes by itself now, as in callbacks."""


@contextlib.contextmanager
def whole_batches(beside: Beside) -> Iterator[None]:
    """Within it, models of a strategy with several replicas train, evaluate and predict as on one device."""
    trainer = of_fit.TensorFlowTrainer
    with contextlib.ExitStack() as stack:
        for owner, name, make in (
            (trainer, "_make_function", _function),
            (trainer, "_maybe_symbolic_build", _build),
            (trainer, "predict", _by_itself),
            (trainer, "predict_on_batch", _by_itself),
            (trainer, "evaluate", _evaluate),
            (Trainer, "reset_metrics", _reset),
            (Trainer, "_get_metrics_result_or_logs", _results),
        ):
            stack.enter_context(replaced(owner, name, _where_several(getattr(owner, name), make, beside)))
        stack.enter_context(replaced(of_fit, "reduce_per_replica", _reduced(of_fit.reduce_per_replica)))
        yield


def _reduced(keras_reduces: Callable[..., Any]) -> Callable[..., Any]:
    """Of data that the script has divided by itself: logs are scalars, which Keras would reduce over their first dimension."""

    def reduce(values: Any, strategy: Any, reduction: str) -> Any:
        if reduction not in ("auto", "mean") or not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return keras_reduces(values, strategy, reduction)
        return keras.tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)

    return reduce


def _where_several(method: Callable[..., Any], instead: Callable[..., Any], beside: Beside) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(model: keras.Model, *arguments: Any, **named: Any) -> Any:
        if model.distribute_strategy.num_replicas_in_sync == 1:
            return method(model, *arguments, **named)
        return instead(functools.partial(method, model), beside, model, *arguments, **named)

    return call


_DIVIDED: weakref.WeakSet[keras.Model] = weakref.WeakSet()
"""Models that were given each replica's part of the data last: their metrics are to be put together."""


class _Function:
    """What Keras calls for each step, or for steps_per_execution of them: takes batches from an iterator, returns logs."""

    def __init__(self, keras_makes: Callable[[Any], Any], beside: Beside, model: keras.Model, step: Any) -> None:
        self._keras_makes, self._beside, self._model, self._step = keras_makes, beside, model, step
        self._of_keras: Callable[[Any], Any] | None = None
        self._trains = step == model.train_step
        self._strategy = model.distribute_strategy
        self._batch = GlobalBatch(self._strategy)
        self._tried = False
        self._anew()

    def __call__(self, iterator: Any) -> Any:
        if isinstance(iterator, tf.distribute.DistributedIterator):  # the script has divided its data by itself
            _DIVIDED.add(self._model)
            self._of_keras = self._of_keras or self._keras_makes(self._step)
            return self._of_keras(iterator)
        _DIVIDED.discard(self._model)
        logs = None
        for _ in range(self._model.steps_per_execution):
            batch = next(iterator, None)
            if batch is None:
                break
            if self._trains:
                self._before_training(batch)
            logs = self._batch.traced(lambda batch=batch: self._on_all(batch), self._anew)  # type: ignore[misc]
        if logs is None:
            raise StopIteration
        return logs

    def _before_training(self, batch: Any) -> None:
        self._beside.trains_on(batch)
        if self._beside.tries_rows and not self._tried:
            reached = reach({"model": self._model})
            check_batch_rows(
                self._strategy, self._strategy.num_replicas_in_sync, self._model.train_step, batch, self._model, reached
            )
        self._tried = True

    def trace(self, spec: Any) -> None:
        """Trace it for batches of this kind, without running it."""
        if not self._model.run_eagerly:
            self._batch.traced(lambda: self._on_all.get_concrete_function(spec), self._anew)  # type: ignore[attr-defined]

    def _anew(self) -> None:
        self._on_all = self._traced()

    def _traced(self) -> Callable[[Any], Any]:
        def on_all(batch: Any) -> Any:
            with self._batch.program():
                return on_first_replica(self._strategy, self._model._autoconvert_optionals(self._step), batch)

        return on_all if self._model.run_eagerly else tf.function(on_all, autograph=False)


def _function(keras_makes: Any, beside: Beside, model: keras.Model, step: Any) -> _Function:
    return _Function(keras_makes, beside, model, step)


def _build(keras_does: Any, beside: Beside, model: keras.Model, iterator: Any = None, data_batch: Any = None) -> None:
    """As Keras does for these strategies alone: before a step is traced. No batch is drawn for it."""
    del keras_does, beside
    batch = iterator.element_spec if iterator is not None else data_batch
    batch = keras.tree.map_structure(lambda leaf: getattr(leaf, "_value_specs", (leaf,))[0], batch)
    strategy = model.distribute_strategy
    check_for_replicas(model, strategy.num_replicas_in_sync)
    own_step = type(model).train_step is not of_fit.TensorFlowTrainer.train_step
    with strategy.scope():
        build_variables(model, batch, own_step=own_step)
        optimizer = model.optimizer
        if optimizer is not None and not optimizer.built and not own_step:
            optimizer.build(model.trainable_variables)
    if iterator is None or not own_step:
        return
    unbuilt = [each for each in reach({"model": model}).optimizers if not each.built]
    if unbuilt:
        step = _Function(lambda step: step, _Nobody(), model, model.train_step)
        build_applied(strategy, unbuilt, lambda: step.trace(batch))


class _Nobody:
    alone = tries_rows = False

    def trains_on(self, batch: Any) -> None:
        pass


def _reset(keras_does: Any, beside: Beside, model: keras.Model) -> None:
    # Outside of a replica Keras would give each replica's part of a sum a share of the value.
    with GlobalBatch(model.distribute_strategy).program():
        model.distribute_strategy.run(keras_does)


def _results(keras_does: Any, beside: Beside, model: keras.Model, logs: Any) -> Any:
    if model in _DIVIDED:
        return keras_does(logs)
    # As Keras: the metrics' values where the step's logs are these, else the logs.
    values = on_first_replica(model.distribute_strategy, model.get_metrics_result)
    return values if isinstance(logs, dict) and logs.keys() == values.keys() else logs


def _by_itself(keras_does: Any, beside: Beside, model: keras.Model, *arguments: Any, **named: Any) -> Any:
    """Each worker predicts by itself, whether or not others do, on its first replica."""
    with _alone(model):
        return keras_does(*arguments, **named)


def _evaluate(keras_does: Any, beside: Beside, model: keras.Model, *arguments: Any, **named: Any) -> Any:
    if not beside.alone:
        return keras_does(*arguments, **named)
    return _by_itself(keras_does, beside, model, *arguments, **named)


@contextlib.contextmanager
def _alone(model: keras.Model) -> Iterator[None]:
    functions = {name: getattr(model, name) for name in ("predict_function", "test_function")}
    for name in functions:
        setattr(model, name, None)
    try:
        with outside_of_strategy(), replaced(model, "_distribute_strategy", None):
            yield
    finally:
        for name, function in functions.items():
            setattr(model, name, function)
