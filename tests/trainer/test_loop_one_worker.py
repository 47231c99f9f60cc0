"""The training process from Start to exit code: one worker, driven without an agent."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_worker import Block, Evaluated, Run, run

from trainer.data.order import Order
from trainer.rundir.attempts import CommitRef
from trainer.wire.process import Phase, PhaseBegan, SaveSkipped
from trainer.wire.writer import Saved, SaveFailed, Snapshot

HERE = Path(__file__).parent
DIGITS = {"task": "trainer.tasks.digits:Digits", "steps": 120, "global_batch_size": 50, "seed": 3, "compile": "graph"}
NUMBERED = {
    "task": "tasks_for_tests.py:Numbered",
    "params": {"batch": 16},
    "steps": 200,
    "global_batch_size": 16,
    "seed": 5,
}

pytestmark = pytest.mark.slow


def job(folder: Path, train: dict[str, Any], **options: Any) -> Any:
    return run(folder, train, **{"task_root": HERE, **options})


def seen_examples(finished: Run) -> np.ndarray:
    return finished.saved["task/0"]


def test_a_job_trains_evaluates_saves_exports_and_exits_0(tmp_path: Path) -> None:
    train = {**DIGITS, "evaluate": {"every": 50}, "compile": "auto"}
    with job(tmp_path, train, checkpoint={"every": 40}) as done:
        assert done.wait() == [0], done.workers[0].output()
        worker = done.workers[0]
        assert [message.step for message in worker.of(Evaluated)] == [50, 100, 120]
        assert {message.examples for message in worker.of(Evaluated)} == {360}
        assert [(saved.step, saved.why) for saved in worker.of(Snapshot)][-1] == (120, "last")
        blocks = worker.of(Block)
        assert sum(block.steps for block in blocks) == blocks[-1].step == 120
        assert set(blocks[-1].metrics) == {"loss", "accuracy"}
        phases = list(dict.fromkeys(message.phase for message in worker.of(PhaseBegan)))
        assert phases[:5] == [Phase.IMPORT, Phase.RENDEZVOUS, Phase.RESTORE, Phase.COMPILE, Phase.TRAIN]
        result = worker.result
        assert result.metrics["val_accuracy"] > 0.9
        assert result.export == f"{tmp_path}/run/export/attempt-1/model.keras"
        exported = Path(result.export)
        assert exported.stat().st_size > 10_000
        assert list((tmp_path / "run" / "tensorboard" / "attempt-1").glob("events.out.tfevents.*"))


@pytest.mark.soak
@pytest.mark.parametrize("data", ["arrays", "generator"])
def test_a_killed_process_ends_with_the_weights_and_the_examples_of_an_undisturbed_one(
    tmp_path: Path, data: str
) -> None:
    train = {**NUMBERED, "params": {"batch": 16, "data": data}}

    # The first save, which nothing can have delayed or skipped; a later one might be that of the last step.
    def kill_after_first(current: Run, snapshot: Snapshot) -> Any:
        current.commit(snapshot)
        current.kill()

    # Saves at other steps than in the run that is killed: neither they nor the blocks they cut may show in the weights.
    with job(tmp_path / "undisturbed", train, checkpoint={"every": 100000}) as undisturbed:
        with job(tmp_path / "killed", train, checkpoint={"every": 20}, answer=kill_after_first) as killed:
            assert killed.wait() == [-9]
            last = killed.workers[0].of(Snapshot)[-1]
        assert undisturbed.wait() == [0], undisturbed.workers[0].output()
        expected, examples = undisturbed.workers[0].result.weights_sha256, seen_examples(undisturbed)
    restored = CommitRef(step=last.step, attempt=1)
    with job(tmp_path / "killed", train, checkpoint={"every": 30}, attempt=2, restore=restored) as resumed:
        assert resumed.wait() == [0], resumed.workers[0].output()
        assert resumed.workers[0].of(Block)[0].step > last.step
        assert resumed.workers[0].result.weights_sha256 == expected
        assert np.array_equal(seen_examples(resumed), examples)
    if data == "arrays":
        assert np.array_equal(examples[:200], Order(70, 16, 5).rows(0, 200))
    else:
        assert np.array_equal(examples[:200].reshape(-1), np.arange(200 * 16) % 70)


def test_a_stop_request_saves_and_exits_143_and_a_finished_run_trains_nothing_more(tmp_path: Path) -> None:
    endless = {**DIGITS, "task": "tasks_for_tests.py:Slow", "steps": 100_000}
    with job(tmp_path, endless) as stopped:
        stopped.wait(until=lambda current: len(current.workers[0].of(Block)) > 1)
        stopped.stop()
        assert stopped.wait() == [143], stopped.workers[0].output()
        (snapshot,) = stopped.workers[0].of(Snapshot)
        assert snapshot.why == "stop"
        assert snapshot.step == stopped.workers[0].of(Block)[-1].step < 100_000
    train = {**endless, "steps": snapshot.step + 5}
    with job(tmp_path, train, attempt=2, restore=CommitRef(step=snapshot.step, attempt=1)) as resumed:
        assert resumed.wait() == [0], resumed.workers[0].output()
        result = resumed.workers[0].result
        assert "reading the data up to where training was" in resumed.workers[0].output()
    with job(tmp_path, train, attempt=3, restore=CommitRef(step=snapshot.step + 5, attempt=2)) as again:
        assert again.wait() == [0], again.workers[0].output()
        assert again.workers[0].of(Block) == again.workers[0].of(Snapshot) == again.workers[0].of(Evaluated) == []
        assert again.workers[0].result.weights_sha256 == result.weights_sha256
        assert again.workers[0].result.metrics["val_loss"] == result.metrics["val_loss"]


def test_a_failed_save_is_made_up_for_and_a_last_one_that_fails_ends_with_74(tmp_path: Path) -> None:
    def refuse(current: Run, snapshot: Snapshot) -> SaveFailed:
        return SaveFailed(step=snapshot.step, error="no space left")

    with job(tmp_path, DIGITS, checkpoint={"every": 40}, answer=refuse) as refused:
        assert refused.wait() == [74]
        assert refused.workers[0].of(Snapshot)[-1].why == "last"
        assert refused.workers[0].failure is not None
        assert "no space left" in refused.workers[0].failure.message


def test_one_save_is_in_flight_and_others_that_are_due_are_skipped(tmp_path: Path) -> None:
    def later(current: Run, snapshot: Snapshot) -> Any:
        return None if snapshot.why == "interval" else current.commit(snapshot)

    with job(tmp_path, DIGITS, checkpoint={"every": 40}, answer=later) as slow:
        slow.wait(until=lambda current: bool(current.workers[0].of(SaveSkipped)))
        worker = slow.workers[0]
        assert [message.step for message in worker.of(SaveSkipped)] == [80]
        (first,) = worker.of(Snapshot)
        worker.send(Saved(commit=CommitRef(step=first.step, attempt=1), size_bytes=1, seconds=1.0))
        assert slow.wait() == [0], worker.output()
        assert [snapshot.step for snapshot in worker.of(Snapshot)] == [40, 120]


@pytest.mark.soak
def test_stop_when_ends_at_an_evaluation_and_callbacks_at_an_epoch(tmp_path: Path) -> None:
    early = {
        **DIGITS,
        "task": "tasks_for_tests.py:NeverBetter",
        "evaluate": {"every": 20},
        "stop_when": {"metric": "val_loss", "patience": 2},
    }
    hooked = {**DIGITS, "task": "tasks_for_tests.py:Hooked", "evaluate": {"every": "epoch"}}
    with job(tmp_path / "early", early) as first, job(tmp_path / "hooked", hooked) as second:
        assert first.wait() == [0], first.workers[0].output()
        assert second.wait() == [0], second.workers[0].output()
        assert first.workers[0].result.step == 60
        assert first.workers[0].result.reason.startswith("stop_when: val_loss has not improved on ")
        # 1,437 examples in batches of 50: epochs end with steps 29, 58 and 87.
        assert second.workers[0].result.step == 87
        said = [line for line in second.workers[0].output().splitlines() if line.startswith("HOOK")]
        metrics = "['accuracy', 'loss', 'val_accuracy', 'val_loss']"
        epochs = [f"HOOK epoch_begin {e}\nHOOK epoch_end {e} {metrics}" for e in range(3)]
        assert "\n".join(said) == "\n".join(["HOOK train_begin", *epochs, "HOOK train_end"])


@pytest.mark.soak
def test_a_callback_that_ends_training_while_the_process_is_stopped_is_remembered(tmp_path: Path) -> None:
    train = {**DIGITS, "task": "tasks_for_tests.py:StopsWhenStopped", "params": {"folder": str(tmp_path)}}
    with job(tmp_path, train) as stopped:
        stopped.wait(until=lambda current: (tmp_path / "there").exists())
        stopped.stop()
        (tmp_path / "go").touch()
        assert stopped.wait() == [143], stopped.workers[0].output()
        (snapshot,) = stopped.workers[0].of(Snapshot)
        assert (snapshot.step, snapshot.why) == (87, "stop")
        phases = [message.phase for message in stopped.workers[0].of(PhaseBegan)]
        assert Phase.DATA not in phases
    with job(tmp_path, train, attempt=2, restore=CommitRef(step=87, attempt=1)) as resumed:
        assert resumed.wait() == [0], resumed.workers[0].output()
        assert resumed.workers[0].of(Block) == []
        assert resumed.workers[0].result.reason == "a callback set model.stop_training"


def test_errors_say_whose_they_are(tmp_path: Path) -> None:
    raises = {**DIGITS, "task": "tasks_for_tests.py:Raises"}
    no_loss = {**DIGITS, "task": "tasks_for_tests.py:NoLoss"}
    with job(tmp_path / "raises", raises) as first, job(tmp_path / "no-loss", no_loss) as second:
        assert first.wait() == [70]
        failure = first.workers[0].failure
        assert failure is not None
        assert failure.exception == "KeyError"
        frames = [line for line in failure.traceback.splitlines() if line.strip().startswith("File ")]
        assert frames
        assert all("tasks_for_tests.py" in frame for frame in frames)
        assert second.wait() == [78]
        failure = second.workers[0].failure
        assert failure is not None
        assert "Give the task a loss()" in failure.message
        assert "Traceback" not in second.workers[0].output()


@pytest.mark.soak
def test_a_vocabulary_is_the_checkpoints_whatever_a_start_learns(tmp_path: Path) -> None:
    train = {"task": "tasks_for_tests.py:Sentences", "steps": 20, "global_batch_size": 16, "seed": 3}
    with job(tmp_path / "whole", train) as whole, job(tmp_path / "parts", {**train, "steps": 10}) as first:
        assert whole.wait() == [0], whole.workers[0].output()
        assert first.wait() == [0], first.workers[0].output()
    train["params"] = {"backwards": True}
    with job(tmp_path / "parts", train, attempt=2, restore=CommitRef(step=10, attempt=1)) as second:
        assert second.wait() == [0], second.workers[0].output()
        assert "what adapt() learned is the checkpoint's" in second.workers[0].output()
        assert second.workers[0].result.weights_sha256 == whole.workers[0].result.weights_sha256
        assert second.workers[0].result.metrics == whole.workers[0].result.metrics


def test_a_variable_that_no_checkpoint_holds_is_named(tmp_path: Path) -> None:
    with job(tmp_path, {**DIGITS, "task": "tasks_for_tests.py:HiddenVariable", "steps": 20}) as done:
        assert done.wait() == [0], done.workers[0].output()
        assert "temperature:0 () is used by the step, but nothing leads to it" in done.workers[0].output()
        assert done.workers[0].output().count("is used by the step") == 1


@pytest.mark.soak
def test_a_commit_is_refused_when_it_is_damaged_or_of_another_order_of_the_data(tmp_path: Path) -> None:
    with job(tmp_path, DIGITS) as done:
        assert done.wait() == [0]
    commit = CommitRef(step=120, attempt=1)
    with job(tmp_path, {**DIGITS, "global_batch_size": 30}, attempt=2, restore=commit) as other:
        assert other.wait() == [78]
        failure = other.workers[0].failure
        assert failure is not None
        assert "Set train.global_batch_size to 50" in failure.message
    shard = next((tmp_path / "run" / "checkpoints" / "data").rglob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    with job(tmp_path, DIGITS, attempt=3, restore=commit) as damaged:
        assert damaged.wait() == [75]
        failure = damaged.workers[0].failure
        assert failure is not None
        assert failure.bad_commit == "step-120.attempt-1"
