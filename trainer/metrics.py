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
AGAIN_S = 10.0
"""After a failure, how long nothing is written."""


class TensorBoard:
    """Scalars by step. On GCS, the event file is written here and uploaded whole now and then, by a thread.

    Nothing is decided by them: what cannot be written is lost, and training goes on.
    """

    def __init__(self, store: Store, attempt: int) -> None:
        self._store = store
        self._prefix = f"tensorboard/attempt-{attempt}"
        self._remote = store.url.startswith("gs://")
        self._folder = None if self._remote else Path(store.url, self._prefix)
        self._writer: Any = None
        self._files = 0
        self._failed_at: float | None = None
        self._uploaded: dict[str, int] = {}
        self._last_upload = time.monotonic()
        self._thread: threading.Thread | None = None
        self._write()

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
        self._writer = None

    def _write(self, **fields: Any) -> None:
        """Write an event; without fields, only begin a file."""
        import tensorflow as tf

        if self._failed_at is not None and time.monotonic() - self._failed_at < AGAIN_S:
            return
        try:
            if self._writer is None:
                self._writer = self._begin_file()
            if fields:
                self._writer.write(tf.compat.v1.Event(wall_time=time.time(), **fields).SerializeToString())
                self._writer.flush()
            self._failed_at = None
        except (tf.errors.OpError, OSError) as error:
            log.warning("events for TensorBoard are lost: %s", error)
            self._failed_at = time.monotonic()
            self._writer = None  # its file may end within a record: what follows goes into another one

    def _begin_file(self) -> Any:
        import tensorflow as tf

        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="orch-events-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        suffix = f".{self._files}" if self._files else ""
        self._files += 1
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}{suffix}"
        writer = tf.io.TFRecordWriter(str(self._folder / name))
        writer.write(tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        writer.flush()
        return writer

    def _uploading(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start_upload(self) -> None:
        self._last_upload = time.monotonic()
        self._thread = threading.Thread(target=self._upload, name="tensorboard", daemon=True)
        self._thread.start()

    def _upload(self) -> None:
        for path in self._folder.iterdir() if self._folder is not None else ():
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
