"""A JobSet as the carrier: two groups of workers on two nodes, the hosts of a TPU slice that are replaced together, and what the
cluster says of such a slice."""

from typing import Any

import pytest
from kubernetes import client, utils
from support_cluster import JOBSETS, Manifest, Room
from support_hardware import nodes_with
from support_training import CHECKPOINT, PACED, PACED_TRAIN, STEPS

from orchestrator.jobfile.accelerators import parse
from orchestrator.jobfile.load import load
from orchestrator.jobfile.resolve import resolve_for_cluster
from orchestrator.manifests.render import NODE_POOL, render

pytestmark = pytest.mark.e2e

HOST = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if os.environ["ORCH_INDEX"] == "1":
    codes = {"0": 1, "2": 78}
    if os.environ["RESTART"] in codes:
        sys.exit(codes[os.environ["RESTART"]])
time.sleep(3600)
"""
"""What runs on each of two hosts instead of a trainer: the second one fails at first, and ends the job after two restarts."""


@pytest.fixture(autouse=True)
def _with_jobset(room: Room) -> None:
    if not room.serves("jobset.x-k8s.io"):
        pytest.skip("JobSet is not installed on this cluster")


def test_two_groups_of_workers_lose_a_pod_and_end_with_the_weights_of_a_local_run(
    room: Room, undisturbed: dict[str, Any]
) -> None:
    code = room.mount_code("paced.py", PACED)
    job = room.job_file("grouped", train=PACED_TRAIN, checkpoint=CHECKPOINT, kubernetes={"groups": 2}, **code)
    room.orch("submit", str(job))
    taken = room.orch("submit", str(job), check=False)
    assert taken.code == 78
    assert "name grouped is taken" in taken.stderr
    follower = room.start("logs", "-f", "grouped")
    room.wait_for_status("grouped", lambda status: status["state"] == "running" and status["step"] > 0)
    assert {"JobSet grouped", "Job grouped-worker-0", "Job grouped-worker-1"} <= set(room.objects())
    before = room.pods("grouped")
    assert len({pod.spec.node_name for pod in before.values()}) == 2

    room.api.delete_namespaced_pod(before[1].metadata.name, room.namespace)
    status = room.wait_for_status("grouped", lambda status: status["state"] == "succeeded", timeout_s=300)
    assert (status["step"], status["attempts"], status["restarts"]) == (STEPS, 2, 1)
    assert status["weights_sha256"] == undisturbed["weights_sha256"]
    assert [worker["index"] for worker in status["workers"]] == [0, 1]
    after = room.pods("grouped")
    assert after[0].metadata.uid == before[0].metadata.uid, "the other group is left alone"
    assert after[1].metadata.uid != before[1].metadata.uid

    stdout, _ = follower.communicate(timeout=60)
    assert follower.returncode == 0, "logs -f ends when the job does"
    starts = [line[:3] for line in stdout.splitlines() if "agent started" in line]
    assert sorted(starts) == ["[0]", "[1]", "[1]"], "the replaced pod and its replacement were both followed"
    room.orch("delete", "grouped")
    assert room.objects() == []


@pytest.mark.e2e_long
def test_a_jobset_that_is_cancelled_is_stopped_with_a_checkpoint_and_resumed(
    room: Room, undisturbed: dict[str, Any]
) -> None:
    code = room.mount_code("paced.py", PACED)
    kubernetes = {"groups": 2}
    job = room.job_file("again", train=PACED_TRAIN, checkpoint={"every": "10m"}, kubernetes=kubernetes, **code)
    room.orch("submit", str(job))
    room.wait_for_status("again", lambda status: status["state"] == "running" and status["step"] > 0)
    room.orch("cancel", "again")
    assert room.pods("again") == {}
    stopped = room.status("again")
    assert stopped["state"] == "stopped"
    assert 0 < stopped["step"] < STEPS
    room.orch("resume", "again")
    room.orch("wait", "again", timeout_s=300)
    status = room.status("again")
    assert (status["state"], status["step"], status["attempts"]) == ("succeeded", STEPS, 2)
    assert status["weights_sha256"] == undisturbed["weights_sha256"]
    room.orch("delete", "again")
    assert room.objects() == []


def test_the_hosts_of_a_slice_are_replaced_together_and_only_failures_are_counted(room: Room) -> None:
    resources = {"accelerator": "v4-16", "cpu": 0.1, "memory": "256Mi"}
    spec = load(room.job_file("slice", resources=resources, restarts={"max": 1})).spec
    *others, jobset = render(spec, resolve_for_cluster(spec), namespace=room.namespace, token="none")
    template = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    attempt = {"fieldRef": {"fieldPath": "metadata.labels['jobset.sigs.k8s.io/restart-attempt']"}}
    container = template["containers"][0]
    container["command"] = ["python", "-c", HOST]
    container["env"].append({"name": "RESTART", "valueFrom": attempt})
    with nodes_with(room, parse("v4-16"), 2, {NODE_POOL: "slice-pool"}) as nodes:
        if len(nodes) < 2:
            pytest.skip("two nodes that take pods are needed")
        for item in others:
            utils.create_from_dict(client.ApiClient(), item)
        api = client.CustomObjectsApi()
        api.create_namespaced_custom_object(*JOBSETS[:2], room.namespace, JOBSETS[2], jobset)

        def restarts() -> tuple[int, int]:
            found = api.get_namespaced_custom_object(*JOBSETS[:2], room.namespace, JOBSETS[2], "slice")
            status: Manifest = found.get("status", {})
            return status.get("restarts", 0), status.get("restartsCountTowardsMax", 0)

        def both_run() -> bool:
            return [pod.status.phase for pod in room.pods("slice").values()] == ["Running", "Running"]

        room.wait_for("the restart after the failure of a host", lambda: restarts() == (1, 1))
        room.wait_for("both hosts to run again", both_run)
        hosts = room.pods("slice")
        assert {pod.spec.node_name for pod in hosts.values()} == set(nodes)
        name = hosts[0].metadata.name
        room.api.create_namespaced_pod_eviction(name, room.namespace, {"metadata": {"name": name}})
        room.wait_for("the restart after an eviction, which is not counted", lambda: restarts() == (2, 1))
        status = room.wait_for_status("slice", lambda status: status["state"] == "failed", timeout_s=60)
        assert status["code"] == 78
        assert restarts() == (2, 1), "another try would end the same way"
        room.orch("delete", "slice")
    assert room.objects() == []


def test_a_slice_of_several_hosts_is_taken_by_the_cluster_and_refused_by_submit(room: Room) -> None:
    # Of the longest name there may be: the names of its pods and of its Jobs are derived from it.
    job = str(room.job_file("s" * 40, resources={"accelerator": "v5litepod-16", "cpu": 1, "memory": "1Gi"}))
    dry = room.orch("submit", job, "--dry-run=server", "-o", "json")
    assert "JobSet" in dry.stderr
    jobset = dry.json()["objects"][-1]
    assert jobset["kind"] == "JobSet"
    assert "nothing was created" in dry.stderr
    refused = room.orch("submit", job, check=False)
    assert refused.code == 78
    assert "a TPU slice of 4 hosts" in refused.stderr
    assert "not built yet" in refused.stderr
    assert room.objects() == []
