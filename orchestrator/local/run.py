"""`orch run`: the job on this machine, one agent process a worker. The same agents are PID 1 of the pods on a cluster.

It keeps agents alive as the Job controller keeps pods, asks them to stop on Ctrl-C, and reads the result from the records.
"""

import contextlib
import http.client
import os
import re
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from orchestrator.local.printer import Printer
from orchestrator.runs.lock import private_folder, run_lock, write_live
from orchestrator.runs.view import RunView, read_run, saved_in_words
from orchestrator.status.model import JobStatus
from trainer.agent.child import Lines
from trainer.agent.last_words import LastWords
from trainer.agent.link import CoordinatorClient
from trainer.agent.protocol import JobState
from trainer.agent.stillness import STOPPED_S, Stopped
from trainer.config import TrainConfig
from trainer.errors import ConfigError, OrchError, StoreError
from trainer.exit_codes import FINAL_CODES, ExitCode, code_of_status, title_of
from trainer.lifeline import PARENT_VARIABLE
from trainer.rundir.attempts import AttemptRecord, EndRecord
from trainer.rundir.history import lost_in_words
from trainer.rundir.store import open_store

JOB_FILE_S = 5.0
"""How long job.json, which is for people only, may take: agents wait for a store, not this."""
STATE_S = 0.5
DEATHS_MAX = 20
"""Deaths of one agent, not followed by a minute of life, after which `orch run` gives up."""
STABLE_S = 60.0
HEALTH_S = 1.0
UNANSWERED_MAX = 4
"""An agent that lives and leaves so many questions in a row unanswered, one in two seconds, stands still, and is ended.
Questions are counted, not time: after Ctrl-Z and fg it is not the agents that stood still."""
START_QUESTIONS = 60
"""So many more may go unanswered while it starts."""
END_S = 5.0
"""After the first agent left with the end record's code, how long the others may take before they are asked to."""


# What TensorFlow prints at every import and no setting turns off. It is not shown; the logs in the run directory keep it.
_SAYS_NOTHING = re.compile(
    r"WARNING: All log messages before absl::InitializeLog|I0000 .*\] oneDNN custom operations are on"
)


