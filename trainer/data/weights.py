"""train.class_weight: weights of classes as weights of examples, as Keras' `fit` makes them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from trainer.data import kinds
from trainer.data.kinds import Batch
from trainer.data.sources import ArraySource, Source
from trainer.errors import ConfigError


def weighted(source: Source, class_weight: Mapping[int, float], what: str) -> Source:
    """The source with a sample_weight for each example: that of its class, 1 for a class without one.

    Raises:
        ConfigError: the data has no labels, labels of several outputs, or weights of its own.
    """
    weigh = _weigher(class_weight, what)
    if isinstance(source, ArraySource):
        arrays = weigh(source.arrays)
        return replace(source, arrays=arrays, size_bytes=source.size_bytes + kinds.size_bytes(arrays[2]))
    weighted_source = replace(source, weigh=weigh)
    weighted_source.sample(1)  # what cannot be weighed is said at once
    return weighted_source


def _weigher(class_weight: Mapping[int, float], what: str) -> Callable[[Batch], Batch]:
    import keras

    classes = np.array(sorted(class_weight), np.int64)
    weights = np.array([class_weight[number] for number in classes.tolist()], keras.config.floatx())

    def weigh(batch: Batch) -> Batch:
        x, y, own = keras.utils.unpack_x_y_sample_weight(batch)
        if own is not None:
            raise ConfigError(
                f"{what}() gives sample_weight, and the job file has train.class_weight: Keras takes one of them",
                remedy="Leave out train.class_weight, or multiply it into the sample_weight.",
            )
        if not isinstance(y, np.ndarray) or y.dtype.kind in "OSU":
            said = (
                "several outputs" if keras.tree.is_nested(y) else "no labels" if y is None else "labels of another kind"
            )
            raise ConfigError(
                f"train.class_weight is for models with a single output and class numbers as labels; {what}() gives {said}",
                remedy="Give sample_weight with the data instead: (x, y, sample_weight).",
            )
        return x, y, _weights_of(y, classes, weights)

    return weigh


def _weights_of(y: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if y.ndim > 1:
        y = y[..., 0] if y.shape[-1] == 1 else np.argmax(y, axis=-1)
    numbers: Any = np.round(y).astype(np.int64)
    place = np.clip(np.searchsorted(classes, numbers), 0, len(classes) - 1)
    return np.where(classes[place] == numbers, weights[place], np.ones((), weights.dtype))
