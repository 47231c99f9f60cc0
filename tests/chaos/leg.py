"""One job under chaos, from its start to its end, with its store behind a proxy and its folders on small disks."""

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from support_gcs import FakeGcs, Proxy, Verdict
from support_run import OrchRun, environment_of

from tests.chaos.disk import Disk
from trainer import faults
from trainer.checkpoint import restore
from trainer.lifeline import PARENT_VARIABLE
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, read_records
from trainer.rundir.commits import data_folder, list_commits
from trainer.rundir.lineage import line
from trainer.rundir.metrics import Sign, read_signs
from trainer.rundir.open import open_store
from trainer.rundir.store import Store

HERE = Path(__file__).parent
JOB = """
name: chaos
train:
  task: task.py:Traced
  params: {{steps: {steps}}}
  steps: {steps}
  global_batch_size: 24
  seed: 11
  evaluate: {{every: 250}}
checkpoint: {{every: {every}, keep: {keep}}}
preemption: {{grace: 20s}}
restarts: {{max: {budget}}}
"""
EVERY = 25
KEEP = 4
BUDGET = 200
SLOW, FAST = "0.8", "0.0"
LEG_S = 1500.0
PARTS_S = 20.0
"""How long a part of the job that is to be disturbed is waited for."""
OLD_S = 90.0
"""How long an old process may take to end after it was woken: its own store may be away at that time."""


