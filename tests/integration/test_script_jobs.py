"""`script:` jobs: the script runs in a training process that its agent knows, in the environment that its writer expects."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_run import OrchRun, name_of

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "examples/fit/train.py"


@pytest.fixture
def run_script(tmp_path: Path) -> Iterator[Callable[..., OrchRun]]:
    runs: list[OrchRun] = []

    def begin(source: str, *arguments: str, train: dict[str, Any] | None = None) -> OrchRun:
        (tmp_path / "job").mkdir()
        (tmp_path / "job" / "train.py").write_text(source)
        job = {"name": "script", "train": {"script": "train.py", **(train or {})}}
        (tmp_path / "job" / "job.yaml").write_text(json.dumps(job))
        run = OrchRun(tmp_path / "job" / "job.yaml", *arguments, cwd=tmp_path, deadline_s=120)
        runs.append(run)
        return run

    yield begin
    for run in runs:
        run.close()


SAYS_WHERE_IT_IS = """
import json, os, sys
import helper
with open(f"told-{os.environ['ORCH_INDEX']}.json", "w") as file:
    json.dump([__name__, sys.argv, os.getcwd(), sys.path[0], helper.__file__, "TF_CONFIG" in os.environ], file)
"""


def test_a_script_runs_as_main_in_the_job_files_folder_with_its_arguments(
    run_script: Callable[..., OrchRun], tmp_path: Path
) -> None:
    (tmp_path / "helper.py").write_text("in the shell's folder, which is not looked at\n")
    run = run_script(SAYS_WHERE_IT_IS, "--workers", "2", train={"args": ["--lr", 0.001, "--name", "a b"]})
    folder = str((tmp_path / "job").resolve())
    (tmp_path / "job" / "helper.py").write_text("")
    assert run.result()["state"] == "succeeded"
    for index in (0, 1):
        name, argv, cwd, first, helper, cluster = json.loads((tmp_path / "job" / f"told-{index}.json").read_text())
        assert (name, argv[1:], cwd) == ("__main__", ["--lr", "0.001", "--name", "a b"], folder)
        assert (first, helper, cluster) == (folder, f"{folder}/helper.py", True)


def test_a_script_that_raises_ends_the_job_with_its_own_traceback(run_script: Callable[..., OrchRun]) -> None:
    result = run_script("def f():\n    raise ValueError('no such column: age')\n\nf()\n").result()
    assert (result["code"], result["restarts"]) == (70, 0)
    assert "ValueError: no such column: age" in result["reason"]
    assert 'train.py", line 2, in f' in result["traceback"]


def test_a_killed_script_starts_again_in_a_process_that_its_agent_knows(
    run_script: Callable[..., OrchRun], tmp_path: Path
) -> None:
    up = tmp_path / "up"
    run = run_script(
        f"import os, sys, time\nif os.path.exists({str(up)!r}): sys.exit(0)\n"
        f"open({str(up)!r}, 'w').close()\ntime.sleep(100)\n"
    )
    run.wait_until(up.exists, "the first attempt")
    process = run.trainer(0)
    assert name_of(process) == "orch-train"
    os.kill(process, signal.SIGKILL)
    result = run.result()
    assert (result["state"], result["attempts"], result["restarts"]) == ("succeeded", 2, 1)


def test_a_script_that_has_ended_well_is_not_run_twice(run_script: Callable[..., OrchRun], tmp_path: Path) -> None:
    run = run_script("open('ran', 'a').write('x')\n")
    assert run.result()["finished_before"] is False
    again = OrchRun(tmp_path / "job" / "job.yaml", cwd=tmp_path, deadline_s=60)
    try:
        result = again.result()
    finally:
        again.close()
    assert (result["state"], result["finished_before"]) == ("succeeded", True)
    assert (tmp_path / "job" / "ran").read_text() == "x"


@pytest.mark.soak
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.soak_ci)])
def test_the_example_is_killed_and_ends_with_the_weights_and_files_of_an_undisturbed_run(
    tmp_path: Path, workers: int
) -> None:
    def begin(name: str, epochs: int = 6) -> OrchRun:
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.py").write_text(EXAMPLE.read_text())
        job = {
            "name": "fit",
            "train": {"script": "train.py", "args": ["--epochs", str(epochs), "--out", "files"]},
            "checkpoint": {"every": 10},
        }
        (tmp_path / name / "job.yaml").write_text(json.dumps(job))
        return OrchRun(tmp_path / name / "job.yaml", "--workers", str(workers), cwd=tmp_path / name, deadline_s=150)

    undisturbed, killed = begin("undisturbed"), None
    try:
        expected = undisturbed.result()
        killed = begin("killed")
        for turn, step in enumerate((20, 60, 110)):
            killed.wait_for_step(step, attempt=turn + 1)
            killed.wait_for_commit(step)
            os.kill(killed.trainer(turn % workers), signal.SIGKILL)
        found = killed.result()
    finally:
        undisturbed.close()
        if killed is not None:
            killed.close()
    assert (found["state"], found["restarts"]) == ("succeeded", 3)
    assert found["weights_sha256"] == expected["weights_sha256"]
    assert found["metrics"] == expected["metrics"]
    for table in ("all.csv", "head.csv"):
        assert (tmp_path / "killed/files" / table).read_text() == (tmp_path / "undisturbed/files" / table).read_text()


STRATEGY_OF_ITS_OWN = """
import sys, keras, numpy as np, tensorflow as tf
what = sys.argv[1]
strategy = tf.distribute.MultiWorkerMirroredStrategy()
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
def build():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    return model
if what == "outside":
    build().fit(x, x[:, :1], verbose=0)
with strategy.scope():
    model = build()
model.fit(x, x[:, :1], batch_size=16, verbose=0)
chief = strategy.cluster_resolver.task_id == 0
model.save(f"model-{strategy.cluster_resolver.task_id}.keras")
if what == "evaluate" and chief:
    model.evaluate(x, x[:, :1], verbose=0)
loaded = keras.models.load_model("model-0.keras") if chief else None
with strategy.scope():
    model = build()
model.fit(x, x[:, :1], batch_size=16, epochs=2, verbose=0)
with open(f"evaluated-{strategy.cluster_resolver.task_id}", "w") as file:
    file.write(repr(model.evaluate(x, x[:, :1], verbose=0)))
"""


def test_a_script_with_a_strategy_of_its_own_has_only_what_is_in_its_scope_on_all_workers(
    run_script: Callable[..., OrchRun], tmp_path: Path
) -> None:
    run = run_script(STRATEGY_OF_ITS_OWN, "--workers", "2", train={"args": ["load"]})
    result = run.result()
    assert (result["state"], result["step"], result["restarts"]) == ("succeeded", 12, 0), run.log
    first, second = ((tmp_path / "job" / f"evaluated-{worker}").read_text() for worker in (0, 1))
    assert first == second


@pytest.mark.parametrize(
    ("what", "reason", "remedy"),
    [
        ("evaluate", "the workers do not do the same", "calls fit and evaluate as often"),
        ("outside", "was made outside of its scope", "with strategy.scope()"),
    ],
)
def test_what_one_worker_does_with_a_model_of_all_ends_the_job_with_the_remedy(
    run_script: Callable[..., OrchRun], what: str, reason: str, remedy: str
) -> None:
    result = run_script(STRATEGY_OF_ITS_OWN, "--workers", "2", train={"args": [what]}).result()
    assert (result["state"], result["restarts"]) == ("failed", 0)
    assert reason in result["reason"]
    assert remedy in result["remedy"] + result.get("traceback", "")
