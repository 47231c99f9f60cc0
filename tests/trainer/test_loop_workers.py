"""Two training processes under MultiWorkerMirroredStrategy on 127.0.0.1, driven without agents."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_worker import Block, Evaluated, Run, run

from trainer.data.order import Order
from trainer.rundir.attempts import CommitRef
from trainer.wire.writer import Snapshot

HERE = Path(__file__).parent
DIGITS = {
    "task": "trainer.tasks.digits:Digits",
    "steps": 60,
    "global_batch_size": 50,
    "seed": 3,
    "evaluate": {"batch_size": 28},
}

pytestmark = pytest.mark.slow


def job(folder: Path, train: dict[str, Any], **options: Any) -> Any:
    return run(folder, train, **{"task_root": HERE, **options})


@pytest.mark.soak
@pytest.mark.soak_ci
def test_texts_train_as_with_one_worker(tmp_path: Path) -> None:
    train = {
        "task": "tasks_for_tests.py:Sentences",
        "steps": 20,
        "global_batch_size": 16,
        "seed": 3,
        "compile": "graph",
    }
    with job(tmp_path / "one", train) as one, job(tmp_path / "two", train, workers=2) as two:
        assert one.wait() == [0], one.workers[0].output()
        assert two.wait() == [0, 0], two.workers[0].output() + two.workers[1].output()
        for key, value in one.saved.items():
            if not key.startswith("host/"):
                np.testing.assert_allclose(two.saved[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
        assert two.workers[1].of(Evaluated)[0].metrics == pytest.approx(
            one.workers[0].of(Evaluated)[0].metrics, rel=1e-5
        )


def test_a_layer_that_mixes_the_rows_of_a_batch_is_refused(tmp_path: Path) -> None:
    with job(tmp_path, {**DIGITS, "task": "tasks_for_tests.py:MixesRows"}, workers=2) as refused:
        assert refused.wait() == [78, 78], refused.workers[0].output()
        assert "another result when other rows are beside it" in refused.workers[0].failure.message
        assert refused.workers[0].of(Block) == []


@pytest.mark.parametrize(
    "task", ["trainer.tasks.digits:Digits", pytest.param("tasks_for_tests.py:Weighted", marks=pytest.mark.soak)]
)
def test_two_workers_train_what_one_would_and_evaluate_every_example_once(tmp_path: Path, task: str) -> None:
    # 360 examples in batches of 28 over all: neither the whole nor a worker's half divides.
    train = {**DIGITS, "task": task}
    with job(tmp_path / "one", {**train, "compile": "graph"}) as one, job(tmp_path / "two", train, workers=2) as two:
        assert one.wait() == [0], one.workers[0].output()
        assert two.wait() == [0, 0], two.workers[0].output() + two.workers[1].output()
        ours, theirs = one.saved, two.saved
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            np.testing.assert_allclose(theirs[key], value, rtol=2e-3, atol=2e-4, err_msg=key)
        (alone,), (together,) = one.workers[0].of(Evaluated), two.workers[0].of(Evaluated)
        assert alone.examples == together.examples == 360
        assert together.metrics == pytest.approx(alone.metrics, rel=1e-3)
        assert two.workers[1].of(Evaluated)[0].metrics == together.metrics
        assert two.workers[0].of(Block)[-1].replicas == 2
        assert [block.step for block in two.workers[0].of(Block)] == [block.step for block in two.workers[1].of(Block)]
        assert two.workers[1].of(Snapshot) == []


@pytest.mark.soak
def test_a_killed_worker_ends_its_peer_with_75_and_the_next_attempt_with_the_undisturbed_weights(
    tmp_path: Path,
) -> None:
    train = {
        "task": "tasks_for_tests.py:Numbered",
        "params": {"batch": 16},
        "steps": 300,
        "global_batch_size": 16,
        "seed": 5,
    }

    def kill_one_after_30(current: Run, snapshot: Snapshot) -> Any:
        answer = current.commit(snapshot)
        if snapshot.step >= 30:
            current.workers[1].process.kill()
        return answer

    with job(tmp_path / "undisturbed", train, workers=2) as undisturbed:
        assert undisturbed.wait() == [0, 0], undisturbed.workers[0].output()
        expected, arrays = undisturbed.workers[0].result.weights_sha256, undisturbed.saved
    # With 100,000 steps it is killed long before its end; the log of the examples is not reached by then either.
    endless = {**train, "steps": 100_000}
    with job(tmp_path / "killed", endless, workers=2, checkpoint={"every": 15}, answer=kill_one_after_30) as killed:
        assert killed.wait() == [75, -9], killed.workers[0].output()
        step = next(snapshot.step for snapshot in killed.workers[0].of(Snapshot) if snapshot.step >= 30)
        assert step < 300
    with job(
        tmp_path / "killed",
        train,
        workers=2,
        attempt=2,
        restore=CommitRef(step=step, attempt=1),
        checkpoint={"every": 70},
    ) as resumed:
        assert resumed.wait() == [0, 0], resumed.workers[0].output()
        assert resumed.workers[0].result.weights_sha256 == expected
        again = resumed.saved
    rows = Order(70, 16, 5).rows(0, 300)
    assert np.array_equal(arrays["task/0"], again["task/0"])
    assert np.array_equal(arrays["task/0"][:300], rows)


@pytest.mark.soak
def test_a_stop_request_at_one_worker_stops_both_after_the_same_step(tmp_path: Path) -> None:
    train = {**DIGITS, "task": "tasks_for_tests.py:Slow", "steps": 100000}
    with job(tmp_path, train, workers=2, checkpoint={"every": 1.0}) as stopped:
        stopped.wait(until=lambda current: len(current.workers[1].of(Block)) > 2)
        stopped.stop(index=1)
        assert stopped.wait() == [143, 143], stopped.workers[0].output()
        last = [worker.of(Block)[-1].step for worker in stopped.workers]
        assert last[0] == last[1]
        assert stopped.workers[0].of(Snapshot)[-1].step == last[0]
    ending = {**train, "steps": last[0] + 3}
    with job(tmp_path, ending, workers=2, attempt=2, restore=CommitRef(step=last[0], attempt=1)) as resumed:
        assert resumed.wait() == [0, 0], resumed.workers[0].output()
        assert resumed.workers[0].result.step == last[0] + 3


@pytest.mark.soak
def test_models_with_state_that_differs_by_replica_stop_and_go_on_alike(tmp_path: Path) -> None:
    train = {**DIGITS, "task": "tasks_for_tests.py:ManyLayers", "evaluate": {"every": 20}}
    with job(tmp_path / "whole", train, workers=2) as whole:
        assert whole.wait() == [0, 0], whole.workers[0].output()
    with job(tmp_path / "parts", {**train, "steps": 30}, workers=2) as first:
        assert first.wait() == [0, 0], first.workers[0].output()
    with job(tmp_path / "parts", train, workers=2, attempt=2, restore=CommitRef(step=30, attempt=1)) as second:
        assert second.wait() == [0, 0], second.workers[0].output()
        assert second.workers[0].result.weights_sha256 == whole.workers[0].result.weights_sha256
        assert second.workers[0].result.metrics["val_loss"] == whole.workers[0].result.metrics["val_loss"]
