"""What carries the workers of a job: one Indexed Job, or a JobSet with a Job for each group of workers. Pure.

A JobSet is read through a view that has the shape of a Job, so that status, logs and the rest know one shape. The view's
`kind` is the true one: what patches, deletes or watches goes by it.
"""

from collections.abc import Sequence
from typing import Literal

from orchestrator.kube.names import JOB_UID_LABEL, JOBSET_LABEL, JOBSET_UID_LABEL
from orchestrator.kube.objects import Manifest, condition, conditions, labels, workers_of

CarrierKind = Literal["Job", "JobSet"]

CARRIERS: tuple[CarrierKind, ...] = ("Job", "JobSet")
API_VERSIONS: dict[CarrierKind, str] = {"Job": "batch/v1", "JobSet": "jobset.x-k8s.io/v1alpha2"}
REPLICATED_JOB = "worker"
"""The one replicatedJob of a JobSet; its Jobs are NAME-worker-0, NAME-worker-1, ..."""


def owner_reference(carrier: Manifest) -> Manifest:
    """What makes an object belong to the carrier as it was created: both go together."""
    metadata = carrier["metadata"]
    return {
        "apiVersion": API_VERSIONS[carrier["kind"]],
        "kind": carrier["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }


def child_names(carrier: Manifest) -> list[str]:
    """The Jobs that a JobSet makes; of a Job, none."""
    if carrier["kind"] == "Job":
        return []
    (replicated,) = carrier["spec"]["replicatedJobs"]
    return [f"{carrier['metadata']['name']}-{REPLICATED_JOB}-{group}" for group in range(replicated.get("replicas", 1))]


def child_selector(name: str) -> str:
    """The label selector of the Jobs of a JobSet; they carry none of orch's own labels."""
    return f"{JOBSET_LABEL}={name}"


def launch_of(item: Manifest) -> str:
    """The UID of the Job or JobSet that a pod, or a Job of a JobSet, belongs to; empty where nothing says it."""
    return str(labels(item).get(JOBSET_UID_LABEL) or labels(item).get(JOB_UID_LABEL) or "")


def as_job(carrier: Manifest, children: Sequence[Manifest] = ()) -> Manifest:
    """A carrier in the shape of a Job: all workers as `parallelism`, the pods' template, a Job's conditions. A JobSet's also
    has its number of `groups`.

    Args:
        carrier: the Job, which is returned as it is, or the JobSet.
        children: the Jobs of the JobSet, where they are known. They tell how many pods are active, and why a group failed,
            which the JobSet itself does not.
    """
    if carrier["kind"] == "Job":
        return carrier
    (replicated,) = carrier["spec"]["replicatedJobs"]
    groups, child = replicated.get("replicas", 1), replicated["template"]["spec"]
    workers = groups * workers_of(replicated["template"])
    status = carrier.get("status", {})
    if children:
        active = sum(item.get("status", {}).get("active", 0) for item in children)
    else:
        # The JobSet counts Jobs that have an active pod: enough to tell some from none.
        active = sum(item.get("active", 0) for item in status.get("replicatedJobsStatus") or [])
    return {
        "apiVersion": carrier["apiVersion"],
        "kind": "JobSet",
        "metadata": carrier["metadata"],
        "spec": {
            "suspend": bool(carrier["spec"].get("suspend")),
            "completions": workers,
            "parallelism": workers,
            "groups": groups,
            "template": child["template"],
        },
        "status": {
            "active": active,
            "conditions": [_condition(entry, children) for entry in conditions(carrier)],
        },
    }


def _condition(entry: Manifest, children: Sequence[Manifest]) -> Manifest:
    """A JobSet's condition in a Job's words. That a rule of the failure policy applied says less than why a Job failed."""
    if entry["type"] == "Completed":
        return entry | {"type": "Complete"}
    if entry["type"] == "Failed" and entry["status"] == "True":
        first = min(_failures(children), key=lambda failed: str(failed.get("lastTransitionTime")), default=None)
        if first is not None:
            return entry | {name: first[name] for name in ("reason", "message") if name in first}
    return entry


def _failures(children: Sequence[Manifest]) -> list[Manifest]:
    return [entry for child in children if (entry := condition(child, "Failed", "True"))]


def failed(carrier: Manifest) -> bool:
    """Whether the carrier has ended as failed."""
    return bool(condition(carrier, "Failed", "True"))


def event_sources(job: Manifest) -> list[tuple[str, str]]:
    """Kind and name of the objects whose events are about the job as a whole: the carrier, then the Jobs of a JobSet."""
    name, groups = job["metadata"]["name"], job["spec"].get("groups", 0)
    return [(job["kind"], name), *(("Job", f"{name}-{REPLICATED_JOB}-{group}") for group in range(groups))]
