"""What a job leaves for others: the model or its weights, the best one too, a pointer to it, and the line that loads it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_run import OrchRun

pytestmark = pytest.mark.slow

TASK = """
import time
from pathlib import Path

import keras
import numpy as np
from trainer.task import Task


class Net(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.hidden, self.out = keras.layers.Dense(units, "tanh"), keras.layers.Dense(1)

    def call(self, x, training=False):
        return self.out(self.hidden(x))


@keras.saving.register_keras_serializable("exports")
class Registered(Net):
    def __init__(self, units, **more):
        keras.Model.__init__(self, **more)
        self.units = units
        self.hidden, self.out = keras.layers.Dense(units, "tanh"), keras.layers.Dense(1)

    def get_config(self):
        return {**super(Net, self).get_config(), "units": self.units}


class Turns(Task):
    '''Better until epoch 5, worse from there on.'''

    def __init__(self, kind="plain", hold_at=0, go=""):
        self.kind, self.hold_at, self.go = kind, hold_at, go

    def model(self):
        if self.kind == "plain":
            return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
        return Net(8) if self.kind == "subclass" else Registered(8)

    def train_data(self):
        x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
        return x, x.sum(1, keepdims=True)

    def evaluation_data(self):
        return self.train_data()

    def loss(self):
        return "mse"

    def optimizer(self):
        return keras.optimizers.SGD(0.02)

    def callbacks(self):
        task = self

        class Turn(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == 4:
                    self.model.optimizer.learning_rate = -0.02
                time.sleep(0.3 if task.hold_at else 0.0)  # so that no save is skipped
                while task.hold_at and 4 * (epoch + 1) >= task.hold_at and not Path(task.go).exists():
                    time.sleep(0.02)

        return [Turn()]
"""
JOB = """
name: turns
train: {task: "task.py:Turns", steps: 32, global_batch_size: 16, compile: graph}
checkpoint: {every: 8}
export: {best: val_loss}
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., OrchRun]]:
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "job.yaml").write_text(JOB)
    runs: list[OrchRun] = []

    def begin(name: str, *arguments: str, **params: Any) -> OrchRun:
        chosen = [text for key, value in params.items() for text in ("--set", f"train.params.{key}={value}")]
        run = OrchRun(tmp_path / "job.yaml", "--directory", str(tmp_path / name), *arguments, *chosen, cwd=tmp_path)
        runs.append(run)
        return run

    yield begin
    for run in runs:
        run.close()


Start = Callable[..., OrchRun]


def _losses(lines: list[str], folder: Path) -> list[float]:
    """The loss on the training data of the model that each of these lines loads, in a process of its own."""
    more = (
        "x = np.random.default_rng(0).normal(size=(64, 4)).astype('float32'); "
        "print(json.dumps(float(((model(x).numpy() - x.sum(1, keepdims=True)) ** 2).mean())))"
    )
    program = "\n".join(["import json, numpy as np", *(f"{line}; {more}" for line in lines)])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(line) for line in done.stdout.splitlines()[-len(lines) :]]


@pytest.mark.parametrize(
    ("kind", "form", "line"),
    [
        ("plain", "keras", "keras.models.load_model("),
        pytest.param("registered", "keras", "from trainer.exported import load", marks=pytest.mark.soak),
        pytest.param(
            "subclass", "weights.h5", "from trainer.exported import load", marks=[pytest.mark.soak, pytest.mark.soak_ci]
        ),
    ],
)
def test_the_line_that_is_printed_loads_what_was_trained(
    start: Start, tmp_path: Path, kind: str, form: str, line: str
) -> None:
    run = start("run", kind=kind)
    result = run.result()
    assert result["code"] == 0, run.log
    assert line in result["load"]
    assert result["export"] == str(tmp_path / f"run/export/attempt-1/model.{form}")
    newest = json.loads((tmp_path / "run/export/newest.json").read_bytes())
    assert (newest["file"], newest["step"]) == (f"export/attempt-1/model.{form}", 32)
    assert newest["load"] == result["load"]
    best = json.loads((tmp_path / "run/export/attempt-1/best.json").read_bytes())
    assert best == newest["best"]
    assert (best["file"], best["step"]) == (f"export/attempt-1/best.{form}", 20)
    load_best = f"from trainer.exported import load; model = load({str(tmp_path / 'run')!r}, best=True)"
    last_loss, best_loss = _losses([result["load"], load_best], tmp_path)
    assert last_loss == pytest.approx(result["metrics"]["val_loss"], rel=1e-4)
    assert best_loss == pytest.approx(best["metrics"]["val_loss"], rel=1e-4)
    assert best_loss < last_loss
    warned = [text for text in run.log.splitlines() if "cannot be written to a Keras file" in text]
    assert len(warned) == (kind == "subclass")
    if warned:
        assert run.log.index(warned[0]) < run.log.index("compiled mode=")
        assert "get_config()" in warned[0]


@pytest.mark.soak
@pytest.mark.parametrize(
    "hold_at",
    [28, pytest.param(20, marks=pytest.mark.soak_ci)],
    ids=["it is in a checkpoint", "it is taken back"],
)
def test_the_best_model_survives_a_kill_and_is_forgotten_with_what_is_taken_back(
    start: Start, tmp_path: Path, hold_at: int
) -> None:
    whole = start("whole").result()
    assert whole["code"] == 0
    go = tmp_path / "go"
    run = start("killed", hold_at=hold_at, go=go)
    folder = tmp_path / "killed/export/attempt-1"
    run.wait_for_commit(hold_at // 8 * 8)
    run.wait_until((folder / "best-step-20.keras").exists, "the best model")
    run.kill_everything()
    go.touch()
    result = start("killed", hold_at=hold_at, go=go).result()
    assert result["code"] == 0
    assert result["weights_sha256"] == whole["weights_sha256"]
    newest, undisturbed = (
        json.loads((tmp_path / name / "export/newest.json").read_bytes()) for name in ("killed", "whole")
    )
    assert newest["attempt"] > 1
    assert newest["best"]["step"] == 20
    assert newest["best"]["metrics"] == undisturbed["best"]["metrics"]
    _assert_same_weights(tmp_path / "killed" / newest["best"]["file"], tmp_path / "whole" / undisturbed["best"]["file"])
    # Attempt 1's is used where a checkpoint names it; else it was made again, and the one of attempt 1 is gone.
    assert (folder / "best-step-20.keras").exists() == (hold_at == 28)


def _assert_same_weights(one: Path, other: Path) -> None:
    import keras

    models = [keras.models.load_model(path, compile=False) for path in (one, other)]
    for left, right in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.soak
def test_a_metric_that_the_evaluation_does_not_give_is_told_at_once(start: Start) -> None:
    result = start("run", "--set", "export.best=val_acuracy").result()
    assert result["code"] == 78
    assert "export.best follows val_acuracy, which the evaluation does not give" in result["reason"]
