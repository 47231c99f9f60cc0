"""The trained model as a Keras file: RUN/export/attempt-K/model.keras."""

import logging
import mmap
import tempfile
import time
from pathlib import Path
from typing import Any

from trainer.errors import ObjectExists, SaveRefused, StoreDenied, StoreUnavailable
from trainer.rundir.patience import patiently
from trainer.rundir.store import Store

log = logging.getLogger(__name__)

_FILE = "model.keras"
_AGAIN = "The last checkpoint is saved: start again, and it is exported."


def export_model(model: Any, store: Store, attempt: int, *, patience_s: float = 0.0) -> str:
    """Write the model and return where it is. With its loss, metrics and optimizer where Keras can write these.

    Raises:
        SaveRefused: the store or the temporary folder did not take it within `patience_s`.
    """
    name = f"export/attempt-{attempt}/model.keras"
    deadline = time.monotonic() + patience_s
    try:
        with patiently(lambda: _written(model), deadline, "export") as folder:
            # Mapped, not read: its pages are the system's cache, which gives way where memory is short.
            with open(Path(folder, _FILE), "rb") as file:
                data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            patiently(lambda: store.put_if_absent(name, data), deadline, "export")
    except (StoreUnavailable, StoreDenied) as error:
        raise SaveRefused(
            f"the trained model could not be exported: {error.message}",
            remedy=f"{error.remedy} {_AGAIN}".strip(),
        ) from None
    except ObjectExists:
        # Of this attempt, so by this process: the answer to an earlier try was lost.
        log.info("the export was there already name=%s", name)
    return f"{store.url.rstrip('/')}/{name}"


def _written(model: Any) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder with the model's file. Raises StoreDenied: the disk is full, or refuses."""
    folder = None
    try:
        folder = tempfile.TemporaryDirectory(prefix="orch-export-", ignore_cleanup_errors=True)
        _save(model, Path(folder.name, _FILE))
    except OSError as error:
        if folder is not None:
            folder.cleanup()
        where = tempfile.gettempdir()
        raise StoreDenied(f"{where}: {error.strerror or error}", remedy=f"Free space in {where}.") from None
    return folder


def _save(model: Any, path: Path) -> None:
    try:
        model.save(path)
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        log.warning("exporting the model without its loss and optimizer, which Keras cannot write: %s", error)
        compiled, model.compiled = model.compiled, False
        try:
            model.save(path)
        finally:
            model.compiled = compiled
