"""Asks the cluster for what explains why a job waits: its place in a queue, the room on the nodes, what unheard workers say.

Asked for only where something waits. The user may lack the permission for any of it: then that part is not told.
"""

import contextlib
import logging
from collections.abc import Sequence

from orchestrator.diagnose.scheduling import NodeRoom, rooms
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ClusterError, Forbidden
from orchestrator.kube.names import CONTAINER, QUEUE_LABEL, WORKLOAD_OF_LABEL
from orchestrator.kube.objects import Manifest, condition, labels, running
from trainer.wire.coordinator import JobState

log = logging.getLogger(__name__)

_NODES = 200
"""In a larger cluster the pods of all nodes are too many to be added up for a status."""
_HOSTS = 8
"""More Nodes than this are had by one list."""
_UNHEARD = 3
_LINES = 20


def queued(cluster: Cluster, job: Manifest) -> tuple[Manifest | None, int | None]:
    """Kueue's Workload of a job that is not admitted, and how many wait before it."""
    queue = labels(job).get(QUEUE_LABEL)
    if not queue or not job["spec"].get("suspend"):
        return None, None
    try:
        found = cluster.select("Workload", labels=f"{WORKLOAD_OF_LABEL}={job['metadata']['uid']}")
    except ClusterError as error:
        log.debug("no workload: %s", error)
        return None, None
    if not found:
        return None, None
    with contextlib.suppress(ClusterError):
        for waiting in cluster.pending_workloads(queue):
            if waiting["metadata"]["name"] == found[0]["metadata"]["name"]:
                return found[0], int(waiting.get("positionInClusterQueue", 0))
    return found[0], None


def node_rooms(cluster: Cluster, pods: Sequence[Manifest]) -> list[NodeRoom]:
    """What the nodes offer, where a pod finds none of them large enough."""
    if not any(_lacks_room(pod) for pod in pods):
        return []
    try:
        nodes = cluster.select("Node")
    except ClusterError as error:
        log.debug("no nodes: %s", error)
        return []
    everybody: list[Manifest] | None = None
    if len(nodes) <= _NODES:
        with contextlib.suppress(ClusterError):
            everybody = cluster.select("Pod", fields="spec.nodeName!=", all_namespaces=True)
    return rooms(nodes, everybody)


def hosts(cluster: Cluster, pods: Sequence[Manifest]) -> dict[str, Manifest]:
    """Name -> the Node of these pods, where the user may see it. One that is gone says nothing: it is as silent as can be.

    Raises:
        ClusterError: the cluster does not answer.
    """
    names = {pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")}
    try:
        if len(names) > _HOSTS:
            there = {node["metadata"]["name"]: node for node in cluster.select("Node")}
        else:
            there = {name: node for name in names if (node := cluster.find("Node", name)) is not None}
    except Forbidden as error:
        log.debug("no nodes: %s", error)
        return {}
    return {name: there.get(name, {}) for name in names}


def hosts_if_told(cluster: Cluster, pods: Sequence[Manifest]) -> dict[str, Manifest]:
    """The same, and none where the cluster does not answer just now: the pods alone must tell, as to who may not see Nodes."""
    try:
        return hosts(cluster, pods)
    except ClusterError as error:
        log.debug("no nodes: %s", error)
        return {}


def _lacks_room(pod: Manifest) -> bool:
    return "Insufficient" in condition(pod, "PodScheduled", "False").get("message", "")


def unheard(cluster: Cluster, pods: Sequence[Manifest], live: JobState | None) -> dict[str, list[str]]:
    """The last lines of a few workers that run and that the coordinator does not hear; pod's UID -> lines."""
    if live is None or live.state not in ("waiting", "restarting"):
        return {}
    heard = {report.uid for report in live.workers}
    found: dict[str, list[str]] = {}
    for pod in [pod for pod in pods if running(pod) and pod["metadata"]["uid"] not in heard][:_UNHEARD]:
        with contextlib.suppress(ClusterError):
            lines = cluster.logs(pod["metadata"]["name"], container=CONTAINER, tail=_LINES)
            found[pod["metadata"]["uid"]] = list(lines)
    return found
