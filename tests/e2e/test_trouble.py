"""What goes wrong is told with its reason and its remedy, and a submit leaves all of a job or nothing."""

import json
import secrets
from pathlib import Path

import pytest
from kubernetes import client
from support_cluster import Manifest, Room, absent_tag
from support_told import Clock, event, not_admitted, unscheduled

from orchestrator.jobfile.load import load
from orchestrator.jobfile.resolve import resolve_for_cluster
from orchestrator.jobs import submit as submitting
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ClusterUnreachable
from trainer.exit_codes import ExitCode

pytestmark = pytest.mark.e2e

BROKEN = """
from trainer.task import Task

class Broken(Task):
    def model(self):
        raise ValueError("labels must be below ten")

    def train_data(self):
        import numpy
        return numpy.zeros((64, 4), "float32"), numpy.zeros(64, "int32")
"""


HUNGRY = """
from trainer.task import Task

class Hungry(Task):
    def model(self):
        raise AssertionError

    def train_data(self):
        eaten = []
        while True:
            eaten.append(b"x" * (16 << 20))
"""


def test_an_image_that_does_not_exist_is_told_with_a_remedy(room: Room, clock: Clock) -> None:
    image = absent_tag(room.image)
    room.orch("submit", str(room.job_file("no-image", image={"ref": image})), "--skip", "image")
    status = room.wait_for_status("no-image", lambda status: _both_cannot_pull(status["reason"]), timeout_s=60)
    clock.told("the image does not exist", "event Failed of the last pod", event("Failed"))
    assert status["state"] == "waiting"
    shown = room.orch("status", "no-image").stdout
    assert image in shown
    assert "what to do: " in shown
    assert "image.ref" in shown
    room.orch("delete", "no-image")
    assert room.objects() == []


def _both_cannot_pull(reason: str) -> bool:
    return reason.startswith("workers 0, 1: the node cannot pull the image")


def test_a_task_that_raises_ends_the_job_with_its_traceback(room: Room) -> None:
    code = room.mount_code("broken.py", BROKEN)
    job = room.job_file("broken", train={"task": "code/broken.py:Broken", "steps": 100}, **code)
    ended = room.orch("submit", str(job), "--wait", check=False, timeout_s=180)
    assert ended.code == 70, ended.stdout + ended.stderr
    status = room.status("broken")
    assert (status["state"], status["code"], status["restarts"]) == ("failed", 70, 0)
    assert "labels must be below ten" in status["reason"]
    shown = room.orch("status", "broken").stdout
    assert "broken.py" in shown, "the user's own traceback"
    assert "what to do: correct the task" in shown
    assert "labels must be below ten" in room.orch("logs", "broken").stdout
    room.orch("delete", "broken")
    assert room.objects() == []


def test_a_process_that_runs_out_of_memory_is_told_with_its_limit(room: Room) -> None:
    code = room.mount_code("hungry.py", HUNGRY)
    job = room.job_file(
        "hungry",
        train={"task": "code/hungry.py:Hungry", "steps": 100},
        resources={"workers": 1, "cpu": 1, "memory": "1Gi"},
        restarts={"max": 0},
        **code,
    )
    room.orch("submit", str(job), "--skip", "memory")
    said = room.wait_for_status("hungry", _says_out_of_memory, timeout_s=120)
    assert "1Gi" in json.dumps(said["troubles"]), "the limit"
    assert "resources.memory" in room.orch("status", "hungry").stdout
    # With cgroup v1 the agent lives on and tells it; with v2 it dies too, and the pod's status alone does.
    pods = room.api.list_namespaced_pod(room.namespace).items
    ends = [item.state.terminated for pod in pods for item in pod.status.container_statuses or []]
    if not any(end and end.exit_code == ExitCode.KILLED for end in ends):
        events = room.orch("events", "hungry", "-o", "json").json()
        assert said["code"] or any("emory" in event["message"] for event in events)


def _says_out_of_memory(status: Manifest) -> bool:
    return "memory" in status["reason"] or any("memory" in trouble["reason"] for trouble in status["troubles"])


def test_a_worker_that_fits_no_node_says_so(room: Room, clock: Clock) -> None:
    job = room.job_file("too-big", resources={"workers": 1, "cpu": 5000, "memory": "1Gi"})
    room.orch("submit", str(job))
    status = room.wait_for_status("too-big", lambda status: "no node for it" in status["reason"], timeout_s=60)
    clock.told("no node is large enough", "condition PodScheduled", unscheduled)
    assert "too little cpu free (a worker asks for 5k; the largest node has" in status["reason"]
    assert "resources.cpu" in room.orch("status", "too-big").stdout


def test_a_submit_that_is_refused_leaves_nothing(room: Room) -> None:
    service = {"metadata": {"name": "taken"}, "spec": {"ports": [{"port": 80}]}}
    room.api.create_namespaced_service(room.namespace, service)
    refused = room.orch("submit", str(room.job_file("taken")), check=False)
    assert refused.code == 78
    assert "Service taken exists already" in refused.stderr
    assert room.objects() == ["Service taken"]
    room.api.delete_namespaced_service("taken", room.namespace)


