"""Reading an export: `from trainer.exported import load; model = load("runs/digits")`. Imports Keras when called."""

import json
import tempfile
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError, ObjectNotFound
from trainer.export.exporter import NEWEST
from trainer.rundir.open import open_store
from trainer.task import load_task


def load(directory: str, *, best: bool = False, task_root: str | None = None) -> Any:
    """The model that a run exported last, with its trained weights, not compiled.

    Args:
        directory: the run directory, a path or gs://bucket/prefix.
        best: the one that export.best chose, instead of the last.
        task_root: the folder of the task's file. Default: where it was trained, if that is here, else the working directory.

    Raises:
        ConfigError: nothing was exported there, or no best one; the task cannot be loaded.
    """
    import keras

    store = open_store(directory)
    try:
        about = json.loads(store.get(NEWEST))
    except ObjectNotFound:
        raise ConfigError(
            f"{directory} holds no export",
            remedy="It is written when training is done: `orch run` or `orch status` tell.",
        ) from None
    chosen = about["best"] if best else about
    if chosen is None:
        raise ConfigError(f"{directory} holds no best model", remedy="Give export: {best: val_loss} in the job file.")
    task = None
    if about["task"]:
        root = task_root or (about["task_root"] if about["task_root"] and Path(about["task_root"]).is_dir() else ".")
        task = load_task(about["task"], about["params"], root)  # its classes are known from here on
    with tempfile.TemporaryDirectory(prefix="orch-export-") as folder:
        path = Path(folder, chosen["file"].rpartition("/")[2])
        path.write_bytes(store.get(chosen["file"]))
        if chosen["kind"] == "model":
            return keras.models.load_model(path, compile=False)
        if task is None:
            raise ConfigError(f"{chosen['file']} holds weights alone, and which task made them is unknown")
        model = task.model()
        if not model.built or not model.weights:
            model(_zeros(about["inputs"]))
        model.load_weights(path)
        return model


def _zeros(shapes: Any) -> Any:
    """A batch of one example of these shapes."""
    import keras

    if isinstance(shapes, list):
        return [_zeros(part) for part in shapes]
    if isinstance(shapes, dict) and set(shapes) == {"shape", "dtype"}:
        return keras.ops.zeros([1, *shapes["shape"]], shapes["dtype"])
    return {key: _zeros(part) for key, part in shapes.items()} if isinstance(shapes, dict) else None