@dataclass
class _Agent:
    index: int
    process: "subprocess.Popen[bytes] | None" = None
    lines: Lines = field(default_factory=Lines)
    started_s: float = 0.0
    restart_at_s: float = 0.0
    deaths: int = 0
    final_code: int | None = None
    hurried: bool = False
    port: int = 0
    unanswered: int = 0
    """Questions after its health in a row that it left unanswered; below 0 while it starts."""
    stopped: Stopped | None = None
    """Whether a signal has stopped it."""
    words: LastWords | None = None
    """Its last message, once it has left for good."""


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
        self._agents = [_Agent(index) for index in range(config.workers)]
        self._selector = selectors.DefaultSelector()
        self._stop_signal: int | None = None
        self._stop_told = False
        self._hard = False
        self._gave_up = ""
        self._first_final_s: float | None = None
        self._last_state: JobState | None = None
        self._told_attempt = 0

    def run(self) -> JobStatus:
        """Train to the end, or to a stop.

        Raises:
            OrchError: the run directory cannot be used.
        """
        with run_lock(self._config.run_directory, self._config.name), self._private_folder() as folder:
            self._environment = self._agent_environment(folder)
            watcher = threading.Thread(target=self._watch, args=(self._client(), folder), daemon=True)
            doctor = threading.Thread(target=self._ask_for_health, daemon=True)
            with self._signals():
                try:
                    for agent in self._agents:
                        self._start(agent)
                    watcher.start()
                    doctor.start()
                    self._loop()
                finally:
                    self._kill_all()
            self._over = True
            watcher.join(2.0)
        return self._result()

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

    def _agent_environment(self, folder: Path) -> dict[str, str]:
        self._port = _free_port()
        self._token = (folder / "token").read_text()
        return {
            **os.environ,
            **self._extra,
            "ORCH_CONFIG": str(folder / "config.json"),
            "ORCH_TOKEN_FILE": str(folder / "token"),
            "TMPDIR": str(folder / "tmp"),
            "ORCH_LAUNCH": self._launch,
            "ORCH_LAUNCH_STARTED": self._started.isoformat(),
            "ORCH_COORDINATOR": f"127.0.0.1:{self._port}",
            "ORCH_ADDRESS": "127.0.0.1",
            "ORCH_FRESH": "1" if self._fresh else "0",
            PARENT_VARIABLE: str(os.getpid()),
        }

    def _client(self) -> CoordinatorClient:
        return CoordinatorClient(("127.0.0.1", self._port), self._token)

    def _start(self, agent: _Agent) -> None:
        # Only the first worker's port must be known to others; the rest serve health and figures on any free one.
        agent.port = self._port if agent.index == 0 else _free_port()
        agent.unanswered = -START_QUESTIONS
        agent.hurried = False
        environment = {
            **self._environment,
            "ORCH_INDEX": str(agent.index),
            "ORCH_UID": secrets.token_hex(8),
            "ORCH_PORT": str(agent.port),
            "ORCH_TERMINATION_LOG": str(self._words_of(agent)),
        }
        agent.started_s = time.monotonic()
        try:
            agent.process = subprocess.Popen(
                [self._python, "-P", "-m", "trainer.agent"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:  # no memory, too many processes: perhaps not for long
            self._died(agent, f"cannot be started: {error.strerror}")
            return
        agent.stopped = Stopped(agent.process.pid)
        assert agent.process.stdout is not None
        os.set_blocking(agent.process.stdout.fileno(), False)
        self._selector.register(agent.process.stdout, selectors.EVENT_READ, agent)
        agent.lines = Lines()

    def _words_of(self, agent: _Agent) -> Path:
        """Where an agent keeps its last message, as in a pod."""
        return Path(self._environment["TMPDIR"]) / f"last-words-{agent.index}"

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

    def _loop(self) -> None:
        while any(agent.final_code is None for agent in self._agents):
            for key, _ in self._selector.select(0.1):
                self._read(key.data)
            self._obey_signals()
            for agent in self._agents:
                self._keep_alive(agent)
            if self._gave_up or self._hard:
                return
            self._hurry_the_late()

    def _read(self, agent: _Agent) -> None:
        process = agent.process
        if process is None or process.stdout is None:
            return
        for _ in range(64):
            try:
                data = os.read(process.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return
            lines = agent.lines.feed(data) if data else agent.lines.rest()
            for line in lines:
                self._show(agent.index, line.decode(errors="replace").rstrip("\n"))
            if not data:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(process.stdout)
                return

    def _show(self, index: int, line: str) -> None:
        if _SAYS_NOTHING.match(line):
            return
        text = line.removeprefix(f"worker={index} ")
        self._printer.line(f"[worker {index}] {text}")

    def _obey_signals(self) -> None:
        if self._stop_signal is None or self._stop_told:
            return
        self._stop_told = True
        how = "Ctrl-C" if self._stop_signal == signal.SIGINT else signal.Signals(self._stop_signal).name
        self._printer.line(f"{how}: stopping after a checkpoint; once more ends at once")
        self._terminate()

    def _terminate(self) -> None:
        for agent in self._agents:
            if agent.process is not None and agent.process.poll() is None:
                agent.process.terminate()

    def _hurry_the_late(self) -> None:
        """Once an agent has left with the job's end, ask those to leave that have had time enough to learn of it."""
        if self._first_final_s is None:
            return
        for agent in self._agents:
            since_s = max(self._first_final_s, agent.started_s)
            if agent.process is not None and not agent.hurried and time.monotonic() - since_s > END_S:
                agent.hurried = True
                agent.process.terminate()

    def _keep_alive(self, agent: _Agent) -> None:
        time_s = time.monotonic()
        stopping = self._stop_signal is not None
        if agent.process is None:
            if agent.final_code is None and stopping:
                agent.final_code = ExitCode.STOPPED
            elif agent.final_code is None and time_s >= agent.restart_at_s:
                self._start(agent)
            return
        status = agent.process.poll()
        if status is None:
            stopped_s = agent.stopped.seconds(time_s) if agent.stopped else 0.0
            if agent.unanswered >= UNANSWERED_MAX or stopped_s > STOPPED_S:
                self._printer.line(f"[worker {agent.index}] its agent stands still: it is ended")
                agent.process.kill()
            return
        self._read(agent)
        self._forget(agent)
        code = code_of_status(status)
        if code in FINAL_CODES or code == ExitCode.DONE or stopping:
            agent.final_code = code
            with contextlib.suppress(OSError, ValueError):
                agent.words = LastWords.model_validate_json(self._words_of(agent).read_bytes())
            self._first_final_s = self._first_final_s or time_s
            return
        self._died(agent, f"ended ({title_of(code)})")

    def _died(self, agent: _Agent, how: str) -> None:
        """Start it again, later each time; after too many deaths in a row give up."""
        time_s = time.monotonic()
        agent.deaths = 1 if time_s - agent.started_s > STABLE_S else agent.deaths + 1
        if agent.deaths > DEATHS_MAX:
            self._gave_up = f"the agent of worker {agent.index} died {agent.deaths} times in a row; the last one {how}"
            return
        agent.restart_at_s = time_s + min(0.1 * 2 ** (agent.deaths - 1), 10.0)
        self._printer.line(f"[worker {agent.index}] its agent {how}; another one takes its place")

    def _forget(self, agent: _Agent) -> None:
        process, agent.process = agent.process, None
        if process is not None and process.stdout is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(process.stdout)
            process.stdout.close()

    def _kill_all(self) -> None:
        for agent in self._agents:
            if agent.process is not None:
                agent.process.kill()
                agent.process.wait()
                self._forget(agent)

    # --- showing

    _over = False

    def _ask_for_health(self) -> None:
        """What no Job controller does for us here: find agents that live and stand still."""
        while not self._over:
            for agent in self._agents:
                process, healthy = agent.process, _healthy(agent.port)
                if process is agent.process:
                    agent.unanswered = 0 if healthy else agent.unanswered + 1
            time.sleep(HEALTH_S)

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

    def _result(self) -> JobStatus:
        unread = ""
        try:
            view = read_run(self._config.run_directory)
        except StoreError as error:
            unread = f"the run directory cannot be read: {error.message}"
            view = RunView(open_store(self._config.run_directory), [], [])
        return result_of(
            view,
            self._config,
            launch=self._launch,
            stop_signal=self._stop_signal,
            gave_up=self._gave_up,
            codes=[agent.final_code for agent in self._agents],
            last=self._last_state,
            unread=unread,
            words=[agent.words for agent in self._agents if agent.words is not None],
        )


def result_of(
    view: RunView,
    config: TrainConfig,
    *,
    launch: str,
    stop_signal: int | None,
    gave_up: str,
    codes: list[int | None],
    last: JobState | None,
    unread: str = "",
    words: Sequence[LastWords] = (),
) -> JobStatus:
    """What became of the launch, from the run directory and from how its agents left. `last` is what the coordinator last
    told, `words` what the agents did when they left; `unread` says why the run directory, and so `view`, tells nothing."""
    own = [record for record in view.records if isinstance(record, AttemptRecord) and record.launch.id == launch]
    told = JobStatus(
        name=config.name,
        run_directory=config.run_directory,
        attempts=view.attempts or (last.attempt if last else 0),
        restarts=last.restarts if unread and last else max(len(own) - 1, 0),
    )
    done = all(code == ExitCode.DONE for code in codes)
    end = _end_of(launch, [*view.records, *([last.end] if last and last.end else [])], done=done)
    if end is not None and not gave_up:
        return replace(
            told.ended_by(end),
            code=int(ExitCode.TASK_ERROR) if end.code == ExitCode.SCRIPT_FAILED else end.code,
            traceback=end.traceback or _traceback_in(last),
            finished_before=end.launch.id != launch,
        )
    step = last.step if unread and last else view.step
    told = replace(told, step=step, metrics=last.metrics if last else {})
    if done:
        return replace(told, state="succeeded", code=int(ExitCode.DONE), reason=unread)
    told = replace(told, traceback=_traceback_in(last))
    if stop_signal is not None:
        code = 130 if stop_signal == signal.SIGINT else 128 + stop_signal
        saved = f"checkpoint at step {view.step}" if view.step else "no checkpoint yet"
        if unread:
            saved = f"{saved_in_words(last)}; {unread}"
        return replace(told, state="stopped", code=code, reason=f"stopped ({saved}); run again to go on")
    if gave_up:
        return replace(told, state="failed", code=int(ExitCode.GIVEN_UP), reason=gave_up)
    return _left_without_end(told, codes, last=last, unread=unread, words=words)


def _left_without_end(
    told: JobStatus, codes: Sequence[int | None], *, last: JobState | None, unread: str, words: Sequence[LastWords]
) -> JobStatus:
    """A failure that no record tells: by the agents' exit codes and last words."""
    code = int(next((code for code in codes if code not in (None, ExitCode.DONE)), ExitCode.GIVEN_UP) or 0)
    said = next((said for said in words if said.code == code and code in FINAL_CODES), None)
    reason = (said.reason if said else "") or (last.reason if last and code in FINAL_CODES else "")
    reason = reason or f"the agents left: {title_of(code)}"
    if unread:
        reason = f"{reason} ({unread})"
    remedy = said.own_remedy(code) if said is not None else ""
    return replace(told, state="failed", code=code, reason=reason, remedy=remedy)


def _traceback_in(last: JobState | None) -> str:
    """What the workers themselves told of their failures, where no record could."""
    exits = [worker.last_exit for worker in (last.workers if last else []) if worker.last_exit is not None]
    final = [report.traceback for report in exits if report.code in FINAL_CODES and report.traceback]
    return final[0] if final else ""


def _end_of(launch: str, records: list[AttemptRecord | EndRecord], *, done: bool) -> EndRecord | None:
    """The end of this launch, which stands whatever was asked for meanwhile. That of another launch is its end too only where
    all agents are `done`: what they were to do was done before."""
    ends = [record for record in records if isinstance(record, EndRecord)]
    own = next((end for end in ends if end.launch.id == launch), None)
    return own or (ends[-1] if ends and done else None)


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HEALTH_S)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


def _free_port() -> int:
    """A free port of 127.0.0.1 below the ephemeral range."""
    for _ in range(200):
        port = 20000 + secrets.randbelow(12768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OrchError("no port of 127.0.0.1 is free between 20000 and 32767")
