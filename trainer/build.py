"""A task's model, compiled and with every variable made, before anything is restored into it."""

import logging
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.steps import loss_and_metrics
from trainer.task import Task, overrides, predict

log = logging.getLogger(__name__)


def build_model(strategy: Any, task: Task, seed: int, batch: Any) -> keras.Model:
    """The model with its variables, optimizer and metrics, in the strategy's scope.

    Args:
        batch: a batch, by whose shapes and dtypes lazy layers build themselves, or a function that gives it for the model.
            Its values do not matter.

    Raises:
        ConfigError: model() returns no model, nothing says what the loss is, or it cannot be trained here.
    """
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        model = task.model()
        _check(model)
        batch = batch(model) if callable(batch) else batch
        # Built by a real call: layers of one's own build themselves when called, and optimizers need the variables.
        predict(model, batch, training=False)
        if not model.compiled:
            _compile(model, task)
        elif overrides(task, "loss") or overrides(task, "optimizer") or overrides(task, "metrics"):
            log.warning("model() is compiled already: its own loss, optimizer and metrics are used, not the task's")
        if model.optimizer is None or not model.trainable_variables:
            raise ConfigError("the model has no trainable weights", remedy="Check `trainable` of its layers.")
        model.optimizer.build(model.trainable_variables)
    if model._compile_loss is not None or model.losses or not overrides(task, "train_step"):
        _build_metrics(model, batch)
        _check_reductions(model, strategy.num_replicas_in_sync, batch)
    return model


def task_variables(task: Task) -> list[Any]:
    """Variables in the task's attributes, alone or in lists and dicts, in the order in which they were set."""
    found = keras.tree.flatten([value for value in vars(task).values() if not isinstance(value, keras.Layer)])
    return [value for value in found if isinstance(value, keras.Variable | tf.Variable)]


def _check(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise ConfigError(
            f"model() returned {type(model).__name__}", remedy="Return a keras.Model, and build it without tf_keras."
        )
    if type(model).train_step is not keras.Model.train_step:
        raise ConfigError(
            f"{type(model).__name__} has a train_step of its own, which only Keras' fit would call",
            remedy="Move it to the task: Task.train_step(self, model, optimizer, batch).",
        )


def _compile(model: keras.Model, task: Task) -> None:
    loss = task.loss()
    if loss is None and not model.losses and not overrides(task, "train_step"):
        raise ConfigError(
            f"nothing says what the loss of {type(task).__name__} is",
            remedy="Give the task a loss() (what model.compile takes), a compiled model, or a train_step.",
        )
    model.compile(optimizer=task.optimizer(), loss=loss, metrics=task.metrics() or None, jit_compile=False)


def _build_metrics(model: keras.Model, batch: Any) -> None:
    """Metrics given by name are made when first used: use them once, outside of any program."""
    x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
    predictions = predict(model, batch, training=False)
    loss = model.compute_loss(x=x, y=y, y_pred=predictions, sample_weight=weights, training=False)
    model.compute_metrics(x, y, predictions, sample_weight=weights)
    model.reset_metrics()
    # The same without writing to variables, as steps do it, leans on inner parts of Keras: better to stop here than to train
    # on half a loss should another version of Keras have changed them.
    variables = model.metrics_variables
    states = [tf.zeros(variable.shape, variable.dtype) for variable in variables]
    stateless, _ = loss_and_metrics(model, batch, predictions, variables, states, training=False)
    if not np.allclose(float(stateless), float(loss), rtol=1e-4, equal_nan=True):
        raise RuntimeError(
            f"the loss of {type(model).__name__} is {float(loss)}, and {float(stateless)} in a stateless scope: orch does not "
            f"know this version of Keras ({keras.__version__})"
        )


def _check_reductions(model: keras.Model, replicas: int, batch: Any) -> None:
    weights = keras.utils.unpack_x_y_sample_weight(batch)[2]
    losses = getattr(model._compile_loss, "_flat_losses", None) or []
    by_weight = [entry for entry in losses if "mean_with_sample_weight" in str(getattr(entry, "reduction", ""))]
    if replicas > 1 and weights is not None and by_weight:
        raise ConfigError(
            "a loss with the reduction mean_with_sample_weight divides by the weights of each replica, so that several "
            "replicas would train another model than one",
            remedy='Use the reduction "sum_over_batch_size", with weights scaled to a mean of 1.',
        )
