"""`orch run`: the job on this machine, one agent process a worker. The same agents are PID 1 of the pods on a cluster.

It asks the agents (agents.py) to stop on Ctrl-C, shows how the job is doing, and reads what became of it (result.py).
"""

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from orchestrator.local.agents import Agents, free_port
from orchestrator.local.printer import Printer
from orchestrator.local.result import result_of
from orchestrator.runs.lock import private_folder, run_lock, write_live
from orchestrator.runs.view import RunView, read_run
from orchestrator.status.model import JobStatus
from orchestrator.text import first_line
from trainer.agent.link import CoordinatorClient
from trainer.config import TrainConfig
from trainer.errors import ConfigError, OrchError, StoreError
from trainer.lifeline import PARENT_VARIABLE
from trainer.rundir.history import lost_in_words
from trainer.rundir.open import open_store
from trainer.wire.coordinator import JobState

JOB_FILE_S = 5.0
"""How long job.json, which is for people only, may take: agents wait for a store, not this."""
STATE_S = 0.5


_PLACES = ("PATH", "PYTHONPATH", "GOOGLE_APPLICATION_CREDENTIALS")
"""Variables with paths that are relative to this process's folder, while training processes start in the job file's."""


def _environment_here(python: str) -> dict[str, str]:
    """This process's environment, as it holds in other folders too; `python` is found first, also where no virtual environment
    is activated."""
    environment = dict(os.environ)
    for name in _PLACES:
        if name in environment:
            environment[name] = os.pathsep.join(map(os.path.abspath, environment[name].split(os.pathsep)))
    environment["PATH"] = os.pathsep.join(filter(None, [os.path.dirname(python), environment.get("PATH", os.defpath)]))
    return environment


class LocalRun:
    """One launch on this machine."""

    def __init__(
        self,
        config: TrainConfig,
        printer: Printer,
        *,
        fresh: bool = False,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        """`environment`: what the job file adds to this process's own."""
        self._config = config
        self._printer = printer
        self._launch = secrets.token_hex(8)
        self._started = datetime.now(UTC)
        self._python = python
        self._fresh = fresh
        self._extra = dict(environment or {})
        self._stop_signal: int | None = None
        self._stop_told = False
        self._hard = False
        self._last_state: JobState | None = None
        self._told_attempt = 0

    def run(self) -> JobStatus:
        """Train to the end, or to a stop.

        Raises:
            OrchError: the run directory cannot be used.
        """
        with run_lock(self._config.run_directory, self._config.name), self._private_folder() as folder:
            port = free_port()
            client = CoordinatorClient(("127.0.0.1", port), (folder / "token").read_text())
            environment = self._agent_environment(folder, port)
            agents = Agents(self._config.workers, environment, port, self._printer, python=self._python)
            watcher = threading.Thread(target=self._watch, args=(client, folder), daemon=True)
            doctor = threading.Thread(target=agents.ask_for_health, daemon=True)
            with self._signals():
                try:
                    agents.start()
                    watcher.start()
                    doctor.start()
                    self._loop(agents)
                finally:
                    agents.kill_all()
            self._over = True
            watcher.join(2.0)
        return self._result(agents)

    # --- preparing

    @contextlib.contextmanager
    def _private_folder(self) -> Iterator[Path]:
        folder = private_folder(self._config.run_directory)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            try:
                self._fill(folder)
            except OSError as error:
                raise ConfigError(
                    f"{folder} cannot be written: {error.strerror}",
                    remedy="Free space there, or set TMPDIR to another folder.",
                ) from None
            with contextlib.suppress(OrchError):
                store = open_store(self._config.run_directory, timeout_s=JOB_FILE_S)
                store.put("job.json", self._config.model_dump_json(indent=2).encode())
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _fill(self, folder: Path) -> None:
        (folder / "tmp").mkdir(parents=True, mode=0o700)
        descriptor = os.open(folder / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
        (folder / "config.json").write_text(self._config.model_dump_json(), encoding="utf-8")

    def _agent_environment(self, folder: Path, port: int) -> dict[str, str]:
        return {
            **_environment_here(self._python),
            **self._extra,
            "ORCH_CONFIG": str(folder / "config.json"),
            "ORCH_TOKEN_FILE": str(folder / "token"),
            "TMPDIR": str(folder / "tmp"),
            "ORCH_LAUNCH": self._launch,
            "ORCH_LAUNCH_STARTED": self._started.isoformat(),
            "ORCH_COORDINATOR": f"127.0.0.1:{port}",
            "ORCH_ADDRESS": "127.0.0.1",
            "ORCH_FRESH": "1" if self._fresh else "0",
            PARENT_VARIABLE: str(os.getpid()),
        }

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._stop_signal is not None:
                self._hard = True
            self._stop_signal = self._stop_signal or number

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # --- running

    def _loop(self, agents: Agents) -> None:
        while not agents.left:
            agents.show_lines()
            self._obey_signals(agents)
            agents.keep_alive(stopping=self._stop_signal is not None)
            if agents.gave_up or self._hard:
                return
            agents.hurry_the_late()

    def _obey_signals(self, agents: Agents) -> None:
        if self._stop_signal is None or self._stop_told:
            return
        self._stop_told = True
        how = "Ctrl-C" if self._stop_signal == signal.SIGINT else signal.Signals(self._stop_signal).name
        command = self._config.train.command is not None
        what = "the command is told to end (SIGTERM)" if command else "stopping after a checkpoint"
        self._printer.line(f"{how}: {what}; once more ends at once")
        agents.terminate()

    # --- showing

    _over = False

    def _watch(self, client: CoordinatorClient, folder: Path) -> None:
        while not self._over:
            try:
                state = client.state()
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(STATE_S)
                continue
            self._tell_restarts(state)
            self._last_state = state
            write_live(folder, state)
            self._printer.progress(state)
            time.sleep(STATE_S)

    def _tell_restarts(self, state: JobState) -> None:
        if state.state != "running" or state.attempt <= self._told_attempt:
            return
        before, self._told_attempt = self._told_attempt, state.attempt
        restarts = [restart for restart in state.history if restart.attempt >= before]
        for restart in restarts:
            words = lost_in_words(restart, "going on")
            self._printer.line(f"attempt {restart.attempt + 1}: {restart.reason}; {words}")
        if not restarts and state.last_end is not None:
            self._printer.line(f"attempt {state.attempt}: {state.last_end.reason}; going on")

    # --- the result

    def _result(self, agents: Agents) -> JobStatus:
        why = unread = ""
        try:
            view = read_run(self._config.run_directory)
        except StoreError as error:
            why, unread = first_line(error.message), f"the run directory cannot be read: {error.message}"
            view = RunView(open_store(self._config.run_directory), [], [])
        told = result_of(
            view,
            self._config,
            launch=self._launch,
            stop_signal=self._stop_signal,
            gave_up=agents.gave_up,
            codes=agents.codes,
            last=self._last_state,
            unread=unread,
            words=agents.words,
        )
        return replace(told, unread=why)
