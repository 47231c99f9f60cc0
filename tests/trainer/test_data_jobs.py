"""Whole jobs by the form of their data: Keras' `fit` on the same batches is the oracle, and kills change nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_data_jobs import job
from support_worker import Block, Evaluated, Run

from trainer.data.order import permutation
from trainer.rundir.attempts import CommitRef
from trainer.wire.writer import Snapshot

data_tasks = pytest.importorskip("data_tasks")
keras = pytest.importorskip("keras")
CLASS_WEIGHT = {0: 0.5, 2: 3.0}

pytestmark = pytest.mark.slow


def fitted(epochs: list[np.ndarray], **options: Any) -> tuple[list[np.ndarray], dict[str, float]]:
    """Weights and scores after `fit` on the rows of each epoch."""
    keras.utils.set_random_seed(5)
    model = data_tasks.network()
    for rows in epochs:
        x, y = data_tasks.X[rows], data_tasks.Y[rows]
        model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0, **options)
    return model.get_weights(), model.evaluate(data_tasks.X, data_tasks.Y, batch_size=8, return_dict=True, verbose=0)


def weights_of(done: Run) -> list[np.ndarray]:
    model = keras.models.load_model(done.workers[0].result.export)
    return model.get_weights()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "form",
    ["dataset", "pydataset", *(pytest.param(form, marks=pytest.mark.soak) for form in ("generator", "examples"))],
)
def test_data_of_its_own_order_trains_and_evaluates_as_in_fit(tmp_path: Path, form: str) -> None:
    rows = np.arange(52)
    expected, scores = fitted([rows] * 4)
    with job(tmp_path, form, train={"remainder": "keep", "evaluate": {"every": "epoch"}}) as done:
        assert done.wait() == [0], done.workers[0].output()
        worker = done.workers[0]
        assert worker.of(Block)[-1].step == 28
        assert [message.step for message in worker.of(Evaluated)] == [7, 14, 21, 28]
        assert {message.examples for message in worker.of(Evaluated)} == {52}
        for ours, theirs in zip(weights_of(done), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        for name, value in scores.items():
            np.testing.assert_allclose(worker.result.metrics[f"val_{name}"], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(("form", "remainder", "used"), [("arrays", "drop", 48), ("sparse", "keep", 52)])
def test_arrays_with_remainder_and_class_weight_train_as_in_fit(
    tmp_path: Path, form: str, remainder: str, used: int
) -> None:
    epochs = [permutation(5, epoch, 52)[:used] for epoch in range(4)]
    expected, _ = fitted(epochs, class_weight=CLASS_WEIGHT)
    with job(tmp_path, form, train={"remainder": remainder, "class_weight": CLASS_WEIGHT}) as done:
        assert done.wait() == [0], done.workers[0].output()
        assert done.workers[0].of(Block)[-1].step == (28 if remainder == "keep" else 24)
        for ours, theirs in zip(weights_of(done), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.soak
@pytest.mark.parametrize(
    "form",
    ["shuffled", pytest.param("reshuffled", marks=pytest.mark.soak_ci), "generator", "arrays"],
)
def test_a_killed_job_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path, form: str) -> None:
    train = {"epochs": 20, "remainder": "keep"}

    def kill_after_first(current: Run, snapshot: Snapshot) -> Any:
        current.commit(snapshot)
        current.kill()

    with job(tmp_path / "undisturbed", form, train=train) as undisturbed:
        assert undisturbed.wait() == [0], undisturbed.workers[0].output()
        expected = undisturbed.workers[0].result.weights_sha256
    with job(tmp_path / "killed", form, train=train, checkpoint={"every": 17}, answer=kill_after_first) as killed:
        assert killed.wait() == [-9]
        last = killed.workers[0].of(Snapshot)[-1]
        assert last.step == 17  # in the midst of the third epoch
    restored = CommitRef(step=last.step, attempt=1)
    with job(tmp_path / "killed", form, train=train, attempt=2, restore=restored) as resumed:
        assert resumed.wait() == [0], resumed.workers[0].output()
        assert resumed.workers[0].result.weights_sha256 == expected
    other = {"remainder": "drop"} if form == "arrays" else {"params": {"form": "arrays"}}
    with job(tmp_path / "killed", form, train=train | other, attempt=3, restore=restored) as refused:
        assert refused.wait() == [78]
        assert "the order of the data would break off" in refused.workers[0].failure.message


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("dataset", marks=pytest.mark.soak),
        "reshuffled",
        pytest.param("sparse", marks=pytest.mark.soak),
        pytest.param("ragged", marks=pytest.mark.soak),
    ],
)
def test_two_workers_train_as_one_does(tmp_path: Path, form: str) -> None:
    with job(tmp_path / "one", form) as one, job(tmp_path / "two", form, workers=2) as two:
        assert one.wait() == [0], one.workers[0].output()
        assert two.wait() == [0, 0], two.workers[0].output() + two.workers[1].output()
        for ours, theirs in zip(weights_of(one), weights_of(two), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["unlike", pytest.param("unlike arrays", marks=pytest.mark.soak)])
def test_workers_that_are_given_different_data_say_so(tmp_path: Path, form: str) -> None:
    with job(tmp_path, form, workers=2) as done:
        ends = done.wait()
        assert 78 in ends
        failure = done.workers[ends.index(78)].failure
        assert "train_data() gave one worker other examples than another" in failure.message
        assert "default_rng(seed)" in failure.message
