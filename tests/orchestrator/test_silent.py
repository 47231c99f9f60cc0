"""Which pods count as being on a silent node, and what is said and done about them."""

from typing import Any

import pytest

from orchestrator.silent import freed, hint, silent_since, why_not

SINCE = "2026-01-02T03:04:05Z"


def pod(worker: int = 0, *, ready: str = "True", deleted: bool = False, phase: str = "Running") -> dict[str, Any]:
    """A pod on a node; the kubelet says that its containers are ready."""
    metadata: dict[str, Any] = {
        "name": f"digits-{worker}-abcde",
        "uid": "u",
        "resourceVersion": "7",
        "labels": {"batch.kubernetes.io/job-completion-index": str(worker)},
    }
    if deleted:
        metadata["deletionTimestamp"] = SINCE
    conditions = [
        {"type": "Ready", "status": ready, "lastTransitionTime": SINCE},
        {"type": "ContainersReady", "status": "True"},
    ]
    return {
        "metadata": metadata,
        "spec": {"nodeName": "node2", "terminationGracePeriodSeconds": 60},
        "status": {"phase": phase, "conditions": conditions},
    }


def node(ready: str) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": SINCE}]}}


def test_a_pod_tells_that_its_node_is_silent_where_the_user_may_not_see_nodes() -> None:
    assert silent_since(pod()) == ""
    assert silent_since(pod(ready="False")) == SINCE
    gated = pod(ready="False")
    gated["spec"]["readinessGates"] = [{"conditionType": "own"}]
    assert silent_since(gated) == "", "a gate takes Ready away too"
    evicted = pod(deleted=True)
    assert silent_since(evicted) == "", "deleted by somebody, and its node answers"
    evicted["status"]["conditions"].append(
        {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "lastTransitionTime": SINCE}
    )
    assert silent_since(evicted) == SINCE


@pytest.mark.parametrize("ready", ["False", "Unknown"])
def test_the_node_itself_is_believed_before_its_pod(ready: str) -> None:
    assert silent_since(pod(), node(ready)) == SINCE
    assert silent_since(pod(ready="False"), node("True")) == ""
    assert silent_since(pod(), {"status": {"conditions": []}}) != "", "a Node that is gone"


def test_a_pod_that_has_ended_or_has_no_node_is_on_no_silent_node() -> None:
    assert silent_since(pod(phase="Failed"), node("Unknown")) == ""
    unplaced = pod()
    del unplaced["spec"]["nodeName"]
    assert silent_since(unplaced, node("Unknown")) == ""
    assert "no node yet" in why_not(unplaced, None)


def test_a_place_is_given_away_only_where_the_node_is_silent() -> None:
    assert why_not(pod(), node("Unknown")) == ""
    assert "kubectl delete pod digits-0-abcde" in why_not(pod(), node("True"))
    assert "within 60 s" in why_not(pod(deleted=True), node("True"))


def test_the_hint_names_the_command_for_each_worker_that_is_stuck() -> None:
    assert hint("digits", [pod(0), pod(1)]) == ""
    said = hint("digits", [pod(0), pod(1, ready="False"), pod(3, ready="False")])
    assert "orch replace digits --worker 1 --worker 3 " in said
    assert "node node2 is silent" in said


def test_a_freed_pod_failed_by_a_disruption_and_nothing_else_of_it_changes() -> None:
    before = pod(ready="False")
    before["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True", "reason": "Other"})
    patch = freed(before, SINCE)
    assert patch["metadata"] == {"uid": "u", "resourceVersion": "7"}, "of this pod as it was seen, and of no other"
    assert patch["status"]["phase"] == "Failed"
    kinds = [entry["type"] for entry in patch["status"]["conditions"]]
    assert sorted(kinds) == ["ContainersReady", "DisruptionTarget", "Ready"]
    assert patch["status"]["conditions"][-1]["reason"] == "ReplacedByUser"
