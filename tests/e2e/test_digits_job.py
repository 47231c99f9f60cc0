"""The whole path on a real cluster: submit, follow, lose a pod, end with the weights of a run on this machine, leave nothing."""

import os
import signal
from typing import Any

import pytest
from support_cluster import Room, orch, what_is_missing

from orchestrator.yamltext import to_yaml

pytestmark = pytest.mark.e2e

STEPS = 900
TRAIN = {
    "task": "trainer.tasks.digits:Digits",
    "steps": STEPS,
    "global_batch_size": 64,
    "seed": 17,
    "evaluate": {"every": STEPS // 2},
}
CHECKPOINT = {"every": STEPS // 10}

# The same training, which takes 40 s at least however fast the machine is: tests that act in mid-run have the time to.
PACED = """
import time

import keras

from trainer.tasks.digits import Digits


class Pause(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        time.sleep(1)


class Paced(Digits):
    def callbacks(self):
        return [Pause()]
"""
PACED_TRAIN = TRAIN | {"task": "code/paced.py:Paced"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same job with the same two workers, as processes of this machine."""
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("undisturbed")
    job = folder / "job.yaml"
    job.write_text(to_yaml([{"name": "undisturbed", "train": TRAIN, "checkpoint": CHECKPOINT}]))
    done = orch(folder, os.environ, "run", str(job), "--workers", "2", "-o", "json", timeout_s=300)
    assert done.code == 0, done.stderr
    result: dict[str, Any] = done.json()
    assert (result["state"], result["step"], result["restarts"]) == ("succeeded", STEPS, 0)
    return result


def test_two_workers_on_two_nodes_end_with_the_weights_of_a_local_run(room: Room, undisturbed: dict[str, Any]) -> None:
    job = room.job_file("digits", train=TRAIN, checkpoint=CHECKPOINT)
    followed = room.orch("submit", str(job), "--follow", timeout_s=400)
    assert "context e2e" in followed.stderr.splitlines()[0]
    assert room.namespace in followed.stderr.splitlines()[0]
    lines = followed.stdout.splitlines()
    assert any(line.startswith("[0] ") for line in lines)
    assert any(line.startswith("[1] ") for line in lines)
    assert any(line.startswith("digits: succeeded") for line in lines)
    assert len({pod.spec.node_name for pod in room.pods("digits").values()}) == 2

    status = room.status("digits")
    assert (status["state"], status["code"], status["step"], status["restarts"]) == ("succeeded", 0, STEPS, 0)
    assert status["weights_sha256"] == undisturbed["weights_sha256"]
    assert status["metrics"]["val_accuracy"] == pytest.approx(undisturbed["metrics"]["val_accuracy"])
    assert status["metrics"]["val_accuracy"] > 0.95
    assert "[0] " in room.orch("logs", "digits").stdout

    removed = room.orch("delete", "digits")
    assert status["run_directory"] in removed.stderr
    assert room.objects() == []
    # What the job left behind tells the same, without the cluster.
    left = room.orch("status", status["run_directory"], "-o", "json", cluster=False).json()
    assert {name: left[name] for name in ("state", "step", "weights_sha256")} == {
        name: status[name] for name in ("state", "step", "weights_sha256")
    }
    again = room.orch("delete", "digits", check=False)
    assert again.code != 0
    assert "nothing of a job digits" in again.stderr


@pytest.mark.parametrize("worker", [1, 0])
def test_a_pod_deleted_in_mid_run_alone_is_replaced_and_the_weights_stay_the_same(
    room: Room, undisturbed: dict[str, Any], worker: int
) -> None:
    name = f"loses-{worker}"
    code = room.mount_code("paced.py", PACED)
    room.orch("submit", str(room.job_file(name, train=PACED_TRAIN, checkpoint=CHECKPOINT, **code)))
    follower = room.start("logs", "-f", name)
    room.wait_for_status(name, lambda status: status["state"] == "running" and status["step"] > 0)
    before = room.pods(name)

    room.api.delete_namespaced_pod(before[worker].metadata.name, room.namespace)
    said = set()

    def is_over(status: dict[str, Any]) -> bool:
        assert status["reason"], f"a status without words: {status}"
        said.add(status["state"])
        return status["state"] in ("succeeded", "failed")

    status = room.wait_for_status(name, is_over, timeout_s=400)
    after = room.pods(name)
    other = 1 - worker
    assert after[other].metadata.uid == before[other].metadata.uid
    assert after[worker].metadata.uid != before[worker].metadata.uid
    assert (status["state"], status["step"]) == ("succeeded", STEPS)
    assert status["restarts"] >= 1
    assert status["weights_sha256"] == undisturbed["weights_sha256"]
    assert "restarting" in said or "waiting" in said

    stdout, _ = follower.communicate(timeout=60)
    assert follower.returncode == 0, "logs -f ends when the job does"
    starts = [line for line in stdout.splitlines() if line.startswith(f"[{worker}] ") and "agent started" in line]
    assert len(starts) == 2, "the replaced pod and its replacement were both followed"

    room.orch("delete", name)
    assert room.objects() == []


def test_a_job_deleted_in_mid_run_is_stopped_with_a_checkpoint_and_goes_on_when_submitted_again(
    room: Room, undisturbed: dict[str, Any]
) -> None:
    code = room.mount_code("paced.py", PACED)
    job = str(room.job_file("again", train=PACED_TRAIN, checkpoint={"every": "10m"}, **code))
    room.orch("submit", job)
    room.wait_for_status("again", lambda status: status["state"] == "running" and status["step"] > 0)
    taken = room.orch("submit", job, check=False)
    assert taken.code == 78
    assert "name again is taken" in taken.stderr
    directory = room.status("again")["run_directory"]
    room.orch("delete", "again")
    assert room.objects() == []
    stopped = room.orch("status", directory, "-o", "json", cluster=False).json()
    assert 0 < stopped["step"] < STEPS

    room.orch("submit", job, "--wait", timeout_s=400)
    status = room.status("again")
    assert (status["state"], status["attempts"], status["restarts"]) == ("succeeded", 2, 0)
    assert status["weights_sha256"] == undisturbed["weights_sha256"]
    room.orch("delete", "again")


def test_a_submit_that_is_interrupted_while_it_waits_leaves_the_job_running(room: Room) -> None:
    job = str(room.job_file("long", train=PACED_TRAIN, **room.mount_code("paced.py", PACED)))
    waiting = room.start("submit", job, "--wait")
    room.wait_for("Job long", lambda: "Job long" in room.objects())
    room.wait_for_status("long", lambda status: status["state"] == "running")
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(timeout=30) == 130
    assert room.status("long")["state"] == "running"
    room.orch("delete", "long")
    assert room.objects() == []
