"""What a call of `fit` was given, so that a script that is not repeated by its next start is found out."""

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.checkpoint.state import without_numbers
from trainer.data.checksum import array_of, bytes_of
from trainer.process.fingerprint import WHOLE_BYTES_MAX, optimizer_config, some_rows

Marks = dict[str, str]
_DATA = ("x", "y", "sample_weight", "validation_data")
_LENGTHS = ("batch_size", "steps_per_epoch", "shuffle", "validation_split", "validation_steps", "validation_freq")


def marks_of(model: keras.Model, arguments: Mapping[str, Any]) -> Marks:
    """A short text for each thing that may differ, by what a person calls it."""
    marks = {f"fit's {name}": _data(arguments[name]) for name in _DATA if arguments[name] is not None}
    marks |= {f"fit's {name}": repr(arguments[name]) for name in _LENGTHS}
    marks["the optimizer"] = json.dumps(optimizer_config(model.optimizer), default=str, sort_keys=True)
    if model.built:
        marks["the model's variables"] = json.dumps(
            [[without_numbers(variable.path), list(variable.shape)] for variable in model.weights]
        )
        marks["the weights that the call begins with"] = _checksum(_values(model))
    return marks


def changed(then: Marks, now: Marks) -> list[str]:
    """What is not as it was."""
    return [name for name, mark in now.items() if name in then and then[name] != mark]


def _data(value: Any) -> str:
    if isinstance(value, tf.data.Dataset):
        return f"{value.element_spec} {int(value.cardinality())}"
    leaves = [leaf for leaf in keras.tree.flatten(value) if leaf is not None]
    if not all(isinstance(leaf, np.ndarray | tf.Tensor) for leaf in leaves):
        return type(value).__name__
    return f"{[tuple(leaf.shape) for leaf in leaves]} {_checksum(leaves)}"


def _values(model: keras.Model) -> Iterator[Any]:
    strategy = model.distribute_strategy
    return (strategy.experimental_local_results(variable.value)[0].numpy() for variable in model.weights)


def _checksum(leaves: Any) -> str:
    value = 0
    for leaf in leaves:
        array = np.asarray(array_of(leaf))
        if array.nbytes > WHOLE_BYTES_MAX:
            array = array[some_rows(len(array), array.nbytes)]
        value = zlib.crc32(bytes_of(array), value)
    return f"{value:08x}"
