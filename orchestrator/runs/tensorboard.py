"""TensorBoard on what a run writes for it. Events in a bucket are copied to a folder here, and go on being copied."""

import contextlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.runs.view import no_run, read_run
from trainer.errors import ConfigError, ObjectNotFound, OrchError, StoreError
from trainer.rundir.bucket import is_bucket
from trainer.rundir.open import open_store
from trainer.rundir.store import Store, check_name

Say = Callable[[str], None]

EVENTS = "tensorboard/"
COPY_EVERY_S = 15.0
"""The chief uploads its events every 30 s."""
_STOP_S = 5.0
_URL = re.compile(r"http://\S+")


def program() -> list[str]:
    """How TensorBoard is started here.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("tensorboard") is not None:
        return [sys.executable, "-P", "-m", "tensorboard.main"]
    found = shutil.which("tensorboard")
    if found:
        return [found]
    raise ConfigError("TensorBoard is not installed", remedy="pip install tensorboard, next to orch or on the PATH")


@contextlib.contextmanager
def event_folder(directory: str, say: Say) -> Iterator[Path]:
    """A local folder with the events of a run directory, kept up to date.

    Raises:
        ConfigError: the directory holds no run. StoreError: it cannot be read.
    """
    view = read_run(directory)
    if not view.records:
        raise no_run(directory)
    if not is_bucket(directory):
        yield Path(view.directory, EVENTS)
        return
    with tempfile.TemporaryDirectory(prefix="orch-tensorboard-", ignore_cleanup_errors=True) as folder:
        mirror = Mirror(open_store(directory), Path(folder))
        mirror.copy()
        stop = threading.Event()
        thread = threading.Thread(target=_go_on_copying, args=(mirror, stop, say), name="copy", daemon=True)
        thread.start()
        try:
            yield Path(folder)
        finally:
            stop.set()


class Mirror:
    """Copies event files as they grow. TensorBoard keeps them open: what is new is appended."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._seen: dict[str, int] = {}

    def copy(self) -> None:
        """Once. Raises StoreError."""
        for entry in self._store.list(EVENTS):
            if self._seen.get(entry.name) == entry.generation:
                continue
            try:
                data = self._store.get(check_name(entry.name))
            except (ValueError, ObjectNotFound):
                continue  # the placeholder of a folder, a name that leads elsewhere, or deleted just now
            path = self._folder / entry.name.removeprefix(EVENTS)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data[file.tell() :])
            self._seen[entry.name] = entry.generation


def _go_on_copying(mirror: Mirror, stop: threading.Event, say: Say) -> None:
    troubled = ""
    while not stop.wait(COPY_EVERY_S):
        try:
            mirror.copy()
            troubled = ""
        except (StoreError, OSError) as error:
            message = error.message if isinstance(error, StoreError) else str(error)
            if message != troubled:
                troubled = message
                say(f"events are not copied: {message}; trying again")


def serve(folder: Path, port: int | None, say: Say) -> int:
    """Run TensorBoard on a folder, for this machine alone, until it ends or this process is interrupted; its exit code.

    Raises:
        OrchError: it ends before it serves anything.
    """
    arguments = [*program(), "--logdir", str(folder), "--host", "127.0.0.1", "--reload_interval", "10"]
    if port is not None:
        arguments += ["--port", str(port)]
    # A session of its own: Ctrl-C reaches this process, which then ends TensorBoard and all that it started.
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    try:
        _tell_address(process, say)
        return process.wait()
    finally:
        _stop(process)


def _tell_address(process: "subprocess.Popen[str]", say: Say) -> None:
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        if match := _URL.search(line):
            say(f"TensorBoard: {match[0].rstrip('/')}/  (Ctrl-C ends it)")
            # Somebody must read on, or it stands still once the pipe is full.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return
        last = line.strip() or last
    raise OrchError(
        f"TensorBoard ended with code {process.wait()}: {last}", remedy="orch tensorboard --port chooses another port"
    )


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
