"""What Kubernetes says about pods that do not run becomes a reason and a remedy. Its texts are those of 1.34 and containerd."""

from typing import Any

import pytest

from orchestrator.diagnose import Trouble, diagnose, workers_text

Manifest = dict[str, Any]


def job(**spec: Any) -> Manifest:
    return {
        "kind": "Job",
        "metadata": {"name": "digits", "uid": "job-1", "labels": {}},
        "spec": {"parallelism": 1} | spec,
    }


def pod(index: int = 0, **status: Any) -> Manifest:
    resources = {"requests": {"cpu": "64", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    return {
        "metadata": {
            "name": f"digits-{index}-abcde",
            "uid": f"pod-{index}",
            "labels": {"batch.kubernetes.io/job-completion-index": str(index)},
        },
        "spec": {
            "containers": [{"name": "trainer", "image": "registry.example/trainer:1", "resources": resources}],
            "nodeName": "node2",
            "nodeSelector": {"pool": "training"},
        },
        "status": {"phase": "Pending"} | status,
    }


def in_state(index: int = 0, **state: Any) -> Manifest:
    return pod(index, containerStatuses=[{"name": "trainer", "state": state}])


def unscheduled(message: str, index: int = 0) -> Manifest:
    entry = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(index, conditions=[entry])


def event(name: str, reason: str, message: str, at: str = "2026-01-01T00:00:00Z") -> Manifest:
    return {"involvedObject": {"name": name}, "reason": reason, "message": message, "lastTimestamp": at}


def only(pods: list[Manifest], events: list[Manifest] | None = None, of: Manifest | None = None) -> Trouble:
    found = diagnose(of or job(), pods, events or [])
    assert len(found) == 1, found
    return found[0]


def test_a_pod_that_fits_no_node_says_which_resource_is_short_and_how_much_was_asked() -> None:
    trouble = only(
        [unscheduled("0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: none.")]
    )
    assert trouble.text == "worker 0: no node for it: 2 of 2 nodes have too little cpu free (a worker asks for 64)"
    assert "resources.cpu" in trouble.remedy


def test_labels_and_taints_that_keep_a_pod_off_all_nodes_are_named() -> None:
    message = (
        "0/3 nodes are available: 1 node(s) had untolerated taint {dedicated: web}, "
        "2 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available."
    )
    trouble = only([unscheduled(message)])
    assert "{dedicated: web}" in trouble.reason
    assert "pool=training" in trouble.reason
    assert "scheduling.tolerations" in trouble.remedy
    assert "scheduling.node_selector" in trouble.remedy


def test_workers_with_the_same_trouble_are_told_in_one_line() -> None:
    message = "0/2 nodes are available: 2 Insufficient memory."
    trouble = only([unscheduled(message, index) for index in (0, 1, 2, 5)])
    assert trouble.text.startswith("workers 0-2, 5: no node for it")


@pytest.mark.parametrize(
    ("said", "reason", "remedy"),
    [
        ("failed to resolve reference: registry.example/trainer:1: not found", "there is no such image", "image.ref"),
        ("pull access denied, authorization failed: 401 Unauthorized", "refuses the node", "image.pull_secrets"),
        ("dial tcp: lookup registry.example: no such host", "no such host", "reach the registry"),
    ],
)
def test_an_image_that_cannot_be_pulled_says_why_also_while_the_kubelet_waits(
    said: str, reason: str, remedy: str
) -> None:
    waiting = in_state(waiting={"reason": "ImagePullBackOff", "message": "Back-off pulling image"})
    events = [
        event("digits-0-abcde", "Failed", f'Failed to pull image "registry.example/trainer:1": {said}'),
        event("digits-0-abcde", "Failed", "Error: ImagePullBackOff", "2026-01-01T00:00:05Z"),
    ]
    trouble = only([waiting], events)
    assert reason in trouble.reason
    assert "registry.example/trainer:1" in trouble.reason
    assert remedy in trouble.remedy


def test_a_missing_secret_and_a_missing_key_are_named() -> None:
    missing = in_state(waiting={"reason": "CreateContainerConfigError", "message": 'secret "wandb" not found'})
    assert only([missing]).reason == "Secret wandb does not exist"
    message = "couldn't find key token in Secret research/wandb"
    no_key = in_state(waiting={"reason": "CreateContainerConfigError", "message": message})
    assert only([no_key]).reason == "Secret wandb has no key token"


def test_a_volume_that_cannot_be_mounted_is_told_by_its_event() -> None:
    message = 'MountVolume.SetUp failed for volume "settings" : configmap "settings" not found'
    creating = in_state(waiting={"reason": "ContainerCreating"})
    assert (
        only([creating], [event("digits-0-abcde", "FailedMount", message)]).reason
        == "configmap settings does not exist"
    )


def test_out_of_memory_names_the_limit() -> None:
    killed = in_state(terminated={"exitCode": 137, "reason": "OOMKilled"})
    trouble = only([killed])
    assert "limit of 4Gi" in trouble.reason
    assert "resources.memory" in trouble.remedy


def test_an_image_without_the_trainer_says_how_to_build_one() -> None:
    message = "/usr/bin/python: No module named trainer"
    ended = in_state(terminated={"exitCode": 1, "reason": "Error", "message": message})
    assert "Dockerfile" in only([ended]).remedy
    start = 'failed to create task: runc create failed: unable to start container process: exec: "python": not found in $PATH'
    cannot_start = in_state(terminated={"exitCode": 128, "reason": "StartError", "message": start})
    assert only([cannot_start]).reason == 'the container cannot start: exec: "python": not found in $PATH'


def test_an_evicted_pod_says_what_the_node_said() -> None:
    evicted = pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory. ")
    assert only([evicted]).reason == "the node evicted the pod: The node was low on resource: memory."


def test_a_silent_node_is_named_with_the_time() -> None:
    disruption = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    lost = pod(phase="Running", conditions=[disruption])
    lost["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    trouble = only([lost])
    assert "node node2 is silent since 2026-01-01T00:00:00Z" in trouble.reason
    assert "kubectl delete node node2" in trouble.remedy


def test_pods_that_may_not_be_created_are_told_from_the_events_of_the_job() -> None:
    message = 'Error creating: pods "digits-0-x" is forbidden: exceeded quota: small, requested: cpu=8, limited: cpu=4'
    trouble = only([], [event("digits", "FailedCreate", message)])
    assert trouble.reason.endswith("exceeded quota: small, requested: cpu=8, limited: cpu=4")
    assert "quota" in trouble.remedy


def test_a_queued_job_waits_for_its_queue() -> None:
    queued = job(suspend=True)
    queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team-a"
    assert only([], of=queued).text == "waiting for queue team-a to admit the job"


def test_pods_that_run_or_stopped_in_order_are_no_trouble() -> None:
    stopped = in_state(1, terminated={"exitCode": 143, "reason": "Error"})
    assert diagnose(job(), [in_state(running={}), stopped], []) == []


def test_workers_are_counted_as_people_do() -> None:
    assert workers_text([3]) == "worker 3"
    assert workers_text([1, 0]) == "workers 0, 1"
    assert workers_text([0, 1, 2, 3, 7, 9, 10]) == "workers 0-3, 7, 9, 10"
