"""Giving away the place of a pod whose node is silent, as the pod garbage collector does for nodes that are gone."""

import time
from dataclasses import dataclass

from orchestrator.jobs.delete import Say
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import AlreadyExists, ClusterError, NotFound
from orchestrator.kube.jobs import find_job
from orchestrator.kube.names import selector_of
from orchestrator.kube.objects import Manifest, index_of, pod_is_over
from orchestrator.kube.silent_node import freed, why_not
from orchestrator.status.surroundings import hosts
from trainer.errors import ConfigError
from trainer.rundir.attempts import now

REPLACEMENT_S = 60.0
"""A replacement comes within a second or two; in a queue, or without room for it, it may take any time."""
_CONFLICTS = 5


@dataclass(frozen=True)
class Replaced:
    """A pod that was taken away."""

    worker: int
    pod: str
    node: str
    replacement: str
    """The pod in its place; empty where none came in time, or none is wanted."""


def replace(
    cluster: Cluster, name: str, worker: int, *, force: bool, say: Say, wait_s: float = REPLACEMENT_S
) -> Replaced:
    """Take a worker's pod away without waiting for its node, and wait for the pod in its place.

    Args:
        force: also where the pod and its node seem to be alive.

    Raises:
        NotFound: nothing of such a job, or no pod of that worker. ConfigError: the pod should not be taken away.
        Forbidden: the user may not patch pods/status.
    """
    pods = [pod for pod in cluster.select("Pod", labels=selector_of(name)) if index_of(pod) == worker]
    alive = [pod for pod in pods if not pod_is_over(pod)]
    if not alive:
        find_job(cluster, name)
        ended = f"its pod {pods[0]['metadata']['name']} has ended" if pods else "there is none"
        raise NotFound(
            f"worker {worker} of job {name} has no pod to be replaced: {ended}",
            remedy=f"orch status {name} says what the job waits for",
        )
    # A pod that is already on its way out before one that took its place.
    pod = min(alive, key=lambda pod: not pod["metadata"].get("deletionTimestamp"))
    reason = why_not(pod, hosts(cluster, [pod]).get(pod["spec"].get("nodeName", "")))
    if reason and not force:
        raise ConfigError(
            f"worker {worker} is not replaced: {reason}", remedy="--force takes the pod away all the same"
        )
    _take_away(cluster, pod)
    where = pod["spec"].get("nodeName", "")
    say(
        f"pod {pod['metadata']['name']} is marked as failed and taken out of the cluster's books. Its container may still run "
        f"on {where}: that is safe here. Its attempt is over, what it still saves does not count, and it deletes nothing."
    )
    before = {item["metadata"]["uid"] for item in pods}
    return Replaced(
        worker=worker,
        pod=pod["metadata"]["name"],
        node=where,
        replacement=_replacement(cluster, name, worker, before, wait_s),
    )


def _take_away(cluster: Cluster, pod: Manifest) -> None:
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    for tries_left in reversed(range(_CONFLICTS)):
        try:
            present = cluster.get("Pod", name)
            if present["metadata"]["uid"] != uid:
                return
            if not pod_is_over(present):
                cluster.patch("Pod", name, freed(present, now().strftime("%Y-%m-%dT%H:%M:%SZ")), subresource="status")
            cluster.delete("Pod", name, uid=uid, grace_s=0)
            return
        except NotFound:
            return
        except AlreadyExists:  # 409: it changed in between
            if not tries_left:
                raise


def _replacement(cluster: Cluster, name: str, worker: int, before: set[str], wait_s: float) -> str:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        try:
            job = find_job(cluster, name)
            if job["spec"].get("suspend"):
                return ""
            for pod in cluster.select("Pod", labels=selector_of(name)):
                if index_of(pod) == worker and pod["metadata"]["uid"] not in before:
                    return str(pod["metadata"]["name"])
        except NotFound:
            return ""
        except ClusterError:
            pass  # taken away it is; the replacement needs nobody who looks on
        time.sleep(0.5)
    return ""
