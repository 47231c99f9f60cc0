"""The nodes of a cluster: by what makes a difference to a job, how many take pods, and what capacity they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.jobfile.accelerators import from_labels
from orchestrator.kube.objects import Manifest, allocatable, labels, quantity, takes_pods
from orchestrator.preflight.check import Finding, ok, warning
from orchestrator.preflight.facts import Unknown
from orchestrator.preflight.subject import CLUSTER_CHECKS, Place
from orchestrator.text import amount_text, columns

_CAPACITY = {
    "cloud.google.com/gke-spot": "spot",
    "cloud.google.com/gke-flex-start": "flex-start",
    "cloud.google.com/reservation-name": "reservation",
}


@dataclass(frozen=True)
class NodeGroup:
    """Nodes that are alike for a job."""

    accelerator: str
    """As a job file names it, with the count of a node; empty: none."""
    capacity: str
    """on-demand, spot, flex-start, reservation."""
    cpu: str
    memory: str
    architecture: str
    taints: str
    nodes: int = 0
    ready: int = 0


def groups(found: list[Manifest] | Unknown) -> list[NodeGroup]:
    """Nodes by what makes a difference to a job; those with accelerators first."""
    if isinstance(found, Unknown):
        return []
    alike: dict[NodeGroup, list[bool]] = {}
    for node in found:
        alike.setdefault(_group_of(node), []).append(takes_pods(node))
    counted = [replace(group, nodes=len(ready), ready=sum(ready)) for group, ready in alike.items()]
    return sorted(counted, key=lambda group: (not group.accelerator, group.accelerator, group.capacity, group.cpu))


def _group_of(node: Manifest) -> NodeGroup:
    given = labels(node)
    has = allocatable(node)
    taints = [
        f"{taint['key']}:{taint['effect']}"
        for taint in (node.get("spec") or {}).get("taints") or []
        if not taint["key"].startswith("node.kubernetes.io/")
    ]
    return NodeGroup(
        accelerator=_accelerator(given, has),
        capacity=next((word for label, word in _CAPACITY.items() if label in given), "on-demand"),
        cpu=amount_text(quantity(has.get("cpu", "0")), "cpu"),
        memory=amount_text(quantity(has.get("memory", "0")), "memory"),
        architecture=given.get("kubernetes.io/arch", "?"),
        taints=", ".join(sorted(taints)),
    )


def _accelerator(given: dict[str, str], has: dict[str, str]) -> str:
    chips = int(has.get("google.com/tpu", "0"))
    gpus = int(has.get("nvidia.com/gpu", "0"))
    known = from_labels(given, chips or gpus or None)
    if known is not None:
        return known.name
    product = given.get("cloud.google.com/gke-accelerator") or given.get("nvidia.com/gpu.product")
    if gpus:
        return f"gpu:{gpus}" + (f" ({product})" if product else "")
    if chips:
        return f"{given.get('cloud.google.com/gke-tpu-accelerator', 'tpu')} ({chips} chips)"
    return ""


def nodes(found: list[Manifest] | Unknown) -> Finding:
    """How many nodes there are, and which are out."""
    if isinstance(found, Unknown):
        return warning("you may not look at nodes", "the ClusterRole orch-reader (k8s/setup) allows it")
    if not found:
        return warning("there are none: jobs wait until some are added")
    out = [node["metadata"]["name"] for node in found if not takes_pods(node)]
    text = f"{len(found)}, of which {len(found) - len(out)} take pods"
    if out:
        shown = ", ".join(out[:5]) + (f" and {len(out) - 5} more" if len(out) > 5 else "")
        return warning(f"{text}; not ready or cordoned: {shown}", "kubectl describe node; kubectl uncordon")
    return ok(text)


@CLUSTER_CHECKS.check(
    "nodes", 80, what="nodes, and those that take no pods", error_when="never: a warning where some do not"
)
def _nodes(place: Place) -> Finding:
    return nodes(place.facts.nodes)


def kinds_of_capacity(found: list[Manifest] | Unknown) -> Finding:
    """Which values of resources.capacity have nodes now. None need be there: GKE makes such nodes when they are asked for."""
    if isinstance(found, Unknown):
        return ok("you may not look at nodes")
    there = dict.fromkeys(_CAPACITY.values(), 0)
    for node in found:
        for label, kind in _CAPACITY.items():
            there[kind] += label in labels(node)
    if not any(there.values()):
        return ok(
            "no nodes for capacity: spot, flex-start or reservation now; such jobs wait until a node pool makes some",
        )
    return ok("; ".join(f"{kind}: {count} nodes" for kind, count in there.items()))


@CLUSTER_CHECKS.check("capacity", 170, what="nodes for each value of resources.capacity", error_when="never")
def _capacity(place: Place) -> Finding:
    return kinds_of_capacity(place.facts.nodes)


def table(found: Sequence[NodeGroup]) -> list[str]:
    """The node table for a person."""
    if not found:
        return []
    titles = ("nodes", "ready", "accelerator", "capacity", "cpu", "memory", "arch", "taints")
    rows = [titles] + [
        (
            str(of.nodes),
            str(of.ready),
            of.accelerator or "-",
            of.capacity,
            of.cpu,
            of.memory,
            of.architecture,
            of.taints or "-",
        )
        for of in found
    ]
    return columns(rows)
