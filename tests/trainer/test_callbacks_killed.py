"""Jobs with Keras' own callbacks, killed within an epoch: weights and files are those of an undisturbed one."""

import ast
import collections
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support_hooks import events
from support_worker import Block, Evaluated, Run, run

from trainer.rundir.attempts import CommitRef
from trainer.wire.writer import Snapshot

HERE = Path(__file__).parent

pytestmark = [pytest.mark.slow, pytest.mark.soak]


def job(folder: Path, attempt: int = 1, **options: Any) -> Any:
    """10 steps an epoch; a save within the second epoch, and within later ones."""
    train = {
        "task": "tasks_for_tests.py:StockCallbacks",
        "params": {"folder": str(folder / "files"), **options.pop("params", {})},
        "epochs": 30,
        "global_batch_size": 16,
        "seed": 4,
        "evaluate": {"every": "epoch"},
    }
    options = {"checkpoint": {"every": 17}, "task_root": HERE, **options}
    return run(folder, train, attempt=attempt, **options)


def kill_after(step: int) -> Any:
    """Killed as soon as it has gone on from the save of `step` or a later one, and written what that save does not know."""

    def answer(current: Run, snapshot: Snapshot) -> Any:
        saved = current.commit(snapshot)
        if snapshot.step >= step and not hasattr(current, "kept"):
            current.kept = CommitRef(step=snapshot.step, attempt=current.attempt)  # type: ignore[attr-defined]
        return saved

    return answer


def killed(folder: Path, step: int, *, attempt: int, further: int, **options: Any) -> CommitRef:
    with job(folder, attempt=attempt, answer=kill_after(step), **options) as current:
        current.wait(
            until=lambda now: (
                hasattr(now, "kept")
                and now.workers[0].of(Block)
                and now.workers[0].of(Block)[-1].step >= now.kept.step + further
            )
        )
        assert not current.workers[0].closed, current.workers[0].output()
        current.kill()
        kept: CommitRef = current.kept
        return kept


def lines(finished: Run, worker: int = 0) -> list[str]:
    return [line for line in finished.workers[worker].output().splitlines() if line.startswith("EPOCH")]


@pytest.mark.parametrize(
    ("workers", "params"),
    [
        (1, {}),
        (1, {"by_batch": True}),
        pytest.param(2, {}, marks=pytest.mark.soak_ci),
    ],
    ids=["alone", "by batch", "two workers"],
)
def test_killed_jobs_end_with_the_weights_and_files_of_an_undisturbed_one(
    tmp_path: Path, workers: int, params: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"workers": workers, "params": params}
    with job(tmp_path / "undisturbed", **options) as undisturbed:
        assert undisturbed.wait() == [0] * workers, undisturbed.workers[0].output()
    first = killed(tmp_path / "killed", 17, attempt=1, further=20, **options)
    with job(tmp_path / "killed", attempt=2, restore=first, **options) as resumed:
        assert resumed.wait() == [0] * workers, resumed.workers[0].output()
    expected, found = undisturbed.workers[0].result, resumed.workers[0].result
    assert expected.reason == found.reason == "a callback set model.stop_training"
    assert found.weights_sha256 == expected.weights_sha256
    assert found.step == expected.step < 300
    assert lines(undisturbed)[-len(lines(resumed)) :] == lines(resumed)
    assert lines(resumed)[0].startswith(f"EPOCH {first.step // 10} of {first.step // 10 + 1} ")
    files = [tmp_path / name / "files" for name in ("undisturbed", "killed")]
    tables = [(folder / "log.csv").read_text() for folder in files]
    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == 1 + expected.step // 10
    curves = [
        collections.Counter((tag, step) for tag, step, _ in events(folder / "events").elements()) for folder in files
    ]
    assert curves[0] == curves[1]
    assert curves[0]["epoch_loss", 3] == 2  # of training, and of the evaluation
    assert (("batch_loss", 50) in curves[0]) == ("by_batch" in params)
    # What is exported, told and kept as the best one is the same model.
    models = [
        keras.models.load_model(path) for path in (found.export, files[0] / "best.keras", files[1] / "best.keras")
    ]
    for weights in zip(*(model.get_weights() for model in models), strict=True):
        assert all(np.array_equal(weights[0], other) for other in weights)
    best = min(ast.literal_eval(line.rpartition(" ")[2]) for line in lines(undisturbed))
    assert found.metrics["val_loss"] == expected.metrics["val_loss"] == pytest.approx(best, rel=1e-6)
    assert resumed.workers[0].of(Evaluated)[-1].metrics["val_loss"] == found.metrics["val_loss"]
    for one in range(workers):
        said = undisturbed.workers[one].output()
        assert len(lines(undisturbed, one)) == expected.step // 10
        assert ("improved from" in said) == ("Restoring model weights" in said) == (one == 0)
