"""Commands that watch a job go on while the API server is away, and tell how the job ended."""

import json
import signal
import subprocess

import pytest
from support_cluster import Room
from support_cluster_faults import Faults

pytestmark = pytest.mark.e2e

END_S = 240
AWAY = "does not answer"
# A line a block, for more than half a minute: some come while the API server is away, and some after it.
TALKS = """
import time

import keras

from trainer.tasks.digits import Digits


class Say(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print("block", epoch, flush=True)
        time.sleep(0.5)


class Talks(Digits):
    def callbacks(self):
        return [Say()]
"""


def test_watchers_outlive_an_outage_of_the_api_server(room: Room, faults: Faults) -> None:
    code = room.mount_code("talks.py", TALKS)
    room.orch("submit", str(room.job_file("watched", train={"task": "code/talks.py:Talks", "steps": 2000}, **code)))
    watchers = {
        "status": room.start("status", "watched", "-w"),
        "json": room.start("status", "watched", "-w", "-o", "json"),
        "events": room.start("events", "watched", "-w"),
        "logs": room.start("logs", "watched", "-f"),
        "wait": room.start("wait", "watched"),
    }
    outcomes: dict[str, tuple[int, str, str]] = {}
    try:
        room.wait_for_status("watched", lambda status: status["state"] == "running" and status["step"] > 0)
        with faults.stopped("apiserver"):
            refused = room.orch("status", "watched", check=False)
            assert AWAY in refused.stderr
            assert [name for name, process in watchers.items() if process.poll() is not None] == []
        for name, process in watchers.items():
            stdout, stderr = process.communicate(timeout=END_S)
            outcomes[name] = process.returncode, stdout, stderr
    finally:
        for process in watchers.values():
            process.kill()
            process.wait()
    assert {name: outcome[0] for name, outcome in outcomes.items()} == dict.fromkeys(watchers, 0), outcomes
    status = outcomes["status"][1]
    assert AWAY in status
    assert "watched: succeeded" in status[status.rindex(AWAY) :], "it goes on afterwards"
    states = [json.loads(line)["state"] for line in outcomes["json"][1].splitlines()]
    assert states[-1] == "succeeded"
    assert "Created" in outcomes["events"][1]
    shown: dict[int, list[str]] = {0: [], 1: []}
    for line in outcomes["logs"][1].splitlines():
        worker, _, text = line.removeprefix("[").partition("] ")
        shown[int(worker)].append(text)
    for worker, pod in room.pods("watched").items():
        assert shown[worker] == room.api.read_namespaced_pod_log(pod.metadata.name, room.namespace).splitlines()
        assert sum(line.startswith("block ") for line in shown[worker]) > 50
    assert room.status("watched")["restarts"] == 0, "training did not notice"
    listed = room.orch("list", "-o", "name").stdout.split()
    assert listed == ["watched"]


def test_ctrl_c_leaves_the_job_alone(room: Room) -> None:
    room.orch("submit", str(room.job_file("kept", train={"task": "trainer.tasks.digits:Digits", "steps": 500})))
    watcher = room.start("status", "kept", "-w")
    assert watcher.stdout is not None
    assert watcher.stdout.readline().startswith("kept: ")
    watcher.send_signal(signal.SIGINT)
    try:
        assert watcher.wait(30) == 130
    except subprocess.TimeoutExpired:
        watcher.kill()
        raise
    assert room.orch("wait", "kept", timeout_s=180).code == 0
