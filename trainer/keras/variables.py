"""What a script's `fit` changes: every variable, made before the first step where a checkpoint is to be restored."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.checkpoint.replicas import Replicas, raw
from trainer.checkpoint.state import TrainingState
from trainer.keras.epochs import Epochs
from trainer.model.reach import globals_of, reach


def state_of(
    model: keras.Model, callbacks: Sequence[Any], blobs: Callable[[], Mapping[str, np.ndarray]]
) -> TrainingState:
    """Every variable that can be reached from the model, its callbacks, and the globals of the script and its modules.

    With several workers without those that one of them may have made alone, outside of the strategy.
    """
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    modules = globals_of(main, Path(file).parent if file else None)
    reached = reach({"model": model, "callbacks": list(callbacks), **modules, "keras": _global_seeds()})
    metrics = [variable for metric in [*model.metrics, *reached.metrics] for variable in metric.variables]
    others, strategy = list(reached.variables.values()), model.distribute_strategy
    if not Replicas(strategy).of_one_process:
        metrics, others = _made_under(strategy, metrics), _made_under(strategy, others)
    return TrainingState(strategy, model, model.optimizer, others, metrics, blobs)


def _made_under(strategy: tf.distribute.Strategy, variables: Sequence[Any]) -> list[Any]:
    return [each for each in variables if strategy.extended.variable_created_in_scope(raw(each))]


def make_all(model: keras.Model, epochs: Epochs | None) -> None:
    """Have all variables made that the first step makes, by tracing one without running it."""
    if model.distribute_strategy.num_replicas_in_sync > 1:
        return  # made before, by replicas.py
    assert epochs is not None

    def step(data: Any) -> Any:
        return model.distribute_strategy.run(model._autoconvert_optionals(model.train_step), (data,))

    # As in fit: models are not converted by AutoGraph.
    tf.function(step, autograph=False).get_concrete_function(epochs.element_spec)


def _global_seeds() -> Any:
    """The generator that random layers and operations of Keras share where they have none of their own."""
    from keras.src.backend.common import global_state
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
