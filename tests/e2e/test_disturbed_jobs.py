"""A job loses a process, a pod, a node, the network, the bucket, and ends with the weights of an undisturbed run.

Each test says what was lost, that `orch status` names it meanwhile, and that only what was lost was replaced.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
from support_cluster import KILL_TRAINING, Room
from support_cluster_faults import Faults
from support_recovery import DisturbedJob, add_row
from support_told import Clock, silent
from support_training import STEPS

pytestmark = pytest.mark.e2e

Property = Callable[[str, object], None]

OUTAGE_S = 60


def test_a_killed_training_process_is_started_again_in_its_pod(
    room: Room, nodes: Faults, undisturbed: dict[str, Any], record_property: Property
) -> None:
    job = DisturbedJob(room, nodes, "process-killed", worker=1)
    job.lost()
    room.exec(job.pod(1).metadata.name, "python", "-c", KILL_TRAINING)
    status, row = job.wait_until_over(replaced=set(), restarts=1, weights=undisturbed["weights_sha256"])
    assert "worker 1: killed (SIGKILL)" in status["history"][0]["reason"]
    add_row(record_property, row)


@pytest.mark.parametrize("worker", [pytest.param(1, marks=pytest.mark.e2e_long), 0])
def test_a_deleted_pod_alone_is_replaced(
    room: Room, nodes: Faults, undisturbed: dict[str, Any], record_property: Property, worker: int
) -> None:
    job = DisturbedJob(room, nodes, "pod-deleted", worker)
    follower = room.start("logs", "-f", job.name)
    job.lost()
    room.api.delete_namespaced_pod(job.pod(worker).metadata.name, room.namespace)
    job.wait_until_told(f"worker {worker}")
    _, row = job.wait_until_over(replaced={worker}, restarts=1, weights=undisturbed["weights_sha256"])
    add_row(record_property, row)

    stdout, _ = follower.communicate(timeout=60)
    assert follower.returncode == 0, "logs -f ends when the job does"
    starts = [line for line in stdout.splitlines() if line.startswith(f"[{worker}] ") and "agent started" in line]
    assert len(starts) == 2, "the deleted pod and its replacement were both followed"


def test_a_drained_node_gives_its_worker_to_another_one(
    room: Room, nodes: Faults, undisturbed: dict[str, Any], record_property: Property
) -> None:
    job = DisturbedJob(room, nodes, "node-drained", worker=1)
    job.lost()
    with nodes.cordoned(nodes.victim):
        name = job.pod(1).metadata.name
        room.api.create_namespaced_pod_eviction(name, room.namespace, {"metadata": {"name": name}})
        job.wait_until_told("worker 1")
        _, row = job.wait_until_over(replaced={1}, restarts=1, weights=undisturbed["weights_sha256"])
    assert room.pods(job.name)[1].spec.node_name != nodes.victim
    add_row(record_property, row)


def test_a_node_that_lost_its_power_and_comes_back(
    room: Room, faults: Faults, undisturbed: dict[str, Any], record_property: Property, clock: Clock
) -> None:
    job = DisturbedJob(room, faults, "node-off", worker=1)
    job.lost()
    with faults.stopped(faults.victim):
        job.wait_until_told(faults.victim, "silent")
        clock.told("a node lost its power", "condition Ready of the Node", silent(faults.victim))
        job.mended("the node is back")
    _, row = job.wait_until_over(replaced={1}, restarts=1, weights=undisturbed["weights_sha256"])
    add_row(record_property, row)


@pytest.mark.e2e_long
def test_a_node_that_lost_its_power_and_is_deleted(
    room: Room, faults: Faults, undisturbed: dict[str, Any], record_property: Property
) -> None:
    job = DisturbedJob(room, faults, "node-gone", worker=0)
    job.lost()
    with faults.stopped(faults.victim):
        job.wait_until_told(faults.victim, "silent")
        job.mended("its Node is deleted")
        faults.delete_node(faults.victim)
        _, row = job.wait_until_over(replaced={0}, restarts=1, weights=undisturbed["weights_sha256"])
    assert room.pods(job.name)[0].spec.node_name != faults.victim
    add_row(record_property, row)


@pytest.mark.parametrize("worker", [0, pytest.param(1, marks=pytest.mark.e2e_long)])
def test_a_worker_of_a_silent_kubelet_is_replaced_and_the_old_one_which_lives_commits_nothing(
    room: Room, faults: Faults, undisturbed: dict[str, Any], record_property: Property, worker: int
) -> None:
    job = DisturbedJob(room, faults, "kubelet-silent", worker)
    job.lost()
    with faults.stopped(f"kubelet/{faults.victim}"):
        job.wait_until_told(faults.victim, "silent")
        assert len(job.records()) == 1, "the containers run on: nothing was lost yet"
        job.mended("orch replace")
        room.orch("replace", job.name, "--worker", str(worker))
        room.wait_for("attempt 2", lambda: len(job.records()) == 2)
        then = job.line()
        _, row = job.wait_until_over(replaced={worker}, restarts=1, weights=undisturbed["weights_sha256"])
        # Nobody but itself could end it: its kubelet is away, and its pod is no more.
        room.wait_for("the old agent to leave", lambda: "agent leaves code=143" in job.agent_log(job.pod(worker)))
    assert [ref.name for ref in job.commits() if ref.attempt == 1 and ref not in then] == []
    assert job.line()[0].name == f"step-{STEPS}.attempt-2"
    add_row(record_property, row)


@pytest.mark.parametrize("worker", [pytest.param(1, marks=pytest.mark.e2e_long), 0])
def test_a_partition_that_heals_replaces_nothing(
    room: Room, faults: Faults, undisturbed: dict[str, Any], record_property: Property, worker: int
) -> None:
    job = DisturbedJob(room, faults, "partition", worker)
    job.lost()
    with faults.cut_off(faults.victim):
        job.wait_until_told("worker 1", "silent")
        job.mended("healed")
    _, row = job.wait_until_over(replaced=set(), restarts=1, weights=undisturbed["weights_sha256"])
    add_row(record_property, row)


def test_training_goes_on_while_the_bucket_is_away_for_a_minute(
    room: Room, faults: Faults, undisturbed: dict[str, Any]
) -> None:
    job = DisturbedJob(room, faults, "bucket-away", worker=1)
    with faults.stopped("gcs"):
        began = room.status(job.name)["step"]
        until = time.monotonic() + OUTAGE_S
        status = room.wait_for_status(job.name, lambda status: bool(status["save_error"]))
        assert status["state"] == "running"
        room.wait_for("the minute to pass", lambda: time.monotonic() > until, timeout_s=OUTAGE_S + 10)
        status = room.status(job.name)
        assert (status["state"], status["attempts"]) == ("running", 1)
        assert status["step"] > began
    job.wait_until_over(replaced=set(), restarts=0, weights=undisturbed["weights_sha256"])