def test_pods_that_the_namespace_forbids_are_told(room: Room, clock: Clock) -> None:
    job = room.job_file("wrong", kubernetes={"pod": {"spec": {"hostNetwork": True}}})
    room.orch("submit", str(job), "--skip", "pod")
    status = room.wait_for_status("wrong", lambda status: "refuses" in status["reason"], timeout_s=60)
    clock.told("Pod Security forbids the pods", "event FailedCreate", event("FailedCreate"))
    assert "violates PodSecurity" in status["reason"]
    assert "host namespaces" in status["reason"]
    room.orch("delete", "wrong")
    assert room.objects() == []


def test_a_secret_that_does_not_exist_is_told(room: Room, clock: Clock) -> None:
    room.orch("submit", str(room.job_file("needs-secret", secrets=[{"name": "absent", "env": {"KEY": "key"}}])))
    reason = "workers 0, 1: Secret absent does not exist"
    room.wait_for_status("needs-secret", lambda status: status["reason"] == reason, timeout_s=60)
    clock.told("a Secret does not exist", "event Failed of the last pod", event("Failed"))
    room.orch("delete", "needs-secret")
    assert room.objects() == []


def test_a_node_that_does_not_exist_is_told(room: Room, clock: Clock) -> None:
    selector = {"example.com/room": "none-has-this"}
    job = room.job_file("nowhere", scheduling={"node_selector": selector}, resources={"workers": 1, "cpu": 1})
    room.orch("submit", str(job))
    status = room.wait_for_status("nowhere", lambda status: bool(status["troubles"]), timeout_s=60)
    clock.told("no node has the label", "condition PodScheduled", unscheduled)
    assert "example.com/room" in status["reason"]
    assert "what to do: " in room.orch("status", "nowhere").stdout


def test_a_quota_that_is_used_up_is_told(room: Room, clock: Clock) -> None:
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"requests.cpu": "1"}}}
    room.api.create_namespaced_resource_quota(room.namespace, quota)
    room.orch("submit", str(room.job_file("over")), "--skip", "quota")
    status = room.wait_for_status("over", lambda status: "quota" in status["reason"], timeout_s=60)
    clock.told("the quota is used up", "event FailedCreate", event("FailedCreate"))
    assert "small" in status["reason"]
    assert "requests.cpu" in status["reason"]
    assert "what to do: " in room.orch("status", "over").stdout


def test_a_queue_that_does_not_exist_is_told(room: Room, clock: Clock) -> None:
    if "kueue.x-k8s.io" not in {item.name for item in client.ApisApi().get_api_versions().groups}:
        pytest.skip("Kueue is not installed in this cluster")
    job = room.job_file("unqueued", scheduling={"queue": "absent"})
    room.orch("submit", str(job), "--skip", "references", "--skip", "add-ons")
    status = room.wait_for_status("unqueued", lambda status: "absent" in status["reason"], timeout_s=60)
    assert status["state"] == "waiting"
    room.wait_for_status("unqueued", lambda status: "does not admit" in status["reason"], timeout_s=60)
    clock.told("the queue does not exist", "condition QuotaReserved", not_admitted)
    assert "scheduling.queue" in room.orch("status", "unqueued").stdout
    listed = room.orch("list", "-o", "json").json()
    assert [(row["name"], row["state"], row["queue"]) for row in listed] == [("unqueued", "waiting", "absent")]


def test_a_cluster_that_goes_away_in_the_middle_of_a_submit_finds_nothing_left(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(room.kubeconfig))
    spec = load(room.job_file("half")).spec
    cluster = Cluster(namespace=room.namespace)

    def away(*_: object, **__: object) -> None:
        raise ClusterUnreachable("the API server does not answer")

    monkeypatch.setattr(cluster, "patch", away)
    said: list[str] = []
    with pytest.raises(ClusterUnreachable):
        submitting.submit(cluster, spec, resolve_for_cluster(spec), token=secrets.token_hex(8), say=said.append)
    assert "nothing was submitted" in said[-1]
    room.wait_for("the removal of what was created", lambda: room.objects() == [])


def test_who_may_not_submit_is_told_what_is_missing(room: Room) -> None:
    job = str(room.job_file("elsewhere"))
    refused = room.orch("submit", job, "-n", "default", cluster=False, check=False)
    assert refused.code == 78
    assert "create Job" in refused.stderr
    assert "orch-submitter" in refused.stderr


def test_no_cluster_is_one_clear_line(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = tmp_path / "kubeconfig"
    away.write_text(room.kubeconfig.read_text().replace("https://", "https://127.0.0.1:1/"))
    for kubeconfig, says in ((away, "does not answer"), (tmp_path / "absent", "no Kubernetes cluster is configured")):
        monkeypatch.setattr(room, "kubeconfig", kubeconfig)
        refused = room.orch("status", "digits", check=False)
        assert refused.code == 78
        assert says in refused.stderr
        assert "Traceback" not in refused.stderr
