"""Worker 0's agent says once what the bucket of the run directory does behind its back. In a thread of its own, with a client
of its own: whatever the store does, training neither waits for it nor fails by it."""

import logging
import threading

from trainer.rundir.bucket import is_bucket
from trainer.rundir.open import bucket_notices

log = logging.getLogger(__name__)

_STORE_S = 30.0


def say_in_the_background(run_directory: str) -> None:
    """Log the notices when they are there; nothing for a local path."""
    if is_bucket(run_directory):
        threading.Thread(target=_say, args=(run_directory,), name="bucket-notes", daemon=True).start()


def _say(run_directory: str) -> None:
    try:
        for notice in bucket_notices(run_directory, timeout_s=_STORE_S):
            log.warning("%s", notice)
    except Exception as error:  # a note, and nothing that may end a worker
        log.info("the bucket's rules could not be read: %s", error)
