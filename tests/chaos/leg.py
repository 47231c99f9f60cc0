"""One job under chaos, from its start to its end, with its store behind a proxy."""

import contextlib
import os
import shutil
import time
from pathlib import Path

from support_gcs import FakeGcs, Proxy, Verdict
from support_run import OrchRun, command_of, environment_of

from trainer.rundir.attempts import AttemptRecord, EndRecord, read_records
from trainer.rundir.commits import data_folder, list_commits
from trainer.rundir.lineage import line
from trainer.rundir.store import open_store

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
checkpoint: {{every: 25, keep: 4}}
preemption: {{grace: 20s}}
restarts: {{max: 200}}
"""
STEPS = 1500
SLOW, FAST = "0.5", "0.0"
LEG_S = 900.0


class Leg:
    """A job in a folder of its own, and handles on its parts."""

    def __init__(self, folder: Path, workers: int, server: FakeGcs | None, number: int) -> None:
        """`server`: keep the run directory there, behind a proxy; None for a local directory."""
        self.folder = folder
        self.workers = workers
        self.store_fault: Verdict = None
        self._server = server
        self._proxy: Proxy | None = None
        folder.mkdir(parents=True)
        shutil.copy(HERE / "task.py", folder)
        (folder / "job.yaml").write_text(JOB.format(steps=STEPS))
        self.faults = folder / "faults"
        self.faults.mkdir()
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.pace = folder / "pace"
        self.pace.write_text(SLOW)
        self.directory = str(folder / "run")
        if server is not None:
            self._proxy = Proxy(server.url, self._rule)
            self.directory = f"gs://chaos/leg-{number}"
        self.acknowledged: list[str] = []
        self.log: list[str] = []
        self.run: OrchRun
        self._launched = False
        self.launch()

    def _rule(self, method: str, path: str, body: bytes) -> Verdict:
        return self.store_fault

    def launch(self) -> None:
        """Start, or start again."""
        if self._launched:
            self._keep_log()
        self._launched = True
        environment = {
            "ORCH_FAULTS": str(self.faults),
            "CHAOS_PACE": str(self.pace),
            "TMPDIR": str(self.temporary),
        }
        if self._proxy is not None:
            environment["STORAGE_EMULATOR_HOST"] = self._proxy.url
        arguments = ["--workers", str(self.workers), "--directory", self.directory]
        self.run = OrchRun(
            self.folder / "job.yaml", *arguments, cwd=self.folder, environment=environment, deadline_s=LEG_S
        )

    def _keep_log(self) -> None:
        for thread in self.run._threads:
            thread.join(10)
        self.log += self.run.lines

    # --- its parts: None where there is none just now

    def _pid(self, find: str, *arguments: int) -> int | None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.alive:
            pid = self.run.look(find, *arguments)
            if pid is not None:
                return pid
            time.sleep(0.05)
        return None

    def trainer(self, worker: int) -> int | None:
        return self._pid("trainer", worker)

    def agent(self, worker: int) -> int | None:
        return self._pid("agent", worker)

    def writer(self) -> int | None:
        return self._pid("writer")

    @property
    def alive(self) -> bool:
        return self.run.process.poll() is None

    def figure(self, name: str) -> float:
        return self.run.figure(name)

    def training(self) -> bool:
        """Whether a block was done in the present attempt, and its state is past what it restored."""
        return self.figure("orch_running") > 0 and self.figure("orch_steps_per_second") > 0

    # --- the store, seen directly

    @contextlib.contextmanager
    def _directly(self):  # type: ignore[no-untyped-def]
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
        with self._directly() as store:
            return read_records(store)

    def damage_newest(self) -> str:
        """Flip a byte of the newest checkpoint of the line, if three others stand behind it, while everything is down."""
        self.run.kill_everything()
        with self._directly() as store:
            commits = line(read_records(store), list_commits(store))
            told = ""
            if len(commits) >= 4:
                name = data_folder(commits[0])
                root = (
                    self._server.folder / "chaos" / self.directory.rpartition("/")[2]
                    if self._server
                    else Path(self.directory)
                )
                for path in (root / name).glob("shard-*"):
                    data = bytearray(path.read_bytes())
                    data[len(data) // 2] ^= 1
                    path.write_bytes(data)
                    told = f"{commits[0].name}, and all killed"
        self.launch()
        return told

    # --- its end

    def finish(self) -> dict[str, object]:
        """No more faults: let it run to its end as fast as it can."""
        self.store_fault = None
        for path in self.faults.iterdir():
            path.unlink(missing_ok=True)
        self.pace.write_text(FAST)
        result = self.run.result()
        self._keep_log()
        if self._proxy is not None:
            self._proxy.close()
        return result

    def close(self) -> None:
        """Leave nothing running."""
        if self.alive:
            self.run.kill_everything()

    def left_behind(self) -> list[str]:
        """Processes and files that should be gone."""
        mine = f"ORCH_FAULTS={self.faults}"
        found = [
            f"process {pid}: {command_of(pid)}"
            for pid in map(int, filter(str.isdecimal, os.listdir("/proc")))
            if f"ORCH_FAULTS={environment_of(pid).get('ORCH_FAULTS')}" == mine
        ]
        found += [f"file {path}" for path in self.temporary.rglob("*") if not path.is_dir() and path.suffix != ".lock"]
        if self._server is None:
            found += [f"file {path}" for path in Path(self.directory, "tmp").glob("*")]
        return found
