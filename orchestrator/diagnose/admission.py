"""Before there are pods: a suspended job, a queue, and pods that the namespace refuses. Texts of Kubernetes 1.34, Kueue 0.17."""

from orchestrator.diagnose.trouble import Trouble, after, clock
from orchestrator.kube.names import QUEUE_LABEL
from orchestrator.kube.objects import Manifest, condition, labels, workers_of


def of_job(
    job: Manifest, pods: list[Manifest], events: list[Manifest], workload: Manifest | None, ahead: int | None
) -> Trouble | None:
    """What keeps a job from having its pods."""
    name, spec = job["metadata"]["name"], job["spec"]
    queue = labels(job).get(QUEUE_LABEL)
    if spec.get("suspend"):
        if queue:
            return queued(name, queue, workload, ahead)
        return Trouble("the job is suspended: no pods are wanted", f"orch resume {name} lets it go on")
    refused = [event for event in events if event.get("reason") in _REFUSALS and not _passes(event)]
    if refused and len(pods) < workers_of(job):
        message = str(refused[-1].get("message", ""))
        return Trouble(
            f"Kubernetes refuses to create pods: {after(message, 'is forbidden: ')}", _remedy_of_refusal(message)
        )
    return None


def stopped(job: Manifest, workload: Manifest | None) -> bool:
    """Whether a suspended job waits for `orch resume`. One in a queue goes on by itself, unless it was cancelled."""
    if QUEUE_LABEL in labels(job):
        return workload is not None and workload.get("spec", {}).get("active") is False
    return True


def queued(name: str, queue: str, workload: Manifest | None, ahead: int | None) -> Trouble:
    """Why Kueue does not let a job start, from its Workload."""
    look = f"kubectl describe localqueue {queue} shows what is in use"
    if workload is None:
        return Trouble(
            f"waiting for queue {queue} to admit the job",
            f"{look}; where nothing happens at all, ask whether Kueue runs (kubectl -n kueue-system get pods)",
        )
    if workload.get("spec", {}).get("active") is False:
        evicted = condition(workload, "Evicted", "True")
        told = evicted.get("message") if "MaximumExecutionTime" in str(evicted.get("reason")) else ""
        return Trouble(
            f"the job is cancelled: queue {queue} does not run it{f' ({told})' if told else ''}",
            f"orch resume {name} puts it back into the queue",
        )
    reason = _why_pending(workload)
    for mark, remedy in _REMEDIES_OF_QUEUE:
        if mark in reason and not reason.startswith(_NO_ROOM):
            return Trouble(f"queue {queue} does not admit the job: {reason}", remedy)
    place = (
        "" if ahead is None else f", {ahead} job{'' if ahead == 1 else 's'} before it" if ahead else ", next in line"
    )
    taken = _why_taken(workload)
    return Trouble(
        f"waiting in queue {queue}{place}" + (f": {reason}" if reason else "") + (f"; {taken}" if taken else ""),
        f"nothing: it starts when the queue has room; {look}",
    )


_NO_ROOM = "no room"
_REMEDIES_OF_QUEUE = (
    ("LocalQueue", "name a queue of this namespace in scheduling.queue (kubectl get localqueues), or start it again"),
    ("ClusterQueue", "whoever looks after the queues must mend it (kubectl describe clusterqueue)"),
    (
        "maximum capacity",
        "ask for less under resources: (fewer workers, smaller ones), or another queue: this one never has so much",
    ),
    ("insufficient quota", "ask for less under resources:, or another queue: this one never has so much"),
    (
        "flavor",
        "take another queue, or change resources.accelerator or scheduling.node_selector to what this one offers",
    ),
)
"""Tried in this order; what merely waits for others to end is none of them."""


def _why_pending(workload: Manifest) -> str:
    """Kueue's own words, without what it says of each pod set alike."""
    if pending := condition(workload, "QuotaReserved", "False"):
        message = str(pending.get("message", "")).strip()
        if "insufficient unused quota" in message:
            # More flavors may be listed; the first is the one that it prefers.
            return after(message, ": ").split(",", 1)[0].replace("insufficient unused quota", _NO_ROOM) + _more(message)
        return message
    for check in workload.get("status", {}).get("admissionChecks") or []:
        if check.get("state") in ("Pending", "Retry", "Rejected"):
            return f"admission check {check['name']}: {check.get('message') or check['state'].lower()}"
    return ""


def _more(message: str) -> str:
    amount = message.split(", ")[1] if ", " in message else ""
    return f" ({amount})" if "more needed" in amount else ""


def _why_taken(workload: Manifest) -> str:
    """That it ran before, and who took its place."""
    evicted = condition(workload, "Evicted", "True")
    if not evicted:
        return ""
    since = clock(str(evicted.get("lastTransitionTime", "")))
    if evicted.get("reason") == "Preempted":
        preempted = condition(workload, "Preempted", "True").get("message") or evicted.get("message", "")
        why = str(preempted).partition(" due to ")[2].partition(";")[0]
        by = f"by a job of the queues{f', {why}' if why else ''}"
        return f"preempted at {since} {by}; it goes on from its last checkpoint, if it has one"
    return f"evicted at {since}: {evicted.get('message') or evicted.get('reason')}"


_REFUSALS = ("FailedCreate", "JobCreationFailed")
"""Of a Job whose pods are refused, and of a JobSet whose Jobs are."""


def _passes(event: Manifest) -> bool:
    """With an exclusive topology JobSet refuses the other pods of a group until its first one has a node."""
    message = str(event.get("message", ""))
    return "expected, transient error" in message or "follower pod node selector" in message


def _remedy_of_refusal(message: str) -> str:
    if "exceeded quota" in message:
        return "ask for less under resources:, or free some of the namespace's quota (kubectl describe quota)"
    if "violates PodSecurity" in message:
        return (
            "take out what the namespace's Pod Security level forbids (see kubernetes.pod and volumes in the job file)"
        )
    if "serviceaccount" in message:
        return "create that service account, or correct scheduling.service_account"
    if "maximum cpu usage" in message or "maximum memory usage" in message or "minimum" in message:
        return "keep resources: within the namespace's LimitRange (kubectl describe limitrange)"
    if "denied the request" in message:
        return "an admission webhook of the cluster says no: do as it says, or ask whoever runs it"
    return "correct the job file, `orch delete` the job, and submit it again"
