"""Agents started by hand, as a cluster starts pods: several of one index may live at once, frozen or not.

`Pods.route` is what the name of worker 0 is on a cluster: agents reach the newest worker 0 by it, and connections that they
kept go on to the old one. `PacedDigits` trains no further than a file says.
"""

import contextlib
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support_run import _parents, command_of

from trainer.config import TrainConfig
from trainer.lifeline import PARENT_VARIABLE
from trainer.rundir.attempts import CommitRef, read_records
from trainer.rundir.commits import commit_name, data_folder, list_commits
from trainer.rundir.lineage import line
from trainer.rundir.open import open_store
from trainer.rundir.store import Store
from trainer.tasks.digits import Digits

DEADLINE_S = 150.0


class PacedDigits(Digits):
    """Digits, but at the end of a block it waits while it has done as many steps as the file `limit` says."""

    def __init__(self, limit: str) -> None:
        super().__init__()
        self._limit = Path(limit)

    def callbacks(self) -> list[Any]:
        import keras

        limit = self._limit

        class Pace(keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: object = None) -> None:
                while int(self.model.optimizer.iterations) >= int(limit.read_text()):
                    time.sleep(0.05)

        return [Pace()]


class Route:
    """Forwards every new connection to the port that `to` names at that moment."""

    def __init__(self) -> None:
        self.to: int | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(near,), daemon=True).start()

    def _forward(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            if self.to is None:
                return
            with socket.create_connection(("127.0.0.1", self.to)) as far, selectors.DefaultSelector() as selector:
                selector.register(near, selectors.EVENT_READ, far)
                selector.register(far, selectors.EVENT_READ, near)
                while True:
                    for key, _ in selector.select():
                        assert isinstance(key.fileobj, socket.socket)
                        data = key.fileobj.recv(1 << 16)
                        if not data:
                            return
                        key.data.sendall(data)

    def close(self) -> None:
        self._listener.close()


class AgentProcess:
    """One agent, with the processes below it."""

    def __init__(self, index: int, environment: dict[str, str], log: Path) -> None:
        self.index = index
        self._port = environment["ORCH_PORT"]
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "trainer.agent"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def figure(self, name: str) -> float:
        """A figure of its /metrics; 0 while there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=2) as answer:
                text = answer.read().decode()
        except OSError:
            return 0.0
        return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + "{")), 0.0)

    def tree(self) -> list[int]:
        """Its process ids, its own first."""
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in _parents().items() if parent == pid]
        return found

    def child(self, module: str) -> int | None:
        return next((pid for pid in self.tree() if command_of(pid).rstrip().endswith(module)), None)

    def signal(self, number: int) -> None:
        """To all of its processes."""
        for pid in self.tree():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Pods:
    """The agents of one launch or of several, on one run directory."""

    def __init__(self, folder: Path, directory: str, workers: int, **train: Any) -> None:
        self.folder = folder
        self.store: Store = open_store(directory)
        self.limit = folder / "limit"
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        self.train_until(10**9)
        section = {"task": "support_pods:PacedDigits", "params": {"limit": str(self.limit)}, "seed": 3, **train}
        self._config = TrainConfig.model_validate(
            {
                "name": "pods",
                "train": section if "command" not in train else train,
                "checkpoint": {"every": 100},
                # A process that waits for the limit is silent.
                "restarts": {"hang_timeout": 120.0},
                "run_directory": directory,
                "workers": workers,
            }
        )
        (folder / "config.json").write_text(self._config.model_dump_json())
        (folder / "token").write_text(secrets.token_hex(16))
        self.routes: dict[str, Route] = {}
        self.agents: list[AgentProcess] = []
        self._deadline = time.monotonic() + DEADLINE_S

    def start(self, index: int, launch: str = "launch") -> AgentProcess:
        """A new pod of this index; a new worker 0 takes over the name."""
        route = self.routes.setdefault(launch, Route())
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        if index == 0:
            route.to = port
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parent), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
            ),
            "ORCH_CONFIG": str(self.folder / "config.json"),
            "ORCH_TOKEN_FILE": str(self.folder / "token"),
            "ORCH_INDEX": str(index),
            "ORCH_UID": f"{launch}-{index}-{len(self.agents)}",
            "ORCH_LAUNCH": launch,
            "ORCH_COORDINATOR": f"127.0.0.1:{route.port}",
            "ORCH_ADDRESS": "127.0.0.1",
            "ORCH_PORT": str(port),
            "ORCH_FAULTS": str(self.faults),
            PARENT_VARIABLE: str(os.getpid()),
        }
        agent = AgentProcess(index, environment, self.folder / f"agent-{len(self.agents)}.log")
        self.agents.append(agent)
        return agent

    def train_until(self, step: int) -> None:
        """No block begins after this step."""
        written = self.limit.with_suffix(".new")
        written.write_text(str(step))
        written.replace(self.limit)

    def commits(self) -> list[CommitRef]:
        return list_commits(self.store)

    def line(self) -> list[CommitRef]:
        """The commits that count, newest first."""
        return line(read_records(self.store), self.commits())

    def needed(self) -> dict[str, int]:
        """Name and generation of what must stay whatever old processes do: records, and the two newest checkpoints."""
        entries = self.store.list("attempts/")
        for ref in self.line()[:2]:
            entries += self.store.list(commit_name(ref)) + self.store.list(data_folder(ref))
        return {entry.name: entry.generation for entry in entries}

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        while not condition():
            if time.monotonic() > self._deadline:
                logs = "\n".join(f"--- agent of worker {agent.index}\n{agent.log}" for agent in self.agents)
                raise AssertionError(f"waited too long for {what}\n{logs}")
            time.sleep(0.05)

    def wait_for_commits(self, count: int, attempt: int, step: int = 1) -> None:
        """Until so many commits of an attempt exist, of this step or later ones: any save may be skipped."""

        def there() -> bool:
            return sum(ref.attempt == attempt and ref.step >= step for ref in self.commits()) >= count

        self.wait_until(there, f"{count} commits of attempt {attempt}")

    def wait_for_step(self, agent: AgentProcess, step: int, attempt: int) -> None:
        """Until its process reported this step: at the limit at most one save is still going."""
        self.wait_until(
            lambda: agent.figure("orch_attempt") >= attempt and agent.figure("orch_step") >= step,
            f"step {step} of attempt {attempt}",
        )

    def wait_until_stopped(self, agent: AgentProcess, module: str) -> int:
        """Until this process stands still; its id."""
        found: list[int] = []

        def stands_still() -> bool:
            pid = agent.child(module)
            with contextlib.suppress(OSError):
                if pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T":
                    found.append(pid)
            return bool(found)

        self.wait_until(stands_still, f"{module} of worker {agent.index} to be stopped")
        return found[0]

    def leaves(self, agent: AgentProcess) -> int:
        """Wait until the agent has left; its exit code."""
        self.wait_until(lambda: agent.process.poll() is not None, f"the agent of worker {agent.index} to leave")
        assert agent.process.returncode is not None
        return agent.process.returncode

    def close(self) -> None:
        """Kill what is left; children die with their agents."""
        for agent in self.agents:
            if agent.process.poll() is None:
                agent.signal(signal.SIGKILL)
                agent.process.wait()
        for route in self.routes.values():
            route.close()
