"""The agents of a job on this machine: kept alive as the Job controller keeps pods, their lines shown, until all have left."""

import contextlib
import http.client
import os
import re
import secrets
import selectors
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.local.printer import Printer
from trainer.agent.child import Lines
from trainer.agent.stopped import STOPPED_S, Stopped
from trainer.errors import OrchError
from trainer.exit_codes import FINAL_CODES, ExitCode, code_of_status, title_of
from trainer.retry import Backoff
from trainer.wire.termination import LastWords

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
class LocalAgent:
    """One of them, and what is known of it."""

    index: int
    process: "subprocess.Popen[bytes] | None" = None
    lines: Lines = field(default_factory=Lines)
    started_s: float = 0.0
    restart_at_s: float = 0.0
    deaths: Backoff = field(default_factory=lambda: Backoff(0.1, 10.0))
    """In a row, without a minute of life between them."""
    final_code: int | None = None
    hurried: bool = False
    port: int = 0
    unanswered: int = 0
    """Questions after its health in a row that it left unanswered; below 0 while it starts."""
    stopped: Stopped | None = None
    """Whether a signal has stopped it."""
    words: LastWords | None = None
    """Its last message, once it has left for good."""


class Agents:
    """All agents of one launch."""

    gave_up = ""
    """Why they are not started again any more."""

    def __init__(self, count: int, environment: Mapping[str, str], port: int, printer: Printer, *, python: str) -> None:
        """
        Args:
            environment: of all of them, with TMPDIR.
            port: of worker 0's, which the others know.
        """
        self.all = [LocalAgent(index) for index in range(count)]
        self._environment = environment
        self._port = port
        self._printer = printer
        self._python = python
        self._selector = selectors.DefaultSelector()
        self._first_final_s: float | None = None
        self._over = False

    @property
    def left(self) -> bool:
        """Whether all have left for good."""
        return all(agent.final_code is not None for agent in self.all)

    @property
    def codes(self) -> list[int | None]:
        """What they left with; None for one that was killed."""
        return [agent.final_code for agent in self.all]

    @property
    def words(self) -> list[LastWords]:
        """The last messages of those that have left."""
        return [agent.words for agent in self.all if agent.words is not None]

    def start(self) -> None:
        """Start all of them."""
        for agent in self.all:
            self._start(agent)

    def show_lines(self) -> None:
        """Print what they have said since; waits a little for it."""
        for key, _ in self._selector.select(0.1):
            self._read(key.data)

    def keep_alive(self, *, stopping: bool) -> None:
        """Start those again that died, and end those that stand still. `stopping`: they were asked to end."""
        for agent in self.all:
            self._keep_alive(agent, stopping=stopping)

    def _start(self, agent: LocalAgent) -> None:
        # Only the first worker's port must be known to others; the rest serve health and figures on any free one.
        agent.port = self._port if agent.index == 0 else free_port()
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

    def _words_of(self, agent: LocalAgent) -> Path:
        """Where an agent keeps its last message, as in a pod."""
        return Path(self._environment["TMPDIR"]) / f"last-words-{agent.index}"

    def _read(self, agent: LocalAgent) -> None:
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

    def terminate(self) -> None:
        """Ask all to end, with a checkpoint."""
        for agent in self.all:
            if agent.process is not None and agent.process.poll() is None:
                agent.process.terminate()

    def hurry_the_late(self) -> None:
        """Once an agent has left with the job's end, ask those to leave that have had time enough to learn of it."""
        if self._first_final_s is None:
            return
        for agent in self.all:
            since_s = max(self._first_final_s, agent.started_s)
            if agent.process is not None and not agent.hurried and time.monotonic() - since_s > END_S:
                agent.hurried = True
                agent.process.terminate()

    def _keep_alive(self, agent: LocalAgent, *, stopping: bool) -> None:
        time_s = time.monotonic()
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

    def _died(self, agent: LocalAgent, how: str) -> None:
        """Start it again, later each time; after too many deaths in a row give up."""
        time_s = time.monotonic()
        if time_s - agent.started_s > STABLE_S:
            agent.deaths.reset()
        agent.restart_at_s = time_s + agent.deaths.next_s()
        count = agent.deaths.failures
        if count > DEATHS_MAX:
            self.gave_up = f"the agent of worker {agent.index} died {count} times in a row; the last one {how}"
            return
        self._printer.line(f"[worker {agent.index}] its agent {how}; another one takes its place")

    def _forget(self, agent: LocalAgent) -> None:
        process, agent.process = agent.process, None
        if process is not None and process.stdout is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(process.stdout)
            process.stdout.close()

    def kill_all(self) -> None:
        """End them at once."""
        self._over = True
        for agent in self.all:
            if agent.process is not None:
                agent.process.kill()
                agent.process.wait()
                self._forget(agent)

    def ask_for_health(self) -> None:
        """What no Job controller does for us here, in a thread of its own: find agents that live and stand still."""
        while not self._over:
            for agent in self.all:
                process, healthy = agent.process, _healthy(agent.port)
                if process is agent.process:
                    agent.unanswered = 0 if healthy else agent.unanswered + 1
            time.sleep(HEALTH_S)


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HEALTH_S)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


def free_port() -> int:
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
