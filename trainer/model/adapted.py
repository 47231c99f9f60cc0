"""What preprocessing layers learned from data by adapt() and keep in no variable: vocabularies, and limits of bins.

It is saved as arrays beside the variables. After a restart the task adapts its layers again, to data that may have changed or
come in another order: the model's layers get back what they had; of a layer that stands in the data alone, whose program is made
already, a difference is refused.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from trainer.checkpoint.replicas import Replicas, checksum
from trainer.errors import ConfigError

log = logging.getLogger(__name__)

_PREFIX = "adapted/"
LAYERS = (
    keras.layers.StringLookup,
    keras.layers.IntegerLookup,
    keras.layers.Discretization,
    keras.layers.Normalization,
)
"""Those that adapt; a TextVectorization has a StringLookup within it."""


class Adapted:
    """The adapted layers of a training."""

    def __init__(self, layers: Mapping[str, keras.Layer], model: keras.Model) -> None:
        """`layers` by the path that leads to them, in the same order in every process."""
        self._layers = {
            path: layer for path, layer in layers.items() if not isinstance(layer, keras.layers.Normalization)
        }
        self._finalized = [layer for layer in layers.values() if isinstance(layer, keras.layers.Normalization)]
        self._of_model = {id(layer) for layer in model._flatten_layers()}
        self._state: dict[str, np.ndarray] | None = None

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name: uint8, the bytes of JSON. Made once: training does not adapt."""
        if self._state is None:
            self._state = {
                f"{_PREFIX}{number}": np.frombuffer(_written(layer), np.uint8)
                for number, layer in enumerate(self._layers.values())
            }
        return self._state

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Give back what a checkpoint has of `state`, once the variables are assigned.

        Raises:
            ConfigError: a layer of the data learned something else this time.
        """
        for layer in self._finalized:
            if layer.built and layer.input_mean is None:
                layer.finalize_state()  # it computes with constants made of its variables
        now = self.state()
        for (path, layer), name in zip(self._layers.items(), now, strict=True):
            then = arrays.get(name)
            if then is None or np.array_equal(then, now[name]):
                continue
            if id(layer) not in self._of_model:
                raise ConfigError(
                    f"{path} ({layer.name}) was adapted to other data than at the checkpoint, and the data goes through it",
                    remedy="Adapt it to the same data in the same order, or give it its vocabulary; or begin anew (--fresh).",
                )
            log.info("%s: what adapt() learned is the checkpoint's, not that of this start", layer.name)
            _assign(layer, json.loads(then.tobytes()))
        self._state = None

    def check_equal(self, replicas: Replicas) -> None:
        """A collective: all workers call it.

        Raises:
            ConfigError: workers adapted a layer to different data.
        """
        row = np.array([checksum(array) for array in self.state().values()], np.int64)
        for column in replicas.differing(row)[:1]:
            path, layer = list(self._layers.items())[column]
            raise ConfigError(
                f"{path} ({layer.name}) was adapted to other data, or in another order, on one worker than on another",
                remedy="Adapt it to the same data in the same order (a Python set has none), or give it its vocabulary.",
            )


def _written(layer: Any) -> bytes:
    if isinstance(layer, keras.layers.Discretization):
        return json.dumps({"boundaries": [float(each) for each in layer.bin_boundaries or []]}).encode()
    vocabulary = layer.get_vocabulary(include_special_tokens=False)
    tokens = [token.item() if isinstance(token, np.generic) else token for token in vocabulary]
    weights = getattr(layer, "idf_weights", None)
    if weights is not None:
        weights = np.asarray(weights)[-len(tokens) :].tolist()
    return json.dumps({"tokens": tokens, "idf_weights": weights}).encode()


def _assign(layer: Any, saved: Any) -> None:
    if isinstance(layer, keras.layers.Discretization):
        layer.bin_boundaries = saved["boundaries"]
    else:
        layer.set_vocabulary(saved["tokens"], idf_weights=saved["idf_weights"])