@dataclass(frozen=True)
class Undisturbed:
    """The job as nobody disturbs it."""

    weights_sha256: str
    states: dict[int, str] = field(default_factory=dict)
    """Step -> digest of all that a checkpoint of it holds."""
    examples: dict[str, np.ndarray] = field(default_factory=dict)
    """The task's own variables at the end: which examples each step took."""


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Of names, types, shapes and bytes."""
    found = hashlib.sha256()
    for key, array in sorted(arrays.items()):
        found.update(f"{key} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return found.hexdigest()


class Leg:
    """A job in a folder of its own, and handles on its parts."""

    def __init__(
        self,
        folder: Path,
        workers: int,
        server: FakeGcs | None,
        number: int,
        *,
        steps: int,
        keep: int = KEEP,
        disks: bool = True,
    ) -> None:
        """`server`: keep the run directory there, behind a proxy; None for a local directory."""
        self.folder = folder
        self.workers = workers
        self.resized = False
        self.expected: Undisturbed | None = None
        self.troubles: list[str] = []
        """What was wrong while it ran."""
        self.damaged: set[str] = set()
        """Commits that were damaged, by name."""
        self.runs: list[OrchRun] = []
        self._trouble: tuple[Verdict, float] = (None, 0.0)
        self._server = server
        self._proxy: Proxy | None = None
        folder.mkdir(parents=True)
        shutil.copy(HERE / "task.py", folder)
        (folder / "job.yaml").write_text(JOB.format(steps=steps, every=EVERY, keep=keep, budget=BUDGET))
        self.faults = folder / "faults"
        self.faults.mkdir()
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._temporary_now = self.temporary
        self.pace = folder / "pace"
        self.pace.write_text(SLOW)
        self.directory = str(folder / "run")
        self._disks: dict[str, Disk] = {}
        if disks:
            self._disks["temporary"] = Disk(self.temporary)
            if server is None:
                self._disks["run"] = Disk(Path(self.directory))
        if server is not None:
            self._proxy = Proxy(server.url, self._rule)
            self.directory = f"gs://chaos/leg-{number}"
        self._woken: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._asleep: list[tuple[OrchRun, list[int]]] = []
        self._replaced: list[int] = []
        self.launch()

    def _rule(self, method: str, path: str, body: bytes) -> Verdict:
        how, until = self._trouble
        return how if time.monotonic() < until else None

    # --- starting and stopping

    def launch(self, *, workers: int | None = None, temporary: Path | None = None) -> None:
        """Start, or start again: with another number of workers, or with another folder for temporary files from now on.

        What a killed run left in its folder only the next one there finds, and clears away.
        """
        self._temporary_now = temporary or self._temporary_now
        if workers is not None:
            self.workers, self.resized = workers, True
        environment = {
            faults.VARIABLE: str(self.faults),
            "CHAOS_PACE": str(self.pace),
            "TMPDIR": str(self._temporary_now),
        }
        if self._proxy is not None:
            environment["STORAGE_EMULATOR_HOST"] = self._proxy.url
        arguments = ["--workers", str(self.workers), "--directory", self.directory]
        self.run = OrchRun(
            self.folder / "job.yaml", *arguments, cwd=self.folder, environment=environment, deadline_s=LEG_S
        )
        self.runs.append(self.run)

    def interrupt(self) -> None:
        """Ctrl-C, and wait for its end."""
        self.run.process.send_signal(signal.SIGINT)
        try:
            code = self.run.process.wait(PARTS_S + 60)
        except subprocess.TimeoutExpired:
            self.troubles.append("80 s after Ctrl-C `orch run` had not ended")
            self.run.kill_everything()
            return
        if code != 130:
            self.troubles.append(f"`orch run` ended with {code} after Ctrl-C")

    # --- its parts: None where there is none just now

    def _look(self, what: str, worker: int = 0) -> int | None:
        deadline = time.monotonic() + PARTS_S
        while time.monotonic() < deadline and self.alive:
            pid = self.run.look(what, worker)
            if pid is not None:
                return pid
            time.sleep(0.05)
        return None

    def trainer(self, worker: int) -> int | None:
        """Process id of a training process."""
        return self._look("trainer", worker)

    def agent(self, worker: int) -> int | None:
        """Process id of an agent."""
        return self._look("agent", worker)

    def spare(self, worker: int) -> int | None:
        """Process id of a spare process."""
        return self._look("spare", worker)

    def writer(self) -> int | None:
        """Process id of the writer."""
        return self._look("writer")

    @property
    def alive(self) -> bool:
        """Whether `orch run` is there."""
        return self.run.process.poll() is None

    def attempt(self) -> int:
        """The attempt of worker 0; waits until it answers."""
        found: list[int] = []

        def ask() -> bool:
            found.append(int(self.run.figure("orch_attempt")))
            return found[-1] > 0

        self.run.wait_until(ask, "worker 0 to answer")
        return found[-1]

    def training(self) -> bool:
        """Whether a block was done in the present attempt."""
        figures = self.run.figures()
        return figures.get("orch_running", 0.0) > 0 and figures.get("orch_steps_per_second", 0.0) > 0

    # --- faults that need more than a signal

    def arm(self, point: str, action: str, worker: int) -> Path:
        """A fault point of one worker; the file that is gone once it was reached."""
        return faults.arm(self.faults, point, action, worker=worker)

    def trouble(self, how: Verdict, seconds: float) -> None:
        """The store has this verdict on all requests for a while."""
        self._trouble = (how, time.monotonic() + seconds)

    def fill(self, what: str, seconds: float) -> None:
        """A disk is full for a while: `run` or `temporary`."""
        disk = self._disks[what]
        disk.fill()
        timer = threading.Timer(seconds, disk.free)
        timer.daemon = True
        timer.start()

    def damage_newest(self) -> None:
        """Flip a byte of the newest checkpoint of the line, with others behind it, while everything is down."""
        deadline = time.monotonic() + PARTS_S
        while time.monotonic() < deadline and len(self.commits()) < KEEP:
            time.sleep(0.2)
        self.run.kill_everything()
        commits = self.commits()
        if len(commits) >= KEEP:
            here = Path(self.directory)
            if self._server is not None:
                here = self._server.folder / "chaos" / self.directory.rpartition("/")[2]
            for path in (here / data_folder(commits[0])).glob("shard-*"):
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 1
                path.write_bytes(data)
                self.damaged.add(commits[0].name)
        self.launch()

    def replace_frozen_agent(self, worker: int) -> None:
        """Freeze an agent and its process, and start another one in its place, as a cluster would; `wake` wakes it."""
        pid = self.agent(worker)
        if pid is None:
            return
        environment = environment_of(pid)
        # `orch run` is frozen too: it would not let an agent that stands still live.
        os.kill(self.run.process.pid, signal.SIGSTOP)
        self._replaced = [pid, *self._below(pid)]
        for each in self._replaced:
            os.kill(each, signal.SIGSTOP)
        environment |= {
            "ORCH_UID": secrets.token_hex(8),
            "ORCH_PORT": str(_free_port()),
            PARENT_VARIABLE: str(os.getpid()),
        }
        with (self.folder / "replacements.log").open("ab") as log:
            new = subprocess.Popen(
                [sys.executable, "-P", "-m", "trainer.agent"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.folder,
                start_new_session=True,
            )
        self._woken.append((f"the agent that had taken the place of worker {worker}", new))

    def replace_frozen_run(self) -> None:
        """Freeze a whole run, and start another one where nobody sees the first one's lock; `wake` wakes it."""
        old = self.run
        pids = old.everything()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        self._asleep.append((old, pids))
        Path(self.directory, "lock").unlink(missing_ok=True)
        elsewhere = self.folder / f"tmp-{len(self.runs)}"
        elsewhere.mkdir()
        self.launch(temporary=elsewhere)

    def wake(self) -> None:
        """Wake whoever was frozen and replaced, and wait until the old ones have ended by themselves."""
        for old, pids in self._asleep:
            _continue(pids)
            try:
                code = old.process.wait(OLD_S)
            except subprocess.TimeoutExpired:
                self.troubles.append(f"{OLD_S:.0f} s after it was woken, the old run had not ended\n{old.log[-3000:]}")
                old.kill_everything()
                continue
            if code != 78:
                self.troubles.append(f"the old run ended with {code}, not with 78\n{old.log[-3000:]}")
        self._asleep.clear()
        if self._replaced:
            attempt = self.attempt()
            _continue(self._replaced)
            if not _wait_for(lambda: not _runs(self._replaced[0]), OLD_S):
                self.troubles.append(f"{OLD_S:.0f} s after it was woken, the old agent had not ended")
            _continue([self.run.process.pid])  # finds its agent gone, and starts one that takes the replacement's place
            self._replaced = []
            self.run.wait_until(lambda: self.attempt() > attempt and self.training(), "training to go on")
        for who, process in self._woken:
            try:
                code = process.wait(OLD_S)
            except subprocess.TimeoutExpired:
                self.troubles.append(f"{who} did not leave")
                process.kill()
                process.wait()
                continue
            if code != 143:
                self.troubles.append(f"{who} ended with {code}, not with 143")
        self._woken.clear()

    def _below(self, pid: int) -> list[int]:
        return [child for child in self.run.everything() if _parent(child) == pid]

    # --- the store, seen directly

    @contextlib.contextmanager
    def directly(self) -> Iterator[Store]:
        """The store of the run directory, without faults."""
        before = os.environ.get("STORAGE_EMULATOR_HOST")
        if self._server is not None:
            os.environ["STORAGE_EMULATOR_HOST"] = self._server.url
        try:
            yield open_store(self.directory)
        finally:
            if before is None:
                os.environ.pop("STORAGE_EMULATOR_HOST", None)
            else:
                os.environ["STORAGE_EMULATOR_HOST"] = before

    def records(self) -> list[AttemptRecord | EndRecord]:
        """All records."""
        with self.directly() as store:
            return read_records(store)

    def attempts(self) -> list[AttemptRecord]:
        """The records of attempts."""
        return [record for record in self.records() if isinstance(record, AttemptRecord)]

    def signs(self) -> dict[int, list[Sign]]:
        """Attempt -> what its chief's agent wrote."""
        with self.directly() as store:
            return read_signs(store, read_records(store))

    def commits(self) -> list[CommitRef]:
        """The commits of the line, the newest first."""
        with self.directly() as store:
            return line(read_records(store), list_commits(store))

    def states(self) -> dict[int, dict[str, np.ndarray]]:
        """Step -> arrays of each commit of the line, every byte of it verified."""
        with self.directly() as store:
            return {ref.step: dict(restore.load(store, ref, patience_s=5).arrays) for ref in self.commits()}

    def compare_commits(self) -> None:
        """Each commit of the line must hold what the undisturbed job's of the same step holds."""
        if self.expected is None or self.resized:
            return
        states = {step: digest(arrays) for step, arrays in self.states().items() if step in self.expected.states}
        wrong = [step for step, found in states.items() if found != self.expected.states[step]]
        if wrong:
            self.troubles.append(f"the checkpoints of steps {wrong} hold something else than the undisturbed job's")

    # --- its end

    def undisturbed(self) -> Undisturbed:
        """Let it run to its end as it is."""
        self.pace.write_text(FAST)
        result = self.run.result()
        assert result["state"] == "succeeded", result
        states = self.states()
        return Undisturbed(
            result["weights_sha256"],
            {step: digest(arrays) for step, arrays in states.items()},
            {key: array for key, array in states[max(states)].items() if key.startswith("task/")},
        )

    def quiet(self) -> None:
        """No more faults but those that come with the end: let it run there as fast as it can."""
        self._trouble = (None, 0.0)
        for disk in self._disks.values():
            disk.free()
        for path in self.faults.iterdir():
            path.unlink(missing_ok=True)
        self.pace.write_text(FAST)

    def finish(self) -> dict[str, Any]:
        """Wait for its end; the result."""
        result = self.run.result()
        for run in self.runs:
            for thread in run._threads:
                thread.join(10)
        return result

    @property
    def log(self) -> list[str]:
        """All that was printed, run after run."""
        return [text for run in self.runs for text in run.lines]

    def close(self) -> None:
        """Leave nothing running, and nothing mounted."""
        for run in self.runs:
            if run.process.poll() is None:
                run.kill_everything()
        for _, process in self._woken:
            process.kill()
            process.wait()
        if self._proxy is not None:
            self._proxy.close()
        for disk in self._disks.values():
            disk.close()


def _continue(pids: list[int]) -> None:
    for pid in reversed(pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int | None:
    found = _stat(pid)
    return int(found[1]) if found else None


def _runs(pid: int) -> bool:
    """Whether it lives: what waits to be reaped does not."""
    found = _stat(pid)
    return bool(found) and found[0] != "Z"


def _wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
