"""What `orch doctor` makes of what a cluster says."""

from typing import Any

import pytest

from orchestrator.preflight.check import Level
from orchestrator.preflight.cluster_namespace import limits, quotas
from orchestrator.preflight.cluster_nodes import groups, kinds_of_capacity, nodes, table
from orchestrator.preflight.cluster_services import dns_in_words, queues_in_words, services_in_the_way
from orchestrator.preflight.facts import Unknown

Manifest = dict[str, Any]


def node(
    name: str, labels: dict[str, str], *, ready: bool = True, taints: tuple[str, ...] = (), **more: str
) -> Manifest:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/arch": "amd64"} | labels},
        "spec": {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]},
        "status": {
            "allocatable": {"cpu": "8", "memory": "32Gi"} | more,
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


L4 = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
TPU = {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
    "cloud.google.com/gke-tpu-topology": "2x4",
    "cloud.google.com/gke-accelerator-count": "8",
}
NODES = [
    node("a", {}),
    node("b", {}, ready=False, taints=("node.kubernetes.io/unreachable",)),
    node("c", L4 | {"cloud.google.com/gke-spot": "true"}, taints=("nvidia.com/gpu",), **{"nvidia.com/gpu": "2"}),
    node("d", TPU, **{"google.com/tpu": "8"}),
    node("e", {"nvidia.com/gpu.product": "NVIDIA-A10"}, **{"nvidia.com/gpu": "1"}),
]


def test_nodes_are_counted_by_what_a_job_file_calls_them() -> None:
    found = {group.accelerator: group for group in groups(NODES)}
    assert set(found) == {"", "nvidia-l4:2", "v5litepod-8", "gpu:1 (NVIDIA-A10)"}
    assert (found[""].nodes, found[""].ready, found[""].taints) == (2, 1, "")
    assert (found["nvidia-l4:2"].capacity, found["nvidia-l4:2"].taints) == ("spot", "nvidia.com/gpu:NoSchedule")
    assert table(groups(NODES))[0].split() == [
        "nodes",
        "ready",
        "accelerator",
        "capacity",
        "cpu",
        "memory",
        "arch",
        "taints",
    ]
    assert groups(Unknown("may not")) == []
    assert table([]) == []


def test_nodes_that_are_out_are_named() -> None:
    check = nodes(NODES)
    assert check.level is Level.WARNING
    assert "5, of which 4 take pods; not ready or cordoned: b" in check.text
    assert nodes(NODES[:1]).level is Level.OK
    assert nodes([]).level is Level.WARNING
    assert kinds_of_capacity(NODES).text.startswith("spot: 1 nodes; flex-start: 0 nodes")


def webhook(resources: list[str], policy: str = "Fail") -> Manifest:
    service = {"clientConfig": {"service": {"namespace": "kueue-system", "name": "hook"}}}
    return {"webhooks": [service | {"rules": [{"resources": resources}], "failurePolicy": policy}]}


@pytest.mark.parametrize(
    ("hook", "concerned"),
    [
        (webhook(["jobs"]), True),
        (webhook(["*"]), True),
        (webhook(["deployments"]), False),
        (webhook(["pods"], "Ignore"), False),
        ({"webhooks": [{"clientConfig": {"url": "https://elsewhere"}, "rules": [{"resources": ["pods"]}]}]}, False),
    ],
)
def test_webhooks_whose_silence_refuses_a_job_are_looked_at(hook: Manifest, concerned: bool) -> None:
    assert services_in_the_way(hook) == ([("kueue-system", "hook")] if concerned else [])


def endpoints(service: str, *ready: bool) -> Manifest:
    return {
        "metadata": {"labels": {"kubernetes.io/service-name": service}},
        "endpoints": [{"conditions": {"ready": is_ready}} for is_ready in ready],
    }


def test_dns_is_there_when_somebody_answers() -> None:
    assert dns_in_words([endpoints("kube-dns", False, True)]).level is Level.OK
    assert dns_in_words([endpoints("kube-dns", False)]).level is Level.ERROR
    assert dns_in_words([endpoints("metrics-server", True)]).level is Level.WARNING


def test_queues_that_admit_nothing_are_told_with_their_reason() -> None:
    active = {"type": "Active", "status": "True"}
    stuck = {"type": "Active", "status": "False", "message": "ClusterQueue all does not exist"}
    queues = [
        {"metadata": {"name": "good"}, "status": {"conditions": [active]}},
        {"metadata": {"name": "bad"}, "status": {"conditions": [stuck]}},
    ]
    assert queues_in_words(queues[:1], "v1beta1", "ns").text.endswith("queues: good")
    assert "bad: ClusterQueue all does not exist" in queues_in_words(queues, "v1beta1", "ns").text
    assert queues_in_words([], "v1beta1", "ns").level is Level.WARNING


def test_quotas_and_limits_are_shown_in_figures() -> None:
    quota = {
        "status": {"hard": {"requests.memory": "8Gi", "pods": "10"}, "used": {"requests.memory": "1536Mi", "pods": "2"}}
    }
    assert quotas([quota]).text == "in use: requests.memory 1.5Gi of 8Gi, pods 2 of 10"
    rule = {"spec": {"limits": [{"type": "Container", "max": {"memory": "4Gi"}, "default": {"cpu": "1"}}]}}
    assert limits([rule]).text == "Container max memory 4Gi; Container default cpu 1"
