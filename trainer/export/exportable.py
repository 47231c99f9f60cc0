"""Whether a model can be written to a Keras file and read again: asked before training, of its untrained weights.

What is found out costs training nothing: random states are put back, and the model is left as it was.
"""

import json
import logging
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from trainer.data.random_state import random_states_kept

log = logging.getLogger(__name__)

TRIED_BYTES_MAX = 256 << 20
"""Larger models are not written and read to see whether it works: only their configuration is made."""


@dataclass(frozen=True)
class Form:
    """What an export is: a whole model, or its weights alone."""

    kind: Literal["model", "weights"] = "model"
    own_classes: bool = False
    """Whether its file names classes of the user's code, without which it cannot be read."""
    why: str = ""
    """With weights: why it cannot be the whole model."""

    @property
    def suffix(self) -> str:
        """Of its file."""
        return ".keras" if self.kind == "model" else ".weights.h5"


def form_of(model: keras.Model) -> Form:
    """How this model can be exported. One warning where only its weights can be."""
    with random_states_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            form = _try(model)
        except OSError as error:  # a full disk says nothing of the model
            log.info("whether the model can be written was not tried: %s", error)
            return Form()
        except Exception as error:
            form = Form("weights", why=_sentence(error))
    if form.kind == "weights":
        log.warning(
            "the model cannot be written to a Keras file and read again (%s): its weights will be exported. For a whole model: "
            "%s",
            form.why,
            _remedy(form.why),
        )
    return form


def save_model(model: keras.Model, path: Path, *, tell: bool = True) -> None:
    """Write it, without its loss, metrics and optimizer where Keras cannot write these; with `tell` that is said."""
    try:
        model.save(path)
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        log.info("the model is written without its loss and optimizer, which Keras cannot write: %s", _sentence(error))
        compiled, model.compiled = model.compiled, False
        try:
            model.save(path)
        finally:
            model.compiled = compiled


def _try(model: keras.Model) -> Form:
    if sum(int(np.prod(weight.shape)) * 4 for weight in model.weights) > TRIED_BYTES_MAX:
        return Form(own_classes=_names_own(keras.saving.serialize_keras_object(model)))
    with tempfile.TemporaryDirectory(prefix="orch-export-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, "model.keras")
        save_model(model, path, tell=False)
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
        loaded = keras.models.load_model(path, compile=False)
        then, now = model.get_weights(), loaded.get_weights()
        if len(then) != len(now) or not all(map(_equal, then, now)):
            raise ValueError("what is read again has other weights")
        return Form(own_classes=_names_own(config))


def _equal(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return bool(one.shape == other.shape and one.tobytes() == other.tobytes())


def _names_own(config: Any) -> bool:
    """Whether a configuration names a class or a function that is not Keras' own."""
    if isinstance(config, dict):
        module, registered = config.get("module"), config.get("registered_name")
        if isinstance(module, str) and module.partition(".")[0] not in ("keras", "builtins"):
            return True
        if isinstance(registered, str) and ">" in registered:
            return True
        return any(_names_own(part) for part in config.values())
    return isinstance(config, list | tuple) and any(_names_own(part) for part in config)


def _remedy(why: str) -> str:
    if "ambda" in why:
        return "put the function of a Lambda layer into a keras.Layer, or give it a name and register it."
    above = "(@keras.saving.register_keras_serializable() above each)"
    if why.startswith("Could not locate"):
        return f"register its classes {above}."
    return f"give its classes a get_config() with all arguments of their constructors, and register them {above}."


def _sentence(error: BaseException) -> str:
    """The first sentence of a message that may go over lines."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.partition(". ")[0].partition(", and therefore")[0].rstrip(".:")[:300]
