"""Keras' own `fit` on the batches that the trainer takes: the numbers that all others are compared with."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.conformance import base
from tests.conformance.outcome import Outcome
from trainer.data.order import Order
from trainer.program.draws import as_a_graph_draws
from trainer.task import Task, overrides

Read = Callable[[Any], np.ndarray]
"""Gives a variable's value."""


def fit(task: base.Case, train: dict[str, Any], *, jit: bool = False, read: Read = np.asarray) -> Outcome:
    """Train as a script with `fit` would: one process, no strategy.

    Args:
        jit: compile by XLA, drawing as the trainer does there.
        train: the job file's train section.
    """
    seed, batch = train["seed"], train["global_batch_size"]
    keras.utils.set_random_seed(seed)
    data = task.train_data()
    held_out = task.evaluation_data()
    keras.utils.set_random_seed(seed)
    callbacks = task.callbacks() or [base.Recorder()]
    keras.utils.set_random_seed(seed)
    model = task.model()
    if not model.compiled:
        model.compile(optimizer=task.optimizer(), loss=task.loss(), metrics=task.metrics() or None, jit_compile=False)
    model.jit_compile = jit
    task.before_fit(model)
    epochs, per_epoch, batches = _batches(task, data, task.oracle_batch or batch, train)
    evaluation = None
    if held_out is not None:
        ready = task.ready and isinstance(held_out, tf.data.Dataset)
        size = task.oracle_evaluation_batch or train["evaluate"].get("batch_size") or batch
        evaluation = held_out if ready else _dataset(held_out).batch(size)
    last = None
    if overrides(task, "train_step") or task.by_hand:
        logs = _own_steps(task, model, batches, per_epoch, evaluation)
        base.heard += [("epoch_end", number, base.plain(one)) for number, one in enumerate(logs)]
    else:
        last = _Weights()
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [*callbacks, last]
        with as_a_graph_draws() if jit else nullcontext():
            model.fit(
                batches,
                epochs=epochs,
                steps_per_epoch=per_epoch,
                validation_data=evaluation,
                callbacks=callbacks,
                class_weight=task.oracle_class_weight or train.get("class_weight"),
                shuffle=False,
                verbose=0,
            )
    heard = list(base.heard)
    task.after_fit(model)
    outcome = outcome_of(task, model, read)
    if evaluation is not None and last is not None and last.differ_from(model):
        # Averages, or the best weights: what the job is said to have reached is what its exported model has.
        again = model.evaluate(evaluation, return_dict=True, verbose=0)
        outcome.evaluations.append({f"val_{name}": value for name, value in base.plain(again).items()})
        outcome.last |= outcome.evaluations[-1]
        base.heard[:] = heard
    outcome.predictions = predictions(task, model) if task.predicts else []
    return outcome


class _Weights(keras.callbacks.Callback):
    """The weights that the last epoch ended with."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._seen = [np.array(weight) for weight in self.model.weights]

    def differ_from(self, model: Any) -> bool:
        pairs = zip(self._seen, model.weights, strict=True)
        return any(not np.array_equal(seen, np.asarray(weight), equal_nan=True) for seen, weight in pairs)


def outcome_of(task: base.Case, model: Any, read: Read = np.asarray) -> Outcome:
    """What is compared, of a model that was trained, but for the predictions."""
    ends = {number: logs for hook, number, logs in base.heard if hook == "epoch_end"}
    evaluations = [{name: value for name, value in logs.items() if name[:4] == "val_"} for logs in ends.values()]
    return Outcome(
        weights=[read(variable) for variable in model.variables],
        optimizer=[read(variable) for one in task.optimizers(model) for variable in one.variables],
        epochs=ends,
        last=dict(ends[max(ends)]) if ends else {},
        evaluations=[one for one in evaluations if one],
        calls=[list(call) for call in base.heard] if task.every_call else [],
        facts=task.facts(),
    )


def predictions(task: Task, model: Any) -> list[np.ndarray]:
    """A model's answers for the first held-out examples."""
    held_out = task.evaluation_data()
    if held_out is None:
        held_out = task.train_data()
    ready = isinstance(task, base.Case) and task.ready and isinstance(held_out, tf.data.Dataset)
    held_out = _dataset(held_out)
    x = next(iter(held_out if ready else held_out.batch(8)))
    x = keras.utils.unpack_x_y_sample_weight(x)[0]
    answers = model(x, training=False) if getattr(model, "_call_has_training_arg", True) else model(x)
    return [np.asarray(answer) for answer in keras.tree.flatten(answers)]


