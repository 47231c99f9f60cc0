"""Pods whose node does not answer: how one knows, and whether their place may be given away. Pure.

Such a pod stays, nobody can end it, and its container may still run. Kubernetes replaces it only when it is sure that it does
not; orch need not be sure (docs/fault-tolerance.md, Old processes that wake up).
"""

from typing import Any

from orchestrator.diagnose import condition, index_of

Manifest = dict[str, Any]

OVER = ("Succeeded", "Failed")


def silent_since(pod: Manifest, node: Manifest | None = None) -> str:
    """Since when the node of a pod has not been heard of; empty for a node that answers.

    Args:
        node: the Node, where it was asked for and the user may see it. Without it the pod alone must tell.
    """
    if not pod["spec"].get("nodeName") or pod.get("status", {}).get("phase") in OVER:
        return ""
    if node is not None:
        ready = _condition(node, "Ready")
        return "" if ready.get("status") == "True" else str(ready.get("lastTransitionTime") or "some time")
    disruption = condition(pod, "DisruptionTarget")
    if pod["metadata"].get("deletionTimestamp") and disruption.get("reason") == "DeletionByTaintManager":
        return str(disruption.get("lastTransitionTime") or "some time")
    # The kubelet sets both from the same facts; of a node that is silent, the node controller takes back Ready alone.
    ready, containers = _condition(pod, "Ready"), _condition(pod, "ContainersReady")
    if ready.get("status") == "False" and containers.get("status") == "True" and not pod["spec"].get("readinessGates"):
        return str(ready.get("lastTransitionTime") or "some time")
    return ""


def silent_pods(pods: list[Manifest]) -> list[Manifest]:
    """Those whose node is silent, by what the pods say."""
    return [pod for pod in pods if silent_since(pod)]


def hint(job: str, pods: list[Manifest]) -> str:
    """What keeps pods that are to go, and what to do about it; empty when no node is silent."""
    silent = silent_pods(pods)
    if not silent:
        return ""
    nodes = ", ".join(sorted({pod["spec"]["nodeName"] for pod in silent}))
    workers = sorted(index_of(pod) for pod in silent)
    replace = " ".join(f"--worker {index}" for index in workers[:8])
    return (
        f"node {nodes} is silent since {silent_since(silent[0])}: its pod{'s' if len(silent) > 1 else ''} cannot be ended there. "
        f"orch replace {job} {replace} takes {'them' if len(silent) > 1 else 'it'} away"
    )


def why_not(pod: Manifest, node: Manifest | None) -> str:
    """Why the place of a pod must not be given away; empty when it may."""
    name, where = pod["metadata"]["name"], pod["spec"].get("nodeName", "")
    if not where:
        return f"pod {name} has no node yet: `orch status` says what it waits for"
    if silent_since(pod, node):
        return ""
    if pod["metadata"].get("deletionTimestamp"):
        grace_s = pod["spec"].get("terminationGracePeriodSeconds", 30)
        return f"pod {name} is being ended, within {grace_s} s, and its node {where} answers: it is replaced by itself"
    return (
        f"pod {name} is alive, and its node {where} answers: to start it anew, with a checkpoint and in order, "
        f"kubectl delete pod {name}"
    )


def freed(pod: Manifest, now: str) -> Manifest:
    """The patch of a pod's status that the pod garbage collector would make for a pod on a node that is gone: the Job then
    takes the pod as lost to a disruption, which is not counted, and lets go of it.

    Args:
        now: RFC 3339.
    """
    status = pod.get("status", {})
    disruption = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "ReplacedByUser",
        "message": f"orch replace: node {pod['spec'].get('nodeName', '?')} is silent, and its user takes the pod away",
        "lastTransitionTime": now,
    }
    others = [entry for entry in status.get("conditions") or [] if entry["type"] != "DisruptionTarget"]
    metadata = {key: pod["metadata"][key] for key in ("uid", "resourceVersion")}
    return {"metadata": metadata, "status": {"phase": "Failed", "conditions": [*others, disruption]}}


def _condition(item: Manifest, kind: str) -> Manifest:
    entries = item.get("status", {}).get("conditions") or []
    return next((dict(entry) for entry in entries if entry["type"] == kind), {})
