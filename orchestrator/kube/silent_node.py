"""Pods whose node does not answer: how one knows, and whether their place may be given away. Pure.

Such a pod stays, nobody can end it, and its container may still run. Kubernetes replaces it only when it is sure that it does
not; orch need not be sure (docs/fault-tolerance.md, Old processes that wake up).
"""

from collections.abc import Mapping

from orchestrator.kube.objects import Manifest, condition, conditions, container_status, index_of, pod_is_over

_SOME_TIME = "some time"


def silent_since(pod: Manifest, node: Manifest | None = None) -> str:
    """Since when the node of a pod has not been heard of; empty for a node that answers. What status says, what replace does
    and what delete advises all follow from this.

    Args:
        node: the Node, where it was asked for and the user may see it. Without it the pod alone must tell.
    """
    if not pod["spec"].get("nodeName") or pod_is_over(pod):
        return ""
    if node is not None:
        told = condition(node, "Ready")
        return "" if told.get("status") == "True" else str(told.get("lastTransitionTime") or _SOME_TIME)
    if _taken_back(pod):
        return str(condition(pod, "Ready").get("lastTransitionTime") or _SOME_TIME)
    disruption = condition(pod, "DisruptionTarget", "True")
    if pod["metadata"].get("deletionTimestamp") and disruption.get("reason") == "DeletionByTaintManager":
        return str(disruption.get("lastTransitionTime") or _SOME_TIME)
    return ""


def _taken_back(pod: Manifest) -> bool:
    """Whether the node controller said Ready=False of a pod, as it does where it does not hear the node. It leaves all else as
    the kubelet said it last, and a kubelet would take ContainersReady back too. With a readiness gate one cannot tell."""
    if not condition(pod, "Ready", "False") or pod["spec"].get("readinessGates"):
        return False
    containers = condition(pod, "ContainersReady")
    return containers["status"] == "True" if containers else bool(container_status(pod).get("ready"))


def doubtful(pod: Manifest) -> bool:
    """Whether a pod's Node should be asked for: it seems to be silent, or the pod is to go and only the Node says if it can."""
    return bool(silent_since(pod)) or bool(pod["metadata"].get("deletionTimestamp") and not pod_is_over(pod))


def hint(job: str, pods: list[Manifest], nodes: Mapping[str, Manifest] | None = None) -> str:
    """What keeps pods that are to go, and what to do about it; empty when no node is silent.

    Args:
        nodes: those of the pods' Nodes that were asked for, by name.
    """
    nodes = nodes or {}
    silent = [pod for pod in pods if silent_since(pod, nodes.get(pod["spec"].get("nodeName", "")))]
    if not silent:
        return ""
    first = silent[0]
    names = ", ".join(sorted({pod["spec"]["nodeName"] for pod in silent}))
    workers = sorted(index_of(pod) for pod in silent)
    replace = " ".join(f"--worker {index}" for index in workers[:8])
    return (
        f"node {names} is silent since {silent_since(first, nodes.get(first['spec']['nodeName']))}: "
        f"its pod{'s' if len(silent) > 1 else ''} cannot be ended there. "
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
    disruption = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "ReplacedByUser",
        "message": f"orch replace: node {pod['spec'].get('nodeName', '?')} is silent, and its user takes the pod away",
        "lastTransitionTime": now,
    }
    others = [entry for entry in conditions(pod) if entry["type"] != "DisruptionTarget"]
    metadata = {key: pod["metadata"][key] for key in ("uid", "resourceVersion")}
    return {"metadata": metadata, "status": {"phase": "Failed", "conditions": [*others, disruption]}}
