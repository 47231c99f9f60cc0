"""A task's model, compiled and with every variable made, before anything is restored into it.

Built as Keras' fit does it: by shapes and dtypes alone. No layer runs on made-up data, which would change what it keeps.
"""

import logging
from typing import Any

import keras
import tensorflow as tf

from trainer.errors import ConfigError
from trainer.model.corrections import correct
from trainer.task import Task, model_overrides, overrides

log = logging.getLogger(__name__)


def build_model(strategy: tf.distribute.Strategy, task: Task, seed: int, batch: Any) -> keras.Model:
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
        _check(model, task)
        check_for_replicas(model, strategy.num_replicas_in_sync)
        if not model.compiled:
            _compile(model, task)
        elif overrides(task, "loss") or overrides(task, "optimizer") or overrides(task, "metrics"):
            log.warning("model() is compiled already: its own loss, optimizer and metrics are used, not the task's")
        own_step = overrides(task, "train_step") or model_overrides(model, "train_step")
        build_variables(model, batch(model) if callable(batch) else batch, own_step=own_step)
        if model.optimizer is None or not model.trainable_variables:
            raise ConfigError("the model has no trainable weights", remedy="Check `trainable` of its layers.")
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
    correct(model.optimizer)
    # Again: layers may make others while they are built.
    _check_state(model, strategy.num_replicas_in_sync)
    return model


def _check(model: Any, task: Task) -> None:
    if not isinstance(model, keras.Model):
        raise ConfigError(
            f"model() returned {type(model).__name__}", remedy="Return a keras.Model, and build it without tf_keras."
        )
    if hasattr(task, "test_step"):
        raise ConfigError(
            f"{type(task).__name__} has a test_step, which nothing would call",
            remedy="A task's own evaluation is evaluate_step(self, model, batch); a model may have a test_step(self, data).",
        )
    for ours, theirs in (("train_step", "train_step"), ("evaluate_step", "test_step")):
        if overrides(task, ours) and model_overrides(model, theirs):
            raise ConfigError(
                f"{type(task).__name__} has {ours}, and {type(model).__name__} has {theirs}: which one counts?",
                remedy="Keep one of them.",
            )


def _compile(model: keras.Model, task: Task) -> None:
    loss = task.loss()
    says = overrides(task, "train_step") or model_overrides(model, "train_step", "compute_loss")
    if loss is None and not says and not _adds_loss(model):
        raise ConfigError(
            f"nothing says what the loss of {type(task).__name__} is",
            remedy="Give the task a loss() (what model.compile takes), a compiled model, or a train_step.",
        )
    model.compile(optimizer=task.optimizer(), loss=loss, metrics=task.metrics() or None, jit_compile=False)


def _adds_loss(model: keras.Model) -> bool:
    """Whether layers of the model add losses of their own: add_loss in a call, regularisers."""
    return bool(model.losses) or any(
        not type(layer).__module__.startswith("keras.") or layer.activity_regularizer is not None
        for layer in model._flatten_layers()
    )


def check_for_replicas(model: keras.Model, replicas: int) -> None:
    """Raises ConfigError where a model has to do with the rows of a whole batch, which several replicas divide."""
    _check_state(model, replicas)
    _check_inputs(model, replicas)


def build_variables(model: keras.Model, batch: Any, *, own_step: bool) -> None:
    """Every variable of model, metrics, loss and optimizer, by the shapes of a batch, or of its spec.

    `own_step`: of a train_step of the user's own, what it does with the model's parts is not known.
    """
    can_be_called = model_overrides(model, "call") or bool(getattr(model, "_functional", None))
    if own_step and not can_be_called and not _is_functional(model):
        return  # a step of the user's own calls the parts, which are built by themselves
    # A state that belongs to the rows of a batch needs their number; any other model is to take any number of them.
    fixed = any(getattr(layer, "stateful", False) for layer in model._flatten_layers())
    x, y, weights = keras.utils.unpack_x_y_sample_weight(
        keras.tree.map_structure(lambda leaf: _symbol(leaf, fixed=fixed), batch)
    )
    compiled = model._compile_loss is not None or not own_step
    metrics = model._compile_metrics
    try:
        if not compiled:
            # Without a loss there is nothing that could be computed of it: the layers alone.
            loss, model._compile_loss = model._compile_loss, None
            model._compile_metrics = None
        model._symbolic_build(data_batch=(x, y, weights) if weights is not None else (x, y) if y is not None else (x,))
    finally:
        if not compiled:
            model._compile_loss, model._compile_metrics = loss, metrics


def _symbol(leaf: Any, *, fixed: bool) -> Any:
    """What stands for an array of a batch while variables are made."""
    if leaf is None or isinstance(leaf, tf.OptionalSpec):
        return None
    if isinstance(leaf, tf.TypeSpec):
        return keras.KerasTensor(
            tuple(leaf.shape) if fixed else (None, *leaf.shape[1:]),
            leaf.dtype.name,
            sparse=isinstance(leaf, tf.SparseTensorSpec),
            ragged=isinstance(leaf, tf.RaggedTensorSpec),
        )
    tensor = leaf if isinstance(leaf, tf.SparseTensor | tf.RaggedTensor) else tf.convert_to_tensor(leaf)
    shape = tuple(tensor.shape) if fixed else (None, *tensor.shape[1:])
    return keras.KerasTensor(
        shape,
        tensor.dtype.name,
        sparse=isinstance(tensor, tf.SparseTensor),
        ragged=isinstance(tensor, tf.RaggedTensor),
    )


def _is_functional(model: keras.Model) -> bool:
    return any(kind.__name__ in ("Functional", "Sequential") for kind in type(model).__mro__)


def _check_state(model: keras.Model, replicas: int) -> None:
    for layer in model._flatten_layers():
        if replicas > 1 and getattr(layer, "stateful", False):
            raise ConfigError(
                f"{layer.name} is stateful: its state belongs to the rows of a whole batch, which {replicas} replicas divide",
                remedy="Train it with one worker and one device, or without stateful=True.",
            )


def fixed_inputs(model: keras.Model) -> list[Any]:
    """The symbolic inputs of a model that take one number of examples alone, their first dimension, as for stateful layers."""
    return [tensor for tensor in getattr(model, "inputs", None) or [] if tensor.shape and tensor.shape[0] is not None]


def _check_inputs(model: keras.Model, replicas: int) -> None:
    if replicas > 1 and (fixed := fixed_inputs(model)):
        raise ConfigError(
            f"the model's input {fixed[0].name} has a fixed batch of {fixed[0].shape[0]}, which {replicas} replicas divide",
            remedy="Use keras.Input(shape) without batch_size or batch_shape.",
        )
