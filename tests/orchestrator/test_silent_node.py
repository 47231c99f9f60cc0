"""Which pods count as being on a silent node, and what is said and done about them."""

from pathlib import Path
from typing import Any

import pytest
from support_api import Answer, api_server, listed, refused

from orchestrator.jobs.replace import replace
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ServerTrouble
from orchestrator.kube.silent_node import freed, hint, silent_since, why_not
from orchestrator.status.surroundings import hosts, hosts_if_told
from trainer.errors import ConfigError

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


def test_replace_believes_the_node_which_it_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = pod(3, ready="False")
    answers = [listed("1", lost), Answer({"metadata": {"name": "node2"}} | node("True"))]
    with api_server(answers, tmp_path) as (script, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        with pytest.raises(ConfigError, match="its node node2 answers"):
            replace(Cluster(), "digits", 3, force=False, say=print, wait_s=0)
    assert [asked["path"] for asked in script.asked] == ["/api/v1/namespaces/here/pods", "/api/v1/nodes/node2"]


def test_a_node_that_is_gone_says_nothing_and_one_that_may_not_be_seen_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api_server([refused(404, 'nodes "node2" not found'), refused(403, "no")], tmp_path) as (_, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        cluster = Cluster()
        assert hosts(cluster, []) == {}
        assert hosts(cluster, [pod()]) == {"node2": {}}
        assert hosts(cluster, [pod()]) == {}


def test_a_cluster_that_does_not_answer_stops_a_replace_and_not_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api_server([refused(500, "broken")] * 2, tmp_path) as (_, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        cluster = Cluster()
        with pytest.raises(ServerTrouble):
            hosts(cluster, [pod()])
        assert hosts_if_told(cluster, [pod()]) == {}


def test_the_nodes_of_many_pods_are_had_by_one_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = [pod(worker) for worker in range(12)]
    for worker, item in enumerate(pods):
        item["spec"]["nodeName"] = f"node{worker}"
    there = [{"metadata": {"name": f"node{index}", "uid": str(index)}} | node("Unknown") for index in range(11)]
    with api_server([listed("1", *there)], tmp_path) as (script, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        found = hosts(Cluster(), pods)
    assert len(script.asked) == 1
    assert [silent_since(item, found[item["spec"]["nodeName"]]) for item in pods] == [SINCE] * 11 + ["some time"]
