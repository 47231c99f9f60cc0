"""Where Keras 3.15 counts wrongly, its optimizers are put right here; docs/conformance.md lists what differs from fit."""

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
        for name in ("_update_model_variables_moving_average", "_overwrite_model_variables_with_average_value"):
            object.__setattr__(optimizer, name, _with_updates(optimizer, getattr(optimizer, name)))


def _with_updates(optimizer: Any, method: Any) -> Any:
    def only_with_updates(variables: Any) -> None:
        small_steps = optimizer._iterations + 1
        updates = keras.ops.equal(small_steps % optimizer.gradient_accumulation_steps, 0)
        keras.ops.cond(updates, lambda: method(variables), lambda: None)

    return only_with_updates
