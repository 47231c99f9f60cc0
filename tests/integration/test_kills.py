"""Whatever is killed, the job ends with the weights of an undisturbed run. Real processes, a local run directory and GCS."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support_run import OrchRun

pytestmark = pytest.mark.slow

JOB = """
name: kills
train:
  task: support_tasks.py:Paced
  params: {params}
  steps: 300
  global_batch_size: 64
  seed: 3
checkpoint: {{every: 25}}
restarts: {{hang_timeout: 120s}}
"""
HOLD_AT = 200

TASKS = Path(__file__).parents[1] / "support_tasks.py"
Start = Callable[..., OrchRun]


def write_job(folder: Path, **params: object) -> Path:
    shutil.copy(TASKS, folder)
    path = folder / "job.yaml"
    path.write_text(JOB.format(params=json.dumps(params)))
    return path


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """The file without which the job does not go on behind its step 200: it is made once the job was disturbed."""
    return tmp_path / "go"


@pytest.fixture
def job_file(tmp_path: Path, go: Path) -> Path:
    return write_job(tmp_path, pause_s=0.1, hold_at=HOLD_AT, go=str(go))


@pytest.fixture
def start(tmp_path: Path, job_file: Path) -> Iterator[Start]:
    runs: list[OrchRun] = []

    def begin(*arguments: str, **options: object) -> OrchRun:
        run = OrchRun(job_file, "--workers", "2", *arguments, cwd=tmp_path, **options)  # type: ignore[arg-type]
        runs.append(run)
        return run

    yield begin
    for run in runs:
        run.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = OrchRun(write_job(folder, pause_s=0.0), "--workers", "2", cwd=folder)
    try:
        result = run.result()
    finally:
        run.close()
    assert (result["state"], result["step"], result["restarts"]) == ("succeeded", 300, 0)
    return str(result["weights_sha256"])


@pytest.mark.parametrize("index", [pytest.param(0, marks=pytest.mark.soak), pytest.param(1, marks=pytest.mark.tf219)])
def test_killed_training_process_ends_with_the_weights_of_an_undisturbed_run(
    start: Start, undisturbed: str, go: Path, index: int
) -> None:
    run = start()
    run.wait_for_step(90)
    os.kill(run.trainer(index), signal.SIGKILL)
    go.touch()
    result = run.result()
    assert result["weights_sha256"] == undisturbed
    assert (result["attempts"], result["restarts"]) == (2, 1)
    assert f"worker {index}: killed (SIGKILL)" in run.log


@pytest.mark.soak
@pytest.mark.parametrize("index", [0, 1])
def test_killed_agent_ends_with_the_weights_of_an_undisturbed_run(
    start: Start, undisturbed: str, go: Path, index: int
) -> None:
    run = start()
    run.wait_for_step(90)
    os.kill(run.agent(index), signal.SIGKILL)
    go.touch()
    result = run.result()
    assert result["weights_sha256"] == undisturbed
    assert result["attempts"] == 2


@pytest.mark.soak
def test_everything_killed_at_once_goes_on_when_run_again(
    start: Start, undisturbed: str, go: Path, tmp_path: Path
) -> None:
    first = start()
    first.wait_for_commit(75)
    first.kill_everything()
    go.touch()
    second = start()
    result = second.result()
    assert result["weights_sha256"] == undisturbed
    record = json.loads((tmp_path / "runs/kills/attempts/2.json").read_text())
    assert record["restore"]["step"] >= 75
    assert result["restarts"] == 0


@pytest.mark.parametrize(
    "victim",
    [
        *(pytest.param(f"training process of worker {index}", marks=pytest.mark.soak) for index in (0, 1)),
        pytest.param("agent", marks=pytest.mark.soak),
        pytest.param("everything", marks=pytest.mark.soak),
    ],
)
def test_kills_with_the_run_directory_on_gcs(
    start: Start, undisturbed: str, go: Path, gcs_url: str, victim: str
) -> None:
    run = start("--directory", gcs_url)
    run.wait_for_commit(50)
    if victim == "everything":
        run.kill_everything()
        run = start("--directory", gcs_url)
    elif victim == "agent":
        os.kill(run.agent(0), signal.SIGKILL)
    else:
        os.kill(run.trainer(int(victim[-1])), signal.SIGKILL)
    go.touch()
    result = run.result()
    assert result["weights_sha256"] == undisturbed
    assert result["attempts"] == 2


@pytest.mark.soak
@pytest.mark.soak_ci
def test_interrupted_run_commits_ends_with_130_and_goes_on(
    start: Start, undisturbed: str, go: Path, tmp_path: Path
) -> None:
    first = start()
    first.wait_for_step(60)
    threading.Timer(1.0, go.touch).start()  # it is held, so that it hears of the stop before its end
    os.kill(first.process.pid, signal.SIGINT)
    stopped = first.result()
    assert (stopped["state"], stopped["code"]) == ("stopped", 130)
    assert stopped["step"] >= 60
    # The stop itself was saved: the step is none of the regular ones, or the newest of them.
    commits = sorted((tmp_path / "runs/kills/checkpoints/commits").iterdir(), key=lambda path: path.stat().st_mtime)
    assert commits[-1].name.startswith(f"step-{stopped['step']}.")
    result = start().result()
    assert result["weights_sha256"] == undisturbed
