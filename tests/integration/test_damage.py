"""Damaged checkpoints: the previous one of the line is used and the log says so; with none left the job stops with 78."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support_gcs import FakeGcs, Proxy
from support_run import OrchRun

pytestmark = pytest.mark.slow

JOB = """
name: damage
train:
  task: trainer.tasks.digits:Digits
  steps: {steps}
  global_batch_size: 64
  seed: 3
  compile: graph
checkpoint: {{every: 100, keep: 5}}
"""


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def remove(path: Path) -> None:
    path.unlink()


@pytest.fixture
def run_once(tmp_path: Path) -> Iterator[Callable[..., OrchRun]]:
    runs: list[OrchRun] = []

    def begin(steps: int, *arguments: str, **options: object) -> OrchRun:
        (tmp_path / "job.yaml").write_text(JOB.format(steps=steps))
        run = OrchRun(tmp_path / "job.yaml", *arguments, cwd=tmp_path, **options)  # type: ignore[arg-type]
        runs.append(run)
        return run

    yield begin
    for run in runs:
        run.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "job.yaml").write_text(JOB.format(steps=600))
    run = OrchRun(folder / "job.yaml", cwd=folder)
    try:
        return str(run.result()["weights_sha256"])
    finally:
        run.close()


@pytest.fixture(scope="module")
def half_way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a job of 300 steps that has succeeded."""
    folder = tmp_path_factory.mktemp("half-way")
    (folder / "job.yaml").write_text(JOB.format(steps=300))
    run = OrchRun(folder / "job.yaml", cwd=folder)
    try:
        assert run.result()["state"] == "succeeded"
    finally:
        run.close()
    return folder / "runs/damage"


@pytest.fixture
def trained(half_way: Path, tmp_path: Path) -> Path:
    """A copy of it, where the jobs of this test look for theirs."""
    return Path(shutil.copytree(half_way, tmp_path / "runs/damage"))


def shards(folder: Path, step: int) -> list[Path]:
    return sorted((folder / "runs/damage/checkpoints/data").glob(f"attempt-*/step-{step}/shard-*"))


@pytest.mark.parametrize("harm", [flip, *(pytest.param(harm, marks=pytest.mark.soak) for harm in (truncate, remove))])
def test_damaged_newest_checkpoint_falls_back_to_the_previous_one(
    run_once: Callable[..., OrchRun], undisturbed: str, trained: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    commits = (trained / "checkpoints/commits").glob("*.json")
    steps = sorted(int(path.name.split(".")[0].removeprefix("step-")) for path in commits)
    assert steps[-1] == 300
    for path in shards(tmp_path, 300):
        harm(path)
    run = run_once(600)
    result = run.result()
    assert result["weights_sha256"] == undisturbed
    assert "step-300.attempt-1" in run.log, "the log names the damaged checkpoint"
    attempts = tmp_path / "runs/damage/attempts"
    last = json.loads((attempts / f"{result['attempts']}.json").read_text())
    assert last["bad"] == ["step-300.attempt-1"]
    assert last["restore"]["step"] == steps[-2]


@pytest.mark.soak
def test_damaged_commit_falls_back_too(run_once: Callable[..., OrchRun], undisturbed: str, trained: Path) -> None:
    flip(trained / "checkpoints/commits/step-300.attempt-1.json")
    assert run_once(600).result()["weights_sha256"] == undisturbed


@pytest.mark.soak
@pytest.mark.soak_ci
def test_all_damaged_ends_with_78_and_overwrites_nothing(run_once: Callable[..., OrchRun], trained: Path) -> None:
    files = sorted((trained / "checkpoints").rglob("*.*"))
    for path in files:
        if path.suffix == ".safetensors":
            flip(path)
    before = {path: path.read_bytes() for path in files}
    run = run_once(600)
    result = run.result()
    assert (result["state"], result["code"]) == ("failed", 78)
    assert "no usable checkpoint is left" in result["reason"]
    assert {path: path.read_bytes() for path in sorted((trained / "checkpoints").rglob("*.*"))} == before


@pytest.mark.soak
@pytest.mark.soak_ci
def test_damaged_read_on_one_worker_never_splits_the_replicas(
    run_once: Callable[..., OrchRun], gcs_server: FakeGcs, gcs_url: str, tmp_path: Path
) -> None:
    """Worker 1 reads through a proxy that damages the newest checkpoint's shard for it alone."""
    whole = run_once(600, "--workers", "2", "--directory", gcs_url + "-whole").result()
    run_once(300, "--workers", "2", "--directory", gcs_url).result()
    damaged: list[str] = []

    def rule(method: str, path: str, body: bytes) -> str | None:
        if method == "GET" and "step-300" in path and "shard" in path and "alt=media" in path:
            damaged.append(path)
            return "flip"
        return None

    proxy = Proxy(gcs_server.url, rule)
    try:
        # A sitecustomize of worker 1 alone points its processes at the proxy: one job file, two views of the store.
        (tmp_path / "site").mkdir()
        (tmp_path / "site/sitecustomize.py").write_text(
            "import os\n"
            "if os.environ.get('ORCH_INDEX') == '1':\n"
            f"    os.environ['STORAGE_EMULATOR_HOST'] = {proxy.url!r}\n"
        )
        run = run_once(
            600, "--workers", "2", "--directory", gcs_url, environment={"PYTHONPATH": str(tmp_path / "site")}
        )
        result = run.result()
    finally:
        proxy.close()
    assert damaged, "worker 1 read through the proxy"
    assert result["weights_sha256"] == whole["weights_sha256"]
    assert "step-300.attempt-1" in run.log


def test_second_run_on_one_directory_says_who_holds_it(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: damage\ntrain: {command: [sleep, '600']}\n")
    first = OrchRun(tmp_path / "job.yaml", cwd=tmp_path)
    try:
        first.wait_until((tmp_path / "runs/damage/attempts/1.json").exists, "the first attempt")
        second = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli.main", "run", "job.yaml"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 78
        assert f"process {first.process.pid}" in second.stderr
        assert "Traceback" not in second.stderr
        os.kill(first.process.pid, signal.SIGTERM)
        assert first.result()["code"] == 143
    finally:
        first.close()


@pytest.mark.soak
def test_finished_run_reports_its_result_and_goes_on_with_more_steps(
    run_once: Callable[..., OrchRun], undisturbed: str, tmp_path: Path
) -> None:
    first = run_once(300).result()
    again = run_once(300)
    result = again.result()
    assert result["finished_before"]
    assert {**result, "restarts": 0, "finished_before": False} == first
    assert not (tmp_path / "runs/damage/attempts/3.json").exists(), "nothing was trained"
    more = run_once(600).result()
    assert more["weights_sha256"] == undisturbed
    assert more["step"] == 600


@pytest.mark.soak
def test_fresh_starts_over_and_says_what_it_leaves_alone(run_once: Callable[..., OrchRun], tmp_path: Path) -> None:
    first = run_once(300).result()
    before = sorted((tmp_path / "runs/damage/checkpoints/commits").iterdir())
    run = run_once(300, "--fresh")
    result = run.result()
    assert result["weights_sha256"] == first["weights_sha256"]
    assert result["attempts"] == 3
    assert "checkpoints stay in" in run.log
    assert set(before) <= set((tmp_path / "runs/damage/checkpoints/commits").iterdir())
