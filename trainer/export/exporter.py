"""What training leaves for others: RUN/export/attempt-K/model.keras, best.keras, and RUN/export/newest.json, which names them.

A model that Keras cannot write and read again is exported as weights (.weights.h5). Files are written whole or not at all, and
newest.json last; exported.py reads it.
"""

import json
import logging
import mmap
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.errors import ObjectExists, SaveRefused, StoreDenied, StoreError, StoreUnavailable
from trainer.export.exportable import Form, save_model
from trainer.rundir.patience import patiently
from trainer.rundir.store import Store

log = logging.getLogger(__name__)

NEWEST = "export/newest.json"
_AGAIN = "The last checkpoint is saved: start again, and it is exported."


@dataclass(frozen=True)
class Exported:
    """One file of an export."""

    name: str
    """In the run directory."""
    url: str
    form: Form
    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """For a JSON file beside it."""
        numbers = {name: value for name, value in self.metrics.items() if abs(value) < float("inf")}
        return {"file": self.name, "kind": self.form.kind, "step": self.step, "metrics": numbers}


class Exporter:
    """Writes the files of one attempt. The chief's."""

    def __init__(
        self, model: Any, store: Store, attempt: int, form: Form, config: TrainConfig | None = None, inputs: Any = None
    ) -> None:
        """`inputs`: a batch of what the model takes, by whose shapes it is built where only weights are read."""
        self._model, self._store, self._attempt, self.form = model, store, attempt, form
        self._config = config
        self._inputs = inputs

    def write(self, stem: str, step: int, metrics: Mapping[str, float], *, patience_s: float = 0.0) -> Exported:
        """Write the model as it is to export/attempt-K/STEM.keras, or its weights.

        Raises:
            SaveRefused: the store or the temporary folder did not take it within `patience_s`.
        """
        deadline = time.monotonic() + patience_s
        try:
            with patiently(self._written, deadline, "export") as folder:
                path = next(Path(folder).iterdir())
                name = self.name(stem, self.form.kind)
                # Mapped, not read: its pages are the system's cache, which gives way where memory is short.
                with open(path, "rb") as file:
                    data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
                patiently(lambda: self._put(name, data), deadline, "export")
        except (StoreUnavailable, StoreDenied) as error:
            raise SaveRefused(
                f"the trained model could not be exported: {error.message}",
                remedy=f"{error.remedy} {_AGAIN}".strip(),
            ) from None
        return Exported(name, f"{self._store.url.rstrip('/')}/{name}", self.form, step, metrics)

    def name(self, stem: str, kind: str) -> str:
        """The name of a file of this attempt."""
        return f"export/attempt-{self._attempt}/{stem}{'.keras' if kind == 'model' else '.weights.h5'}"

    def point(self, model: Exported, best: Mapping[str, Any] | None = None) -> None:
        """Say in export/newest.json that this is the newest export, and beside the file of the best model what it is.

        A store that does not take it costs the pointer alone. One of a later attempt stays.
        """
        config = self._config
        about = {
            **model.described(),
            "attempt": self._attempt,
            "load": load_line(model),
            "best": dict(best) if best else None,
            "task": config.train.task if config else None,
            "params": config.train.params if config else {},
            "task_root": config.task_root if config else None,
            "inputs": _shapes(self._inputs),
            "why_weights": model.form.why,
        }
        try:
            if best:
                self._store.put(f"export/attempt-{self._attempt}/best.json", _json(dict(best)))
            if _attempt_of(self._store) <= self._attempt:
                self._store.put(NEWEST, _json(about))
        except StoreError as error:
            log.warning("%s could not be written: %s", NEWEST, error.message)

    def _put(self, name: str, data: Any) -> None:
        try:
            self._store.put_if_absent(name, data)
        except ObjectExists:
            # Of this attempt, so by this process: the answer to an earlier try was lost.
            log.info("the export was there already name=%s", name)

    def _written(self) -> tempfile.TemporaryDirectory[str]:
        """A temporary folder with the one file. Raises StoreDenied: the disk is full, or refuses."""
        folder = None
        try:
            folder = tempfile.TemporaryDirectory(prefix="orch-export-", ignore_cleanup_errors=True)
            self._save(Path(folder.name))
        except OSError as error:
            if folder is not None:
                folder.cleanup()
            where = tempfile.gettempdir()
            raise StoreDenied(f"{where}: {error.strerror or error}", remedy=f"Free space in {where}.") from None
        return folder

    def _save(self, folder: Path) -> None:
        path = folder / f"file{self.form.suffix}"
        if self.form.kind == "model":
            try:
                return save_model(self._model, path)
            except OSError:
                raise
            except Exception as error:  # what was trained is not lost for it
                log.warning("the model cannot be written: %s. Its weights are exported instead", error)
                path.unlink(missing_ok=True)
                self.form = Form("weights", why=str(error).partition("\n")[0])
                path = folder / f"file{self.form.suffix}"
        self._model.save_weights(path)
        return None


def export_model(model: Any, store: Store, attempt: int, *, patience_s: float = 0.0) -> str:
    """Write the model to export/attempt-K/model.keras and return where it is. Raises as Exporter.write does."""
    return Exporter(model, store, attempt, Form()).write("model", 0, {}, patience_s=patience_s).url


def load_line(exported: Exported) -> str:
    """One line of Python that gives the model."""
    local = "://" not in exported.url
    if exported.form.kind == "model" and not exported.form.own_classes and local:
        return f"import keras; model = keras.models.load_model({exported.url!r})"
    run = exported.url[: -len(exported.name)].rstrip("/")
    return f"from trainer.exported import load; model = load({run!r})"


def _attempt_of(store: Store) -> int:
    """The attempt whose export the pointer names; 0 where there is none."""
    try:
        return int(json.loads(store.get(NEWEST))["attempt"])
    except (StoreError, ValueError, KeyError, TypeError):
        return 0


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, default=str).encode() + b"\n"


def _shapes(value: Any) -> Any:
    """Shapes and dtypes of one example in the structure of `value`, as JSON holds them."""
    if isinstance(value, dict):
        return {key: _shapes(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_shapes(part) for part in value]
    if not hasattr(value, "shape"):
        return None
    dtype = getattr(value.dtype, "name", str(value.dtype))
    return {"shape": [None if size is None else int(size) for size in value.shape[1:]], "dtype": dtype}
