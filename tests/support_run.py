"""Starts `orch run` for real, finds its processes, kills some, and waits with a deadline that dumps stacks.

Nothing is mocked: agents, training processes and writers are found in /proc by their parents and killed by their ids.
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.agent.link import CoordinatorClient
from trainer.wire.coordinator import JobState
from trainer.wire.process import SPARE

DEADLINE_S = 150.0


class DeadlineExceeded(AssertionError):
    """A run did not do in time what the test waits for."""


class OrchRun:
    """One `orch run` as a process of its own."""

    def __init__(
        self,
        job_file: Path,
        *arguments: str,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        read: bool = True,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """`read=False`: nobody reads what it prints."""
        self._deadline = time.monotonic() + deadline_s
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli.main", "run", str(job_file), "-o", "json", *arguments],
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._stdout = ""
        self._threads: list[threading.Thread] = []
        if read:
            self.start_reading()

    def start_reading(self) -> None:
        """Read stdout and stderr from threads."""
        self._threads = [
            threading.Thread(target=self._read_stderr, daemon=True),
            threading.Thread(target=self._read_stdout, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        self._stdout = self.process.stdout.read()

    @property
    def log(self) -> str:
        """What it printed to stderr so far."""
        return "\n".join(self.lines)

    # --- its processes

    def agent(self, index: int) -> int:
        """Process id of the agent of a worker; waits for it."""
        return self._find(lambda: self.look("agent", index))

    def trainer(self, index: int) -> int:
        """Process id of the training process of a worker; waits for it."""
        return self._find(lambda: self.look("trainer", index))

    def spare(self, index: int) -> int:
        """Process id of the spare process of a worker; waits for it."""
        return self._find(lambda: self.look("spare", index))

    def writer(self) -> int:
        """Process id of the chief's writer; waits for it."""
        return self._find(lambda: self.look("writer"))

    def _child(self, index: int, module: str, *, spare: bool) -> int | None:
        agent = children_of(self.process.pid, "trainer.agent", index)
        return children_of(agent, module, None, spare=spare) if agent else None

    def everything(self) -> list[int]:
        """All process ids of the run, this one's first."""
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in _parents().items() if parent == pid]
        return found

    def kill_everything(self) -> None:
        """SIGKILL to every process of the run, no one first asked."""
        for pid in self.everything():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def look(self, what: str, worker: int = 0) -> int | None:
        """The process id of an `agent`, a `trainer`, a `spare` or the `writer` as of now, or None."""
        if what == "agent":
            return children_of(self.process.pid, "trainer.agent", worker)
        modules = {"trainer": "trainer.process", "spare": "trainer.process", "writer": "trainer.checkpoint.writer"}
        return self._child(worker, modules[what], spare=what == "spare")

    def _find(self, find: Callable[[], int | None]) -> int:
        found: list[int] = []

        def look() -> bool:
            pid = find()
            if pid is not None:
                found.append(pid)
            return pid is not None

        self.wait_until(look, "a process to appear")
        return found[-1]

    # --- waiting

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until the condition holds; past the deadline or the run's own end this fails with stacks and log."""
        while not condition():
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the run ended with {self.process.returncode} while waiting for {what}\n{self.log}"
                )
            self._check_deadline(what)
            time.sleep(0.02)

    def figures(self) -> dict[str, float]:
        """The figures of worker 0's /metrics, by name; empty while there are none."""
        agent = children_of(self.process.pid, "trainer.agent", 0)
        port = environment_of(agent).get("ORCH_PORT") if agent else None
        if port is None:
            return {}
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
                text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            return {}
        lines = [line for line in text.splitlines() if "{" in line]
        return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def figure(self, name: str) -> float:
        """A figure of worker 0's /metrics; 0 while there is none."""
        return self.figures().get(name, 0.0)

    def state(self) -> JobState:
        """What the coordinator tells; waits for it."""
        found: list[JobState] = []

        def ask() -> bool:
            environment = environment_of(self.agent(0))
            try:
                token = Path(environment["ORCH_TOKEN_FILE"]).read_text()
                found.append(CoordinatorClient(("127.0.0.1", int(environment["ORCH_PORT"])), token).state())
            except (OSError, KeyError, ValueError, http.client.HTTPException):
                return False
            return True

        self.wait_until(ask, "the coordinator's answer")
        return found[-1]

    def wait_for_step(self, step: int, *, attempt: int = 1) -> None:
        """Until this step of this attempt, or of a later one, was reported."""
        self.wait_until(
            lambda: self.figure("orch_attempt") >= attempt and self.figure("orch_step") >= step,
            f"step {step} of attempt {attempt}",
        )

    def wait_for_commit(self, step: int) -> None:
        """Until a commit of at least this step was acknowledged in the present attempt."""
        self.wait_until(lambda: self.figure("orch_last_commit_step") >= step, f"a commit of step {step}")

    def result(self) -> dict[str, Any]:
        """Wait for the end; the JSON object."""
        stdout = self.printed()
        try:
            parsed: dict[str, Any] = json.loads(stdout)
        except ValueError:
            raise AssertionError(f"no JSON on stdout: {stdout!r}\n{self.log}") from None
        assert parsed["code"] == self.process.returncode
        return parsed

    def printed(self) -> str:
        """Wait for the end; what was printed to stdout."""
        if not self._threads:
            self.start_reading()
        while self.process.poll() is None:
            self._check_deadline("the run to end")
            time.sleep(0.05)
        for thread in self._threads:
            thread.join(10)
        return self._stdout

    def _check_deadline(self, what: str) -> None:
        if time.monotonic() < self._deadline:
            return
        workers = [pid for pid in self.everything() if "trainer.process" in command_of(pid)]
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        time.sleep(1.5)  # for the stacks to reach the log
        self.kill_everything()
        raise DeadlineExceeded(f"waited too long for {what}\n{self.log}")

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.kill_everything()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None and not self._threads:
                stream.close()


def _parents() -> dict[int, int]:
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                found[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    return found


def command_of(pid: int) -> str:
    """The command line of a process, or an empty string."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def name_of(pid: int) -> str:
    """The name that a process has given itself, or an empty string."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def environment_of(pid: int) -> dict[str, str]:
    """The environment a process was started with."""
    try:
        text = Path(f"/proc/{pid}/environ").read_text()
    except OSError:
        return {}
    return dict(item.split("=", 1) for item in text.split("\0") if "=" in item)


def children_of(parent: int, module: str, index: int | None, *, spare: bool = False) -> int | None:
    """The child of `parent` that runs this module, for this worker; of training processes the one that trains, or the spare."""
    found = [
        pid
        for pid, its_parent in _parents().items()
        if its_parent == parent
        and command_of(pid).rstrip().endswith(module)
        and (index is None or environment_of(pid).get("ORCH_INDEX") == str(index))
        and (name_of(pid) == SPARE) == spare
    ]
    # A process that was just started has no name yet, and may be a spare.
    return min(found, key=lambda pid: name_of(pid) != "orch-train", default=None)