def _dataset(arrays: Any) -> tf.data.Dataset:
    if isinstance(arrays, tf.data.Dataset):
        return arrays
    return tf.data.Dataset.from_tensor_slices(_tuples(arrays))


def _tuples(data: Any) -> Any:
    """Lists as tuples: tf.data would take a list for one array."""
    if isinstance(data, list | tuple):
        return tuple(_tuples(part) for part in data)
    if isinstance(data, dict):
        return {name: _tuples(part) for name, part in data.items()}
    return data


def _batches(task: base.Case, data: Any, batch: int, train: dict[str, Any]) -> tuple[int, int | None, Any]:
    """Epochs, steps of one, and all batches of all epochs in the trainer's order: their number is known, and their shapes are.

    Without steps of an epoch, what comes is one epoch, taken again for each.
    """
    epochs: int = train.get("epochs") or 1
    if task.ready:
        return epochs, None, data
    if isinstance(data, tf.data.Dataset):
        one = data.batch(batch, drop_remainder=True)
        return epochs, int(one.cardinality()), one.repeat(epochs)
    arrays = _tuples(data)
    examples = len(keras.tree.flatten(arrays)[0])
    order = Order(examples, batch, train["seed"], train.get("remainder", "carry"))
    steps = train.get("steps") or order.calendar.end_of(epochs)
    assert steps is not None
    assert steps % epochs == 0
    rows = [order.rows(step, 1)[0] for step in range(steps)]
    if len({len(one) for one in rows}) == 1:
        table = np.stack(rows)
        batches = tf.data.Dataset.from_tensor_slices(keras.tree.map_structure(lambda array: array[table], arrays))
        return epochs, steps // epochs, batches
    taken = [keras.tree.map_structure(lambda array, one=one: tf.constant(array[one]), arrays) for one in rows]
    spec = keras.tree.map_structure(lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), arrays)
    batches = tf.data.Dataset.from_generator(lambda: iter(taken), output_signature=spec)
    return epochs, steps // epochs, batches.apply(tf.data.experimental.assert_cardinality(steps))


def _own_steps(
    task: Task, model: Any, batches: tf.data.Dataset, per_epoch: int | None, evaluation: tf.data.Dataset | None
) -> list[dict[str, Any]]:
    """The loop that a script has around a train_step of its own: the logs of each epoch, means over its steps."""
    if not model.built:
        model(keras.utils.unpack_x_y_sample_weight(next(iter(batches)))[0])
    model.optimizer.build(model.trainable_variables)
    own = overrides(task, "train_step")
    step = tf.function(
        lambda batch: task.train_step(model, model.optimizer, batch) if own else model.train_step(batch),
        jit_compile=model.jit_compile,
    )
    logs, steps = [], []
    for batch in batches:
        steps.append({name: float(value) for name, value in step(batch).items()})
        if len(steps) < per_epoch:
            continue
        logs.append({name: float(np.mean([one[name] for one in steps])) for name in steps[0]})
        steps = []
        if evaluation is not None:
            logs[-1] |= _own_evaluation(task, model, evaluation)
    return logs


def _own_evaluation(task: Task, model: Any, evaluation: tf.data.Dataset) -> dict[str, float]:
    if not overrides(task, "evaluate_step"):
        found = model.evaluate(evaluation, return_dict=True, verbose=0)
        return {f"val_{name}": float(value) for name, value in found.items()}
    sizes, parts = [], []
    for batch in evaluation:
        sizes.append(len(keras.tree.flatten(batch)[0]))
        parts.append({name: float(value) for name, value in task.evaluate_step(model, batch).items()})
    return {f"val_{name}": float(np.average([part[name] for part in parts], weights=sizes)) for name in parts[0]}
