"""TensorBoard's event files, written by the chief: RUN/tensorboard/attempt-K. The JSON lines of metrics are the agent's.

Written as records of TensorFlow's Event message, since tf.summary needs the tensorboard package, which training does not.
"""

import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.errors import OrchError
from trainer.rundir.store import Store

log = logging.getLogger(__name__)

UPLOAD_EVERY_S = 30.0


class TensorBoard:
    """Scalars by step. On GCS, the event file is written here and uploaded whole now and then, by a thread."""

    def __init__(self, store: Store, attempt: int) -> None:
        import tensorflow as tf

        self._store = store
        self._prefix = f"tensorboard/attempt-{attempt}"
        self._remote = store.url.startswith("gs://")
        self._folder = Path(tempfile.mkdtemp(prefix="orch-events-")) if self._remote else Path(store.url, self._prefix)
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._writer: Any = tf.io.TFRecordWriter(str(self._folder / name))
        self._write(file_version="brain.Event:2")
        self._uploaded: dict[str, int] = {}
        self._last_upload = time.monotonic()
        self._thread: threading.Thread | None = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write `values` for `step`."""
        import tensorflow as tf

        message = tf.compat.v1.Summary
        entries = [message.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=message(value=entries))
        if self._remote and time.monotonic() - self._last_upload > UPLOAD_EVERY_S and not self._uploading():
            self._start_upload()

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what is left; on GCS, give the upload so long."""
        if self._remote:
            if self._thread is not None:
                self._thread.join(timeout_s)
            self._start_upload()
            assert self._thread is not None
            self._thread.join(timeout_s)
        self._writer.close()

    def _write(self, **fields: Any) -> None:
        import tensorflow as tf

        self._writer.write(tf.compat.v1.Event(wall_time=time.time(), **fields).SerializeToString())
        self._writer.flush()

    def _uploading(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start_upload(self) -> None:
        self._last_upload = time.monotonic()
        self._thread = threading.Thread(target=self._upload, name="tensorboard", daemon=True)
        self._thread.start()

    def _upload(self) -> None:
        for path in self._folder.iterdir():
            data = path.read_bytes()
            if self._uploaded.get(path.name) == len(data):
                continue
            try:
                self._store.put(f"{self._prefix}/{path.name}", data)
            except OrchError as error:
                # Nothing is decided by them: the next upload holds all of it again.
                log.warning("event file not uploaded: %s", error.message)
                return
            self._uploaded[path.name] = len(data)
