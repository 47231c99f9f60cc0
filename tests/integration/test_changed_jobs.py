"""A run directory used again by a job that is not the one that filled it: what changed is said, and what to do."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_run import OrchRun

pytestmark = pytest.mark.slow

TASK = """
from pathlib import Path

import keras
import numpy as np
from trainer.task import Task

import widths


class Line(Task):
    def __init__(self, rate=0.01, units=4, lower_at=0):
        self.rate, self.units, self.lower_at = rate, units, lower_at

    def train_data(self):
        table = np.loadtxt(Path(__file__).parent / "table.csv", delimiter=",").astype("float32")
        return table[:, :2], table[:, 2:]

    def model(self):
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(widths.WIDTH), keras.layers.Dense(1)])

    def loss(self):
        return "mse"

    def optimizer(self):
        return keras.optimizers.SGD(self.rate)

    def callbacks(self):
        class Rate(keras.callbacks.Callback):
            def on_train_batch_end(callback, batch, logs=None):
                optimizer = callback.model.optimizer
                step = int(optimizer.iterations.numpy())
                if step == self.lower_at:
                    optimizer.learning_rate = 0.0025
                print(f"RATE {step} {float(optimizer.learning_rate.numpy()):.6g}", flush=True)

        return [Rate()]
"""
JOB = """
name: line
train: {task: "task.py:Line", steps: 20, global_batch_size: 16, compile: graph}
checkpoint: {every: 5}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "widths.py").write_text("WIDTH = 4\n")
    (tmp_path / "table.csv").write_text("\n".join(f"{i % 7},{i % 5},{i % 3}" for i in range(64)))
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


@pytest.fixture
def again(folder: Path) -> Iterator[Callable[..., tuple[dict[str, Any], OrchRun]]]:
    runs: list[OrchRun] = []

    def run(*arguments: str) -> tuple[dict[str, Any], OrchRun]:
        job = OrchRun(folder / "job.yaml", *arguments, cwd=folder)
        runs.append(job)
        return job.result(), job

    yield run
    for job in runs:
        job.close()


Again = Callable[..., tuple[dict[str, Any], OrchRun]]


def test_a_finished_run_of_another_job_says_what_changed_and_what_to_do(folder: Path, again: Again) -> None:
    first, _ = again()
    assert first["state"] == "succeeded"
    (folder / "task.py").write_text("# a comment changes nothing, another number of workers neither\n" + TASK)
    same, _ = again("--workers", "2")
    assert (same["state"], same["finished_before"], same["weights_sha256"]) == (
        "succeeded",
        True,
        first["weights_sha256"],
    )

    settings = {"params.rate": 0.001, "global_batch_size": 32, "steps": 10, "seed": 3}
    other, _ = again(*(text for key, value in settings.items() for text in ("--set", f"train.{key}={value}")))
    assert (other["state"], other["code"]) == ("failed", 78)
    assert "is finished, and the job has changed since" in other["reason"]
    assert other["remedy"].startswith("train anew with another run.directory")
    for said in (
        "train.params.rate (not given) -> 0.001",
        "train.global_batch_size 16 -> 32",
        "train.steps 20 -> 10",
        "train.seed 0 -> 3",
    ):
        assert said in other["reason"], other["reason"]

    (folder / "widths.py").write_text("WIDTH = 5\n")
    assert "widths.py has changed" in again()[0]["reason"]
    (folder / "widths.py").write_text("WIDTH = 4\n")
    (folder / "table.csv").write_text("\n".join(f"{i % 7},{i % 5},{i % 2}" for i in range(64)))
    assert "train_data holds other values" in again()[0]["reason"]
    (folder / "table.csv").write_text("\n".join(f"{i % 7},{i % 5},{i % 3}" for i in range(65)))
    assert "train_data has 65 examples, and had 64" in again()[0]["reason"]
    records = sorted(path.name for path in (folder / "runs/line/attempts").iterdir())
    assert records == ["1.json", "2.json"], "none of them left a trace"


def _rates(run: OrchRun) -> dict[int, float]:
    return {int(step): float(rate) for step, rate in re.findall(r"RATE (\d+) (\S+)", run.log)}


@pytest.mark.soak
@pytest.mark.soak_ci
def test_a_rate_that_is_asked_for_is_used_one_that_training_came_to_stays_and_fresh_is_from_nothing(
    folder: Path, again: Again
) -> None:
    lowered = ["--set", "train.params.lower_at=10"]
    _, first = again(*lowered)
    assert {_rates(first)[5], _rates(first)[20]} == {0.01, 0.0025}

    _, same = again(*lowered, "--set", "train.steps=30")
    assert set(_rates(same).values()) == {0.0025}, "the task asks for what it asked for"
    assert "learning rate 0.0025 is the checkpoint's; the task begins with 0.01" in same.log
    assert "made by another job" not in same.log

    (folder / "widths.py").write_text("WIDTH = 4\nother = 1\n")
    _, asked = again(*lowered, "--set", "train.steps=40", "--set", "train.params.rate=0.05")
    assert set(_rates(asked).values()) == {0.05}
    assert "learning rate 0.01 -> 0.05, as the task says now (the checkpoint had come to 0.0025)" in asked.log
    assert "was made by another job, and training goes on from it: " in asked.log
    assert "widths.py has changed" in asked.log

    fresh, _ = again("--fresh", "--set", "train.global_batch_size=32")
    assert (fresh["code"], fresh["step"], fresh["finished_before"]) == (0, 20, False)


@pytest.mark.soak
@pytest.mark.soak_ci
def test_a_run_directory_of_an_earlier_version_is_read(folder: Path, again: Again) -> None:
    from trainer.rundir.commits import list_commits, read_commit, serialise
    from trainer.rundir.open import open_store

    again()
    store = open_store(str(folder / "runs/line"))
    for ref in list_commits(store):
        commit = read_commit(store, ref)
        state = {key: value for key, value in commit.host_state.items() if key != "made_with"}
        path = folder / f"runs/line/checkpoints/commits/{ref.name}.json"
        path.unlink()
        path.write_bytes(serialise(commit.model_copy(update={"host_state": state})))
    end = folder / "runs/line/attempts/2.json"
    assert json.loads(end.read_bytes())["kind"] == "end"
    result, _ = again("--set", "train.params.rate=0.05")
    assert (result["code"], result["finished_before"]) == (0, True), "of what is not known nothing is said"
    result, run = again("--set", "train.steps=30", "--set", "train.params.rate=0.05")
    assert (result["code"], result["step"]) == (0, 30)
    assert set(_rates(run).values()) == {0.01}
