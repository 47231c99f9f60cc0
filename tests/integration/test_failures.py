"""What a person sees of a job that failed: a few lines with the cause, from whichever worker, in whatever characters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TASK = """
import json
import os

import keras
import numpy as np
import tensorflow as tf
from trainer.task import Task

MESSAGES = {
    "utf-8": "Größe ✓ 日本語 🚀",
    "surrogate": "half a pair \\ud83d here",
    "nul": "a NUL \\0 and a bell \\7",
    "long": "long " * 200_000 + "\\n" + "line\\n" * 5000,
}


class Fails(keras.callbacks.Callback):
    def __init__(self, worker, text):
        super().__init__()
        self.worker, self.text = worker, text

    def on_train_batch_end(self, batch, logs=None):
        index = json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"]
        if index == self.worker and batch > 5:
            raise ValueError(self.text)


class Narrow(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(7, 3))

    def call(self, x):
        return tf.matmul(x, self.w)


class Asserts(keras.layers.Layer):
    def call(self, x):
        with tf.control_dependencies([tf.debugging.assert_less(x, 100.0, message="x is too large", summarize=400)]):
            return tf.identity(x)


class Odd(Task):
    def __init__(self, kind, worker=0):
        self.kind, self.worker = kind, worker

    def train_data(self):
        x = np.random.default_rng(0).normal(size=(320, 4)).astype("float32")
        y = np.arange(320) % 3
        if self.kind == "labels":
            y[200:] = 3  # not in the batch with which the model is built
        if self.kind == "graph":
            x[200:] = 1000.0
        if self.kind == "objects":
            x = np.array([[{"a": 1}] * 4] * 320, dtype=object)
        return x, y

    def model(self):
        first = {"shapes": Narrow, "graph": Asserts}.get(self.kind, lambda: keras.layers.Dense(8))()
        return keras.Sequential([keras.Input((4,)), first, keras.layers.Dense(3, "softmax")])

    def loss(self):
        return "sparse_categorical_crossentropy"

    def callbacks(self):
        return [Fails(self.worker, MESSAGES[self.kind])] if self.kind in MESSAGES else []


class OwnStep(Odd):
    def train_step(self, model, optimizer, batch):
        if tf.reduce_sum(batch[0]) < 1e9:
            self.inner(batch[0])
        return {"loss": tf.constant(0.0)}

    def inner(self, x):
        raise ValueError(f"no such thing: {x}")
"""
JOB = """
name: odd
train: {task: "task.py:Odd", steps: 40, global_batch_size: 32, compile: graph, params: {kind: utf-8}}
checkpoint: {every: 5}
"""


def _run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    (folder / "task.py").write_text(TASK, encoding="utf-8")
    (folder / "job.yaml").write_text(JOB, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.main", "run", "job.yaml", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=150,
        check=False,
    )


@pytest.mark.parametrize(
    "kind",
    [
        "utf-8",
        pytest.param("long", marks=[pytest.mark.soak, pytest.mark.soak_ci]),
        *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("surrogate", "nul")),
    ],
)
def test_whatever_worker_1_says_the_job_ends_with_it(tmp_path: Path, kind: str) -> None:
    done = _run(
        tmp_path, "--workers", "2", "-o", "json", "--set", f"train.params.kind={kind}", "--set", "train.params.worker=1"
    )
    result = json.loads(done.stdout)
    assert done.returncode == result["code"] == 70, done.stderr.decode(errors="replace")[-2000:]
    said = {"utf-8": "Größe ✓ 日本語 🚀", "surrogate": r"half a pair \ud83d here", "nul": "a NUL", "long": "long long"}
    assert "worker 1: task error: ValueError: " in result["reason"]
    assert said[kind] in result["reason"]
    assert len(result["traceback"].splitlines()) <= 20
    assert said[kind] in result["traceback"]
    log = (tmp_path / "runs/odd/logs/worker-1/attempt-1/segment-000001.log").read_bytes()
    assert b"line\n" * 5000 in log.replace(b"\r", b"") if kind == "long" else said[kind].encode() in log


@pytest.mark.soak
@pytest.mark.soak_ci
def test_a_terminal_of_few_characters_gets_the_others_written_out(tmp_path: Path) -> None:
    done = _run(tmp_path, PYTHONIOENCODING="latin-1", PYTHONUTF8="0", LC_ALL="C", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 70
    assert "Größe ".encode("latin-1") + rb"\u2713" in done.stdout
    assert b"UnicodeEncodeError" not in done.stdout + done.stderr
    assert "Größe ✓".encode() in (tmp_path / "runs/odd/logs/worker-0/attempt-1/segment-000001.log").read_bytes()


@pytest.mark.parametrize(
    ("kind", "task", "said", "frame"),
    [
        ("labels", "Odd", "3 is out of range in the training batch of step 1, row", ""),
        pytest.param("graph", "Odd", "x is too large", "in call", marks=[pytest.mark.soak, pytest.mark.soak_ci]),
        ("shapes", "Odd", "Dimensions must be equal, but are 4 and 7", "in call"),
        pytest.param("objects", "Odd", "", "", marks=pytest.mark.soak),
        pytest.param("step", "OwnStep", "no such thing", "in inner", marks=[pytest.mark.soak, pytest.mark.soak_ci]),
    ],
)
def test_an_error_is_a_few_lines_on_the_terminal_and_whole_in_the_log(
    tmp_path: Path, kind: str, task: str, said: str, frame: str
) -> None:
    done = _run(tmp_path, "--set", f"train.params.kind={kind}", "--set", f"train.task=task.py:{task}")
    assert done.returncode in (70, 78)
    shown = (done.stderr + done.stdout).decode().splitlines()
    told = [line for line in shown if not line.startswith(("[worker 0] INFO", "attempt 1", "step ", "odd: 1 worker"))]
    assert len(told) <= 20, "\n".join(shown)
    assert all(len(line) < 900 for line in told)
    text = "\n".join(told)
    assert said in text
    assert frame in text
    for page in ("Arguments received by", "site-packages", "Detected at node", "KerasTensor"):
        assert page not in text
    if kind in ("graph", "shapes"):
        log = (tmp_path / "runs/odd/logs/worker-0/attempt-1/segment-000001.log").read_text(encoding="utf-8")
        assert "site-packages" in log
        assert ("Arguments received by" if kind == "shapes" else "Detected at node") in log
