"""Where Keras 3.15 counts wrongly, its optimizers are put right here; docs/conformance.md lists what differs from fit."""

import functools
from typing import Any

import keras


def correct(optimizer: keras.optimizers.Optimizer) -> None:
    """With gradient_accumulation_steps, let a schedule and moving averages go by updates.

    Keras asks the schedule for the number of the small step, so that it is over after a fraction of its updates, and takes an
    unchanged weight into its average again and again.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not optimizer.gradient_accumulation_steps:
        return
    schedule = optimizer._learning_rate
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        object.__setattr__(optimizer, "_get_current_learning_rate", lambda: schedule(optimizer.iterations))
    if optimizer.use_ema:
        for name in ("_update_model_variables_moving_average", _OVERWRITE):
            object.__setattr__(optimizer, name, _with_updates(optimizer, name))
        # The end of training is no step: the averages are written whatever its number.
        at_the_end = functools.partial(_method_of_class, optimizer, _OVERWRITE)
        object.__setattr__(optimizer, "finalize_variable_values", at_the_end)


_OVERWRITE = "_overwrite_model_variables_with_average_value"


def _with_updates(optimizer: Any, name: str) -> Any:
    def only_with_updates(variables: Any) -> None:
        small_steps = optimizer._iterations + 1
        updates = keras.ops.equal(small_steps % optimizer.gradient_accumulation_steps, 0)
        keras.ops.cond(updates, lambda: _method_of_class(optimizer, name, variables), lambda: None)

    return only_with_updates


def _method_of_class(optimizer: Any, name: str, variables: Any) -> None:
    """Looked up when it is called: several replicas replace it for their program (program/global_batch.py)."""
    getattr(type(optimizer), name)(optimizer, variables)
