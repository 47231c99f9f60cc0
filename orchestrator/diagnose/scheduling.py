"""No node for a pod: which resource, how much was asked for, and how much there is. Texts of Kubernetes 1.34."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from orchestrator.diagnose.trouble import Trouble, after
from orchestrator.kube.objects import Manifest, allocatable, condition, labels, pod_is_over, quantity, takes_pods
from orchestrator.text import amount_text


@dataclass(frozen=True)
class NodeRoom:
    """What a node offers."""

    name: str
    labels: Mapping[str, str]
    allocatable: Mapping[str, Decimal]
    used: Mapping[str, Decimal] | None = None
    """Requested by the pods there; None where the user may not see them all."""


def rooms(nodes: Iterable[Manifest], pods: Iterable[Manifest] | None) -> list[NodeRoom]:
    """What each node that takes pods offers.

    Args:
        pods: of all namespaces, or None where they are not known.
    """
    used: dict[str, dict[str, Decimal]] = {}
    for pod in pods or ():
        if pod_is_over(pod) or not pod["spec"].get("nodeName"):
            continue
        sums = used.setdefault(pod["spec"]["nodeName"], {})
        for container in pod["spec"]["containers"]:
            for resource, asked in (container.get("resources", {}).get("requests") or {}).items():
                sums[resource] = sums.get(resource, Decimal(0)) + amount(asked)
    return [
        NodeRoom(
            node["metadata"]["name"],
            labels(node),
            {name: amount(value) for name, value in allocatable(node).items()},
            None if pods is None else used.get(node["metadata"]["name"], {}),
        )
        for node in nodes
        if takes_pods(node)
    ]


def unschedulable(pod: Manifest, nodes: Sequence[NodeRoom]) -> Trouble | None:
    """A pod that the scheduler finds no node for."""
    unplaced = condition(pod, "PodScheduled", "False")
    if not unplaced:
        return None
    message = str(unplaced.get("message", ""))
    if unplaced.get("reason") == "SchedulingGated":
        return Trouble("a scheduling gate holds the pod back", f"whoever set the gate opens it: {message}")
    return _why_no_node(pod, message, nodes)


def amount(value: object) -> Decimal:
    """A quantity as a number; what is none counts as 0: a status says what it can."""
    try:
        return quantity(value)
    except ValueError:
        return Decimal(0)


_INSUFFICIENT = re.compile(r"(\d+) Insufficient ([\w./-]+)")
_TAINT = re.compile(r"(\d+) node\(s\) had untolerated taint\(?s?\)? (\{.*?\})")
_SELECTOR = re.compile(r"(\d+) node\(s\) didn't match Pod's node affinity/selector")
_APART = re.compile(r"(\d+) node\(s\) didn't (?:match|satisfy) (?:existing )?pods? anti-affinity")
_CORDONED = re.compile(r"(\d+) node\(s\) were unschedulable")


def _why_no_node(pod: Manifest, message: str, nodes: Sequence[NodeRoom]) -> Trouble:
    if match := re.search(r'persistentvolumeclaim "([^"]+)" not found', message):
        return Trouble(f"persistentvolumeclaim {match[1]} does not exist", "create it: the pod is then scheduled")
    total = match[1] if (match := re.match(r"0/(\d+) nodes", message)) else "?"
    text = after(message, "nodes are available: ").split(". ")[0].rstrip(".")
    requests = pod["spec"]["containers"][0].get("resources", {}).get("requests", {})
    selector = pod["spec"].get("nodeSelector") or {}
    fitting = [node for node in nodes if selector.items() <= dict(node.labels).items()]
    parts: list[str] = []
    remedies: list[str] = []
    for count, found in _INSUFFICIENT.findall(text):
        resource = found.rstrip(".,")
        asked = requests.get(resource, "?")
        there = _there(resource, fitting)
        parts.append(
            f"{count} of {total} nodes have too little {resource} free (a worker asks for {asked}{f'; {there}' if there else ''})"
        )
        largest = max((node.allocatable.get(resource, Decimal(0)) for node in fitting), default=None)
        never = largest is not None and amount(asked) > largest
        remedies.append((_NEVER if never else _REMEDY_OF_RESOURCE).get(resource, _OTHER_RESOURCE))
    for count, taint in _TAINT.findall(text):
        if "node.kubernetes.io/" in taint:
            state = taint.strip("{}: ").partition("node.kubernetes.io/")[2].rstrip(": ")
            parts.append(f"{count} of {total} are {state}")
            remedies.append("kubectl describe node says why: it must be mended, or another one added")
            continue
        parts.append(f"{count} of {total} have the taint {taint}, which the pods do not tolerate")
        remedies.append("add it to scheduling.tolerations if the job may run there")
    for count in _CORDONED.findall(text):
        parts.append(f"{count} of {total} are cordoned")
        remedies.append("kubectl uncordon NODE, where it may take pods again")
    for count in _SELECTOR.findall(text):
        labels = ", ".join(f"{key}={value}" for key, value in selector.items())
        parts.append(f"{count} of {total} lack the labels that are asked for ({labels or 'by affinity'})")
        remedies.append(
            "add such nodes, or change resources.accelerator, resources.capacity or scheduling.node_selector"
        )
    for count in _APART.findall(text):
        parts.append(f"{count} of {total} hold a pod that this one must not share a node with")
        remedies.append("add nodes, or take the anti-affinity out of kubernetes.pod")
    if not parts:
        parts, remedies = (
            [text or "no reason given"],
            ["kubectl describe pod " + pod["metadata"]["name"] + " says more"],
        )
    return Trouble("no node for it: " + "; ".join(parts), "; ".join(dict.fromkeys(remedies)))


def _there(resource: str, nodes: Sequence[NodeRoom]) -> str:
    """How much there is: the largest node, and the one with most of it free."""
    if not nodes:
        return ""
    none = Decimal(0)
    largest = max(node.allocatable.get(resource, none) for node in nodes)
    if not largest:
        return f"no node has any {resource}"
    text = f"the largest node has {amount_text(largest, resource)}"
    free = [
        (node.allocatable.get(resource, none) - node.used.get(resource, none), node.name)
        for node in nodes
        if node.used is not None
    ]
    if free:
        most, name = max(free)
        text += f", most is free on {name}: {amount_text(max(most, none), resource)}"
    return text


_OTHER_RESOURCE = "add nodes that have it, or wait until others free theirs"
_REMEDY_OF_RESOURCE = {
    "cpu": "ask for less with resources.cpu, add nodes, or wait until others free theirs",
    "memory": "ask for less with resources.memory, add nodes, or wait until others free theirs",
    "ephemeral-storage": "ask for less with resources.ephemeral_storage, or add nodes with larger disks",
    "pods": "add nodes: these run as many pods as they may",
}
_NEVER = {
    "cpu": "ask for less with resources.cpu, or add larger nodes: none of these can ever take it",
    "memory": "ask for less with resources.memory, or add larger nodes: none of these can ever take it",
    "ephemeral-storage": _REMEDY_OF_RESOURCE["ephemeral-storage"],
}
