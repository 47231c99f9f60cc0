"""One reader for each fact about the API server's objects, and no other beside it."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from orchestrator import diagnose as package
from orchestrator.diagnose.ending import node_lost
from orchestrator.diagnose.job import Surroundings, diagnose
from orchestrator.diagnose.scheduling import rooms
from orchestrator.kube.objects import Manifest, condition, failure, is_over, quantity, takes_pods
from orchestrator.kube.silent_node import hint, silent_since, why_not
from orchestrator.status.follow import marks
from orchestrator.status.judge import judge
from orchestrator.status.observation import Observation

ROOT = Path(package.__file__).parents[1]
SOURCES = sorted(ROOT.rglob("*.py"))
SINCE, LATER = "2026-01-02T03:04:05Z", "2026-01-02T03:09:05Z"

READY = {"type": "Ready", "status": "True", "lastTransitionTime": SINCE}
NOT_READY = READY | {"status": "False"}
NOT_READY_SAYS_THE_KUBELET = NOT_READY | {"reason": "ContainersNotReady", "message": "containers with unready status"}
CONTAINERS_READY = {"type": "ContainersReady", "status": "True"}
CONTAINERS_NOT_READY = CONTAINERS_READY | {"status": "False"}
TAKEN_BY_TAINT = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "DeletionByTaintManager",
    "lastTransitionTime": LATER,
}
GATE_IS_SHUT = NOT_READY | {"reason": "ReadinessGatesNotReady"}


def node(ready: str) -> Manifest:
    return {"metadata": {"name": "node2"}, "status": {"conditions": [READY | {"status": ready}]}}


def pod(*conditions: Manifest, deleted: bool = False, gates: bool = False, ready: bool = True, **more: Any) -> Manifest:
    metadata: dict[str, Any] = {
        "name": "digits-0-abcde",
        "uid": "pod-0",
        "labels": {
            "app.kubernetes.io/instance": "digits",
            "batch.kubernetes.io/job-completion-index": "0",
        },
    }
    if deleted:
        metadata["deletionTimestamp"] = LATER
    spec: dict[str, Any] = {"nodeName": "node2", "containers": [{"name": "trainer", "image": "trainer:1"}]}
    if gates:
        spec["readinessGates"] = [{"conditionType": "own"}]
    status = {"name": "trainer", "ready": ready, "state": {"running": {}}}
    return {
        "metadata": metadata,
        "spec": spec | more.pop("spec", {}),
        "status": {"phase": "Running", "conditions": list(conditions), "containerStatuses": [status]} | more,
    }


# What was seen -> since when the node is silent; empty: it answers, or there is none to be silent.
PODS: dict[str, tuple[Manifest, Manifest | None, str]] = {
    "well": (pod(READY, CONTAINERS_READY), None, ""),
    "its node fell silent": (pod(NOT_READY, CONTAINERS_READY), None, SINCE),
    "the same, without ContainersReady": (pod(NOT_READY), None, SINCE),
    "its program is not ready": (pod(NOT_READY_SAYS_THE_KUBELET, CONTAINERS_NOT_READY, ready=False), None, ""),
    "an old reason stayed": (pod(NOT_READY_SAYS_THE_KUBELET, CONTAINERS_READY), None, SINCE),
    "a readiness gate is shut": (pod(GATE_IS_SHUT, CONTAINERS_READY, gates=True), None, ""),
    "a gate, and nobody says why": (pod(NOT_READY, CONTAINERS_READY, gates=True), None, ""),
    "the same, and its Node is silent": (pod(NOT_READY, CONTAINERS_READY, gates=True), node("Unknown"), SINCE),
    "deleted, its node answers": (pod(READY, CONTAINERS_READY, deleted=True), None, ""),
    "deleted by a person, its node is silent": (pod(NOT_READY, CONTAINERS_READY, deleted=True), None, SINCE),
    "deleted since its node is silent": (
        pod(NOT_READY, CONTAINERS_READY, TAKEN_BY_TAINT, deleted=True),
        None,
        SINCE,
    ),
    "was not ready when its node fell silent": (
        pod(NOT_READY_SAYS_THE_KUBELET, CONTAINERS_NOT_READY, TAKEN_BY_TAINT, deleted=True, ready=False),
        None,
        LATER,
    ),
    "its container is pulled, its node fell silent": (pod(NOT_READY, CONTAINERS_NOT_READY, ready=False), None, ""),
    "has no node": (pod(NOT_READY, CONTAINERS_READY, spec={"nodeName": ""}), None, ""),
    "has ended": (pod(NOT_READY, CONTAINERS_READY, phase="Failed"), None, ""),
    "its phase is unknown": (pod(NOT_READY, CONTAINERS_READY, phase="Unknown"), None, SINCE),
    "its Node is back": (pod(NOT_READY, CONTAINERS_READY), node("True"), ""),
    "a taint took it, and its Node answers": (pod(READY, TAKEN_BY_TAINT, deleted=True), node("True"), ""),
    "its Node is silent, and it does not show": (pod(READY, CONTAINERS_READY), node("Unknown"), SINCE),
    "its Node is gone": (pod(READY, CONTAINERS_READY), {}, "some time"),
}


@pytest.mark.parametrize("case", PODS)
def test_status_replace_and_delete_agree_whether_a_node_is_silent(case: str) -> None:
    of, its_node, since = PODS[case]
    hosts = {} if its_node is None else {"node2": its_node}
    assert silent_since(of, its_node) == since

    told = node_lost(of, its_node)
    assert (told is not None) == bool(since)
    if told is not None:
        assert told.reason.startswith(f"node node2 is silent since {since}")

    job = {
        "kind": "Job",
        "metadata": {"name": "digits", "uid": "job-1"},
        "spec": {"parallelism": 1},
    }
    advised = [trouble.remedy for trouble in diagnose(job, [of], [], Surroundings(hosts=hosts))]
    advised += [trouble.remedy for trouble in judge(Observation(job, [of], hosts=hosts)).troubles]
    recommended = [remedy for remedy in advised if "orch replace" in remedy]
    assert len(recommended) == (2 if since else 0)

    assert (why_not(of, its_node) == "") == bool(since), "what status advises is what replace does"
    assert ("orch replace digits --worker 0" in hint("digits", [of], hosts)) == bool(since)


def test_a_pod_that_a_taint_took_off_a_node_that_answers_is_on_no_node_that_is_gone() -> None:
    of, its_node, _ = PODS["a taint took it, and its Node answers"]
    assert node_lost(of) is not None, "as long as only the pod can be asked"
    [trouble] = diagnose(
        {"kind": "Job", "metadata": {"name": "digits"}, "spec": {}},
        [of],
        [],
        Surroundings(hosts={"node2": its_node or {}}),
    )
    assert trouble.reason == "taken off node node2, which has a taint that the pod does not tolerate"


def carrier(*conditions: tuple[str, str]) -> Manifest:
    return {"status": {"conditions": [{"type": kind, "status": status} for kind, status in conditions]}}


def test_a_condition_is_read_with_its_status_or_whatever_that_is() -> None:
    item = carrier(("Complete", "False"))
    assert condition(item, "Complete")["status"] == "False"
    assert condition(item, "Complete", "False")
    assert condition(item, "Complete", "True") == {}
    assert condition({}, "Complete") == condition({"status": {"conditions": None}}, "Complete") == {}


def test_a_job_has_failed_when_it_says_so_or_says_that_it_will() -> None:
    assert failure(carrier(("Failed", "True")))
    assert failure(carrier(("FailureTarget", "True")))
    assert not is_over(carrier(("FailureTarget", "True"))), "its pods are still to end"
    assert not failure(carrier(("Complete", "True"), ("Failed", "False")))


def test_a_node_takes_pods_when_it_is_ready_and_not_cordoned() -> None:
    assert takes_pods(node("True"))
    assert not takes_pods(node("Unknown"))
    assert not takes_pods(node("True") | {"spec": {"unschedulable": True}})


def test_room_is_counted_only_on_nodes_that_take_pods() -> None:
    has = {"allocatable": {"cpu": "8"}}
    nodes = [item | {"status": item["status"] | has} for item in (node("True"), node("Unknown"))]
    assert [room.name for room in rooms([nodes[1]], None)] == []
    assert [room.name for room in rooms([nodes[0], nodes[0] | {"spec": {"unschedulable": True}}], None)] == ["node2"]


def test_a_watch_takes_worker_0_for_another_when_its_own_container_is_in_another_state() -> None:
    def chief(state: str) -> Manifest:
        beside = {"name": "istio-proxy", "state": {"running": {}}}
        return pod(READY, containerStatuses=[beside, {"name": "trainer", "state": {state: {}}}])

    job: Manifest = {"spec": {}}
    assert marks(job, [chief("waiting")]) != marks(job, [chief("running")])
    assert marks(job, [chief("running")]) == marks(job, [chief("running")])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        (3, "3"),
        ("4Gi", str(4 * 2**30)),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("2E", "2000000000000000000"),
        ("16k", "16000"),
        ("1.5M", "1500000"),
        (".5", "0.5"),
        ("-1Ki", "-1024"),
        ("100n", "0.0000001"),
        ("250u", "0.00025"),
    ],
)
def test_a_quantity_is_read_as_kubernetes_writes_it(text: object, number: str) -> None:
    assert quantity(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "x", "1Q", "1K", "1 Gi", "1e", "0x10", "1.2.3", "Gi"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity of Kubernetes"):
        quantity(text)


@pytest.mark.parametrize(
    "by_hand",
    [
        pytest.param(r"^Manifest = ", id="what an object is"),
        pytest.param(r"\.get\(.conditions.|\[.conditions.\]", id="conditions"),
        pytest.param(r"parse_quantity|\"Ki\":", id="quantities"),
        pytest.param(r"\(.(Succeeded|Failed)., .(Succeeded|Failed).\)", id="pods that are over"),
        pytest.param(r".Complete., .Completed.", id="jobs that are over"),
        pytest.param(r"\.get\(.(labels|annotations).\) or \{\}", id="labels"),
        pytest.param(r"\.get\(.parallelism.|\[.spec.\]\[.parallelism.\]", id="how many workers"),
        pytest.param(r"\.get\(.active.\)\)", id="jobs that have pods"),
        pytest.param(r"\.get\(.(allocatable|unschedulable).\)", id="what a node offers"),
        pytest.param(r"\.get\(.accessModes.\)", id="what a claim may be used for"),
        pytest.param(r"containerStatuses", id="containers"),
    ],
)
def test_no_module_reads_by_hand_what_has_a_reader(by_hand: str) -> None:
    found = [path for path in SOURCES if re.search(by_hand, path.read_text(encoding="utf-8"), re.MULTILINE)]
    assert {str(path.relative_to(ROOT)) for path in found} <= {"kube/objects.py"}
