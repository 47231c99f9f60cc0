"""Looking after a job on a real cluster: cancel, resume, wait, exec, logs through a replaced pod, delete of several."""

import os
import threading
from typing import Any

import pytest
from support_cluster import Room, orch

from orchestrator.manifests.yaml_writer import to_yaml

pytestmark = pytest.mark.e2e

STEPS = 450
TRAIN = {
    "task": "code/slow.py:Slow",
    "steps": STEPS,
    "global_batch_size": 64,
    "seed": 23,
    "evaluate": {"every": STEPS},
}
# Half a minute at least, however fast the machine is: there is time to act in mid-run.
SLOW = """
import time

import keras

from trainer.tasks.digits import Digits


class Pause(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        time.sleep(1.5)


class Slow(Digits):
    def callbacks(self):
        return [Pause()]
"""


def _submit(room: Room, name: str, **changes: Any) -> None:
    code = room.mount_code("slow.py", SLOW)
    room.orch("submit", str(room.job_file(name, train=TRAIN, checkpoint={"every": "10m"}, **code, **changes)))


def _trains(status: dict[str, Any]) -> bool:
    return status["state"] == "running" and status["step"] > 0


def test_a_cancelled_job_goes_on_with_the_same_weights_and_wait_tells_how_it_went(room: Room) -> None:
    _submit(room, "kept")
    room.wait_for_status("kept", _trains)
    late = room.orch("wait", "kept", "--timeout", "1s", check=False)
    assert late.code == 124, "a timeout is told from a failure"

    asked = room.orch("exec", "kept", "--worker", "1", "--", "sh", "-c", "hostname; exit 7", check=False)
    assert (asked.code, asked.stdout.strip()) == (7, room.pods("kept")[1].metadata.name.rpartition("-")[0])

    stopped = room.orch("cancel", "kept", "-o", "json").json()
    assert 0 < stopped["step"] < STEPS, "stopped with a checkpoint"
    assert room.pods("kept") == {}
    assert "Job kept" in room.objects()
    assert room.orch("wait", "kept", "--for", "stopped", "--timeout", "10s").code == 0

    room.orch("resume", "kept")
    assert room.orch("wait", "kept", timeout_s=300).code == 0
    status = room.status("kept")
    assert (status["state"], status["step"], status["attempts"]) == ("succeeded", STEPS, 2)
    assert status["steps_lost"] == 0
    again = room.orch("resume", "kept", check=False)
    assert again.code != 0
    assert "nothing left to do" in again.stderr

    # The same training in one go, as processes of this machine.
    (room.folder / "job.yaml").write_text(to_yaml([{"name": "one-go", "train": TRAIN}]))
    whole = orch(room.folder, os.environ, "run", "job.yaml", "--workers", "2", "-o", "json", timeout_s=300)
    assert whole.code == 0, whole.stderr
    assert status["weights_sha256"] == whole.json()["weights_sha256"]

    gone = room.orch("delete", "kept", "never-was", check=False)
    assert gone.code != 0
    assert "never-was" in gone.stderr
    assert room.objects() == [], "one that is not there keeps no other"


def test_a_job_that_is_deleted_is_guarded_until_its_pods_have_stopped(room: Room) -> None:
    code = room.mount_code("slow.py", SLOW.replace("1.5", "8"))
    room.orch("submit", str(room.job_file("leaves", train=TRAIN, checkpoint={"every": "10m"}, **code)))
    room.wait_for_status("leaves", _trains)
    guards = {"NetworkPolicy", "Service", "Secret"}

    def ending() -> bool:
        return any(pod.metadata.deletion_timestamp for pod in room.api.list_namespaced_pod(room.namespace).items)

    killed = room.start("delete", "leaves")
    room.wait_for("the pods to be told", ending)
    killed.kill()
    killed.communicate()
    assert "Job leaves" in room.objects(), "what a delete that broke off leaves is a job that can be seen"
    delete, looks = room.start("delete", "leaves"), 0
    while delete.poll() is None:
        kinds = {name.split()[0] for name in room.objects()}
        pods = [pod for pod in room.api.list_namespaced_pod(room.namespace).items if pod.status.phase == "Running"]
        assert not pods or guards <= kinds, f"pods without {guards - kinds}"
        looks += any(pod.metadata.deletion_timestamp for pod in pods)
    assert delete.wait() == 0, delete.communicate()
    assert looks > 2, "it was looked at while the pods were ending"
    assert room.objects() == []


def test_a_job_goes_on_with_fewer_workers(room: Room) -> None:
    _submit(room, "shrinks")
    room.wait_for_status("shrinks", _trains)
    stopped = room.orch("cancel", "shrinks", "-o", "json").json()
    resumed = room.orch("resume", "shrinks", "--workers", "1", "-o", "json").json()
    assert (resumed["workers"], resumed["anew"]) == (1, True)
    assert room.orch("wait", "shrinks", timeout_s=300).code == 0
    status = room.status("shrinks")
    assert (status["state"], status["step"]) == ("succeeded", STEPS)
    assert status["attempts"] == 2, f"it went on from step {stopped['step']}"
    assert status["metrics"]["val_accuracy"] > 0.9
    assert len(room.pods("shrinks")) == 1


def test_logs_are_followed_through_a_replaced_pod_each_line_once(room: Room) -> None:
    _submit(room, "talks")
    follower = room.start("logs", "-f", "talks", "--worker", "0")
    room.wait_for_status("talks", _trains)
    old = room.pods("talks")[0].metadata.name
    raw: list[str] = []
    stream = room.api.read_namespaced_pod_log(old, room.namespace, follow=True, _preload_content=False)
    reader = threading.Thread(target=lambda: raw.append(stream.data.decode()))
    reader.start()
    room.api.delete_namespaced_pod(old, room.namespace)
    assert room.orch("wait", "talks", timeout_s=300).code == 0
    stdout, stderr = follower.communicate(timeout=60)
    reader.join(timeout=10)
    assert follower.returncode == 0, stderr

    shown = [line.removeprefix("[0] ") for line in stdout.splitlines()]
    before = raw[0].splitlines()
    after = room.api.read_namespaced_pod_log(room.pods("talks")[0].metadata.name, room.namespace).splitlines()
    assert len(before) > 1
    assert len(after) > 1
    assert shown == before + after


def test_wait_leaves_with_the_code_of_a_job_that_failed(room: Room) -> None:
    code = room.mount_code("bad.py", SLOW + "\n    def model(self):\n        raise ValueError('no such layer')\n")
    train = {"task": "code/bad.py:Slow", "steps": 20}
    room.orch("submit", str(room.job_file("fails", train=train, **code)))
    done = room.orch("wait", "fails", "--timeout", "3m", timeout_s=200, check=False)
    assert done.code == 70
    assert "no such layer" in done.stdout + done.stderr
    refused = room.orch("cancel", "fails", check=False)
    assert refused.code != 0
    assert "has ended already" in refused.stderr
