"""Jobs of paced tasks with fault points that can be armed while they run."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support_run import DEADLINE_S, OrchRun

from trainer.checkpoint import restore
from trainer.rundir.commits import list_commits
from trainer.rundir.open import open_store

HERE = Path(__file__).parent


class Disturbed(OrchRun):
    """An `orch run` of a task of support_tasks.py, with its fault points in `faults`."""

    faults: Path
    directory: Path

    @classmethod
    @contextlib.contextmanager
    def room(cls, folder: Path, job: str) -> Iterator[Callable[..., "Disturbed"]]:
        """Gives what starts jobs in `folder`, from the text of a job file with {task}, {params}, ...; ends them all."""
        shutil.copy(HERE / "support_tasks.py", folder)
        faults = folder / "faults"
        faults.mkdir()
        runs: list[Disturbed] = []

        def begin(
            task: str,
            *arguments: str,
            workers: int,
            steps: int = 400,
            params: dict[str, Any] | None = None,
            budget: int = 20,
            hang: str = "auto",
            grace: str = "auto",
            environment: dict[str, str] | None = None,
            deadline_s: float = DEADLINE_S,
        ) -> "Disturbed":
            text = job.format(
                task=task, params=json.dumps(params or {}), steps=steps, budget=budget, hang=hang, grace=grace
            )
            (folder / "job.yaml").write_text(text)
            run = cls(
                folder / "job.yaml",
                "--workers",
                str(workers),
                *arguments,
                cwd=folder,
                environment={"ORCH_FAULTS": str(faults), **(environment or {})},
                deadline_s=deadline_s,
            )
            run.faults, run.directory = faults, folder / "runs" / text.split("name: ")[1].split()[0]
            runs.append(run)
            return run

        try:
            yield begin
        finally:
            for run in runs:
                run.close()

    def logged(self, worker: int) -> str:
        """All that one worker's processes and agent left in the run directory."""
        files = sorted(self.directory.glob(f"logs/worker-{worker}/*/segment-*.log"))
        return "\n".join(path.read_text(errors="replace") for path in files)


def verified_commits(directory: Path) -> int:
    """How many commits a local run directory has, after reading and verifying each of them."""
    store = open_store(str(directory))
    commits = list_commits(store)
    for ref in commits:
        restore.verify(store, ref)
    return len(commits)
