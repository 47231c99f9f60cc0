"""The whole path on a real cluster: submit, follow, end with the weights of a run on this machine, leave nothing."""

import signal
from typing import Any

import pytest
from support_cluster import Room
from support_training import CHECKPOINT, PACED, PACED_TRAIN, STEPS, TRAIN

pytestmark = pytest.mark.e2e


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
