"""TensorBoard's event files, written by the chief: RUN/tensorboard/attempt-K. The JSON lines of metrics are the agent's.

Written as records of TensorFlow's Event message, since tf.summary needs the tensorboard package, which training does not.
"""

import contextlib
import logging
import os
import queue
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.errors import OrchError
from trainer.rundir.bucket import is_bucket
from trainer.rundir.store import Store

log = logging.getLogger(__name__)

UPLOAD_EVERY_S = 30.0
AGAIN_S = 10.0
"""After a failure, how long nothing is written."""
_WAITING_MAX = 10_000
"""Events that wait for a store that stands still; more are lost."""


class TensorBoard:
    """Scalars by step, written by a thread. On GCS, the event file is written here and uploaded whole now and then.

    Nothing is decided by them: what cannot be written is lost, and training goes on.
    """

    def __init__(self, store: Store, attempt: int) -> None:
        self._store = store
        self._prefix = f"tensorboard/attempt-{attempt}"
        self._folder = None if is_bucket(store.url) else Path(store.url, self._prefix)
        self._remote = self._folder is None
        self._file: Any = None
        self._files = 0
        self._failed_at: float | None = None
        self._uploaded: dict[str, int] = {}
        self._last_upload = time.monotonic()
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING_MAX)
        self._thread = threading.Thread(target=self._run, name="tensorboard", daemon=True)
        self._thread.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Have `values` written for `step`."""
        import tensorflow as tf

        message = tf.compat.v1.Summary
        entries = [message.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = tf.compat.v1.Event(wall_time=time.time(), step=step, summary=message(value=entries))
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(event.SerializeToString())

    def close(self, timeout_s: float = 30.0) -> None:
        """Write, and on GCS upload, what is left; waits so long for it."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)

    def _run(self) -> None:
        self._write(None)
        while (event := self._waiting.get()) is not None:
            self._write(event)
            self._waiting.task_done()
            if self._remote and time.monotonic() - self._last_upload > UPLOAD_EVERY_S:
                self._upload()
        if self._remote:
            self._upload()

    def _write(self, event: bytes | None) -> None:
        """Write an event; without one, only begin a file."""
        import tensorflow as tf

        if self._failed_at is not None and time.monotonic() - self._failed_at < AGAIN_S:
            return
        try:
            if self._file is None:
                self._file = self._begin_file()
            if event is not None:
                self._file.write(event)
                self._file.flush()
            self._failed_at = None
        except (tf.errors.OpError, OSError) as error:
            log.warning("events for TensorBoard are lost: %s", error)
            self._failed_at = time.monotonic()
            self._file = None  # it may end within a record: what follows goes into another one

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

    def _upload(self) -> None:
        self._last_upload = time.monotonic()
        for path in self._folder.iterdir() if self._folder is not None else ():
            try:
                data = path.read_bytes()
                if self._uploaded.get(path.name) == len(data):
                    continue
                self._store.put(f"{self._prefix}/{path.name}", data)
            except (OrchError, OSError) as error:
                # The next upload holds all of it again.
                log.warning("event file not uploaded: %s", error)
                return
            self._uploaded[path.name] = len(data)
