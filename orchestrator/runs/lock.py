"""Who runs in a run directory on this machine: a lock, and a private folder of temporary files under it.

The lock of a local run directory is a file in it; that of a bucket lies among this user's temporary files.
"""

import contextlib
import hashlib
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import ConfigError
from trainer.rundir.attempts import now
from trainer.rundir.bucket import is_bucket
from trainer.wire.coordinator import JobState

LOCK_WAIT_S = 5.0


@contextlib.contextmanager
def run_lock(directory: str, name: str) -> Iterator[None]:
    """Hold the run directory; a second `orch run` waits a little, then says who holds it.

    Raises:
        ConfigError: somebody else holds it, or it cannot be written.
    """
    import fcntl

    path = _lock_file(directory)
    if not is_bucket(directory):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run directory {directory} cannot be made: {error.strerror}") from None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"run directory {directory} cannot be written: {error.strerror}") from None
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "another process"
                    raise ConfigError(
                        f"run directory {directory} is held by {holder}",
                        remedy="Wait for it, stop it with Ctrl-C, or give another --directory.",
                    ) from None
                time.sleep(0.1)
        who = f"`orch run` of job {name}: process {os.getpid()} on {socket.gethostname()}, since {now():%H:%M:%S} UTC\n"
        with contextlib.suppress(OSError):  # of a full disk: the name of the holder is for people only
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, who.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(directory: str) -> str:
    """Who runs in a run directory on this machine at this moment, or an empty string."""
    import fcntl

    try:
        descriptor = os.open(_lock_file(directory), os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ConfigError):
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "another process"
    finally:
        os.close(descriptor)
    return ""


def private_folder(directory: str) -> Path:
    """Where `orch run` keeps what it needs of this run directory while it runs. At a fixed place, used under the run's lock:
    what a killed one left there goes with the next one.

    Raises:
        ConfigError: the folder of this user's temporary files is not theirs alone, or cannot be made.
    """
    return _own_folder() / _digest(directory)


def write_live(folder: Path, state: JobState) -> None:
    """Leave the coordinator's state in the private folder, for `orch status`. Of a full disk nothing is said: it is for people
    only."""
    written = folder / "state.new"
    with contextlib.suppress(OSError):
        written.write_bytes(state.to_json())
        written.replace(folder / "state.json")


def read_live(directory: str) -> JobState | None:
    """What the coordinator of a run directory told last, where an `orch run` of this machine and user holds it."""
    if not holder(directory):
        return None
    try:
        return JobState.model_validate_json((private_folder(directory) / "state.json").read_bytes())
    except (OSError, ValueError, ConfigError):
        return None


def _lock_file(directory: str) -> Path:
    if is_bucket(directory):
        return _own_folder() / f"{_digest(directory)}.lock"
    return Path(directory) / "lock"


def _own_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"orch-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made: {error.strerror}", remedy="Free space there, or set TMPDIR to another folder."
        ) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(
            f"{folder} is not a folder of yours alone", remedy="Remove it, or set TMPDIR to a folder of your own."
        )
    return folder


def _digest(directory: str) -> str:
    return hashlib.sha256(directory.encode()).hexdigest()[:16]
