"""A job off the cluster again: every object of it and nothing else, and waiting for its pods to go."""

import time
from collections.abc import Callable, Collection

from orchestrator.jobs.suspend import suspend
from orchestrator.kube.carrier import child_selector, launch_of
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ClusterError, ClusterUnreachable, Forbidden, NotFound
from orchestrator.kube.jobs import find_carriers
from orchestrator.kube.names import selector_of
from orchestrator.kube.objects import Manifest, is_ours, is_over, pod_is_over
from orchestrator.kube.silent_node import hint, silent_since
from orchestrator.manifests.render import token_name
from orchestrator.status.surroundings import hosts_if_told

DEPENDENTS = ("NetworkPolicy", "Service", "ConfigMap", "Secret")
"""What belongs to a job besides its Job or JobSet and its pods."""
POD_WAIT_S = 600.0
Say = Callable[[str], None]


def delete(cluster: Cluster, name: str, *, say: Say, wait: bool = True, timeout_s: float = POD_WAIT_S) -> list[str]:
    """Remove the objects of a job, and wait until its pods are gone. The run directory stays.

    A job that takes the name meanwhile is neither touched nor waited for.

    Returns:
        What was removed, as `Job digits`.

    Raises:
        NotFound: there is nothing of that name that orch made.
        ClusterError: pods are still there after `timeout_s`, with where they are.
    """
    labels = selector_of(name)
    carriers = _ours(cluster, name)
    others: list[Manifest] = []
    secrets_seen = True
    for kind in DEPENDENTS:
        try:
            others += cluster.select(kind, labels=labels)
        except Forbidden:
            secrets_seen = secrets_seen and kind != "Secret"
    # Pods of a Job that somebody else deleted already are waited for as well.
    pods = cluster.select("Pod", labels=labels)
    if not carriers and not others and not pods:
        raise NotFound(
            f"nothing of a job {name} is in namespace {cluster.namespace} of context {cluster.context}",
            remedy="`orch list` shows the jobs there are",
        )
    launches = _uids(carriers) | {launch_of(pod) for pod in pods}
    # What belongs to a Job goes with it, at once: so the pods stop first, while the NetworkPolicy still keeps strangers from
    # them, and they still find each other for the last save.
    if wait and all(_stops(cluster, carrier) for carrier in carriers):
        wait_for_pods(cluster, name, launches, say=say, timeout_s=timeout_s, ended_too=False)
    removed = []
    # Who may list Secrets may read them all, so few may; its name follows from the job's, and is this job's as long as that has
    # its own name.
    if not secrets_seen and (carriers or others) and _uids(_ours(cluster, name)) == _uids(carriers):
        removed += _remove(cluster, [{"kind": "Secret", "metadata": {"name": token_name(name)}}])
    removed += _remove(cluster, carriers)
    if wait:
        wait_for_pods(
            cluster, name, launches, say=say, timeout_s=timeout_s, and_then=lambda: not _in_use(cluster, name, launches)
        )
    return removed + _remove(cluster, others)


def _ours(cluster: Cluster, name: str) -> list[Manifest]:
    return [carrier for carrier in find_carriers(cluster, name) if is_ours(carrier)]


def _uids(items: list[Manifest]) -> set[str]:
    return {item["metadata"]["uid"] for item in items}


def _stops(cluster: Cluster, carrier: Manifest) -> bool:
    """Have its pods end, if there are any. Whether they will: where that is refused, or nobody sees to it, all goes at once."""
    if is_over(carrier) or "deletionTimestamp" in carrier["metadata"]:
        return True
    try:
        suspend(cluster, carrier, True)
        # Kueue does it in its own time, and not at all while it is down.
        cluster.patch(carrier["kind"], carrier["metadata"]["name"], {"spec": {"suspend": True}})
    except ClusterUnreachable:
        raise
    except NotFound:
        return True
    except ClusterError:
        return False
    return True


def _in_use(cluster: Cluster, name: str, launches: Collection[str]) -> bool:
    """Whether the Job, or the JobSet and its Jobs, are still on their way out: until then the name is not free."""
    children = [child for child in cluster.select("Job", labels=child_selector(name)) if launch_of(child) in launches]
    return bool(children) or not _uids(_ours(cluster, name)).isdisjoint(launches)


def wait_for_pods(
    cluster: Cluster,
    name: str,
    launches: Collection[str],
    *,
    say: Say,
    timeout_s: float,
    ended_too: bool = True,
    and_then: Callable[[], bool] = lambda: True,
) -> None:
    """Wait until the pods of a job are gone, or (without `ended_too`) none of them runs, and `and_then` holds.

    Args:
        launches: the UIDs of the Jobs or JobSets whose pods are meant.

    Raises:
        ClusterError: not within `timeout_s`; with where they are.
    """
    deadline = time.monotonic() + timeout_s
    told, away = "", ""
    pods: list[Manifest] = []
    while True:
        try:
            pods = [
                pod
                for pod in cluster.select("Pod", labels=selector_of(name))
                if launch_of(pod) in launches and (ended_too or not pod_is_over(pod))
            ]
            if not pods and and_then():
                return
            away = ""
        except ClusterUnreachable as error:
            if not away:
                away = error.message
                say(f"{away}; trying again")
        text = _waiting(cluster, name, pods)
        if pods and not away and text != told:
            told = text
            say(text)
        if time.monotonic() > deadline:
            places = ", ".join(f"{pod['metadata']['name']} on {pod['spec'].get('nodeName', '?')}" for pod in pods[:10])
            raise ClusterError(
                f"pods of job {name} are still there after {timeout_s:.0f} s: {places}"
                if pods
                else away or f"the pods of job {name} are gone, but not yet the rest of it, after {timeout_s:.0f} s",
                remedy=_hint(cluster, name, pods)
                or f"orch status {name} and kubectl describe pod say more; then try again",
            )
        time.sleep(0.5)


def _waiting(cluster: Cluster, name: str, pods: list[Manifest]) -> str:
    names = sorted(pod["metadata"]["name"] for pod in pods)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    text = f"waiting for {len(names)} pod{'s' if len(names) > 1 else ''} to stop: {', '.join(names[:4])}{more}"
    return "\n".join(filter(None, [text, _hint(cluster, name, pods)]))


def _hint(cluster: Cluster, name: str, pods: list[Manifest]) -> str:
    silent = [pod for pod in pods if silent_since(pod)]
    return hint(name, silent, hosts_if_told(cluster, silent))


def _remove(cluster: Cluster, items: list[Manifest]) -> list[str]:
    for item in items:
        cluster.delete(item["kind"], item["metadata"]["name"], uid=item["metadata"].get("uid"))
    return [f"{item['kind']} {item['metadata']['name']}" for item in items]
