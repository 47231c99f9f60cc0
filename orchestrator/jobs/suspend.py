"""Whether a job may run: one field of its Job or JobSet (spec.suspend); of a job in a queue, of its Workload (spec.active), since
Kueue lets go what others suspend."""

import time

from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ClusterError
from orchestrator.kube.names import QUEUE_LABEL, WORKLOAD_OF_LABEL
from orchestrator.kube.objects import Manifest, labels

_WORKLOAD_S = 15.0


def suspend(cluster: Cluster, job: Manifest, stop: bool) -> bool:
    """Say whether a job is to be stopped; whether that is something new."""
    workload = _workload(cluster, job) if QUEUE_LABEL in labels(job) else None
    if workload is not None:
        active = not stop
        if bool(workload["spec"].get("active", True)) == active:
            return False
        cluster.patch("Workload", workload["metadata"]["name"], {"spec": {"active": active}})
        return True
    if bool(job["spec"].get("suspend")) == stop:
        return False
    cluster.patch(job["kind"], job["metadata"]["name"], {"spec": {"suspend": stop}})
    return True


def wait_for_workload(cluster: Cluster, job: Manifest) -> None:
    """A queued job is stopped by its Workload, which Kueue makes a moment after the job.

    Raises:
        ClusterError: there is none yet: what is not there cannot be stopped, and would start later.
    """
    deadline = time.monotonic() + _WORKLOAD_S
    while QUEUE_LABEL in labels(job) and _workload(cluster, job) is None:
        if time.monotonic() > deadline:
            name = job["metadata"]["name"]
            raise ClusterError(
                f"job {name} is in a queue, and Kueue has not taken notice of it within {_WORKLOAD_S:.0f} s",
                remedy=f"see to Kueue (orch doctor), or orch delete {name}: its run directory stays",
            )
        time.sleep(0.5)


def _workload(cluster: Cluster, job: Manifest) -> Manifest | None:
    """What Kueue made of a queued job; None where it made nothing (yet)."""
    uid = job["metadata"]["uid"]
    found = cluster.select("Workload", labels=f"{WORKLOAD_OF_LABEL}={uid}")
    return found[0] if found else None
