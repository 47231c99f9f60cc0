"""A job onto the cluster, whole or not at all; and off it again, every object and nothing else."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.kube import AlreadyExists, Cluster, ClusterError, Forbidden, Manifest, NotFound
from orchestrator.manifests import TOKEN_PLACEHOLDER, render, selector_of, token_name
from orchestrator.preflight import bucket_notices, check_cluster, check_run_directory
from orchestrator.spec import JobSpec
from trainer.config import TrainConfig

log = logging.getLogger(__name__)

DEPENDENTS = ("NetworkPolicy", "Service", "ConfigMap", "Secret")
"""What belongs to a job besides its Job and its pods."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Submitted:
    """A job that the cluster has taken."""

    name: str
    namespace: str
    context: str
    uid: str
    workers: int
    run_directory: str
    queued: bool
    """Whether Kueue decides when it starts."""


def check(cluster: Cluster, spec: JobSpec, config: TrainConfig, *, say: Say, bucket: bool = True) -> list[Manifest]:
    """Preflight, and every object past the API server's own validation, admission and quota, without creating one.

    Returns:
        The objects, with a placeholder for the token.

    Raises:
        OrchError: what does not hold.
    """
    objects = render(spec, config, namespace=cluster.namespace, token=TOKEN_PLACEHOLDER)
    check_cluster(cluster, spec, config)
    if bucket:
        check_run_directory(config)
        for notice in bucket_notices(config):
            say(f"note: {notice}")
    for item in objects:
        with _name_taken_told(item, spec.name):
            cluster.create(item, dry_run=True)
    say(f"checked: the cluster takes {', '.join(item['kind'] for item in objects)}")
    return objects


def submit(
    cluster: Cluster, spec: JobSpec, config: TrainConfig, *, token: str, say: Say, bucket: bool = True
) -> Submitted:
    """Check, create the Job suspended, its dependents owned by it, then let it go.

    Whatever interrupts this, Ctrl-C too, what was created is removed again.

    Raises:
        OrchError: what does not hold, or which object was refused.
    """
    check(cluster, spec, config, say=say, bucket=bucket)
    *dependents, job = render(spec, config, namespace=cluster.namespace, token=token)
    queued = bool(job["spec"].get("suspend"))
    created: list[Manifest] = []
    try:
        with _name_taken_told(job, spec.name):
            owner = cluster.create(job | {"spec": job["spec"] | {"suspend": True}})
        created.append(owner)
        uid = owner["metadata"]["uid"]
        reference = {"apiVersion": "batch/v1", "kind": "Job", "name": spec.name, "uid": uid, "controller": True}
        for item in dependents:
            owned = item | {"metadata": item["metadata"] | {"ownerReferences": [reference]}}
            with _name_taken_told(item, spec.name):
                created.append(cluster.create(owned))
        if not queued:
            cluster.patch("Job", spec.name, {"spec": {"suspend": False}})
    except BaseException:
        _undo(cluster, created, say)
        raise
    return Submitted(
        name=spec.name,
        namespace=cluster.namespace,
        context=cluster.context,
        uid=uid,
        workers=config.workers,
        run_directory=config.run_directory,
        queued=queued,
    )


@contextlib.contextmanager
def _name_taken_told(item: Manifest, job: str) -> Iterator[None]:
    try:
        yield
    except AlreadyExists:
        kind, name = item["kind"], item["metadata"]["name"]
        raise AlreadyExists(
            f"{kind} {name} exists already in namespace {item['metadata']['namespace']}",
            remedy=f"if it was left behind by a job of this name, `orch delete {job}` removes it; "
            "if it is another's, choose another name for the job",
        ) from None


def _undo(cluster: Cluster, created: list[Manifest], say: Say) -> None:
    for item in reversed(created):
        kind, name = item["kind"], item["metadata"]["name"]
        try:
            cluster.delete(kind, name, uid=item["metadata"]["uid"])
        except ClusterError as error:
            say(f"could not remove {kind} {name} again: {error.message}")
    if created:
        say("nothing was submitted: what had been created is removed again")


def delete(cluster: Cluster, name: str, *, say: Say, timeout_s: float = 600.0) -> list[str]:
    """Remove the objects of a job and wait until its pods are gone. The run directory stays.

    Returns:
        What was removed, as `Job digits`.

    Raises:
        NotFound: there is nothing of that name that orch made.
        ClusterError: pods are still there after `timeout_s`, with where they are.
    """
    labels = selector_of(name)
    found = cluster.select("Job", labels=labels)
    for kind in DEPENDENTS:
        try:
            found += cluster.select(kind, labels=labels)
        except Forbidden:
            # Who may list Secrets may read them all, so few may; the Job names the one that is its own.
            found += [_named_by(job) for job in found if kind == "Secret" and job["kind"] == "Job"]
    # Pods of a Job that somebody else deleted already are waited for as well.
    if not found and not cluster.select("Pod", labels=labels):
        raise NotFound(
            f"nothing of a job {name} is in namespace {cluster.namespace} of context {cluster.context}",
            remedy="`kubectl get jobs -A -l app.kubernetes.io/managed-by=orch` lists the jobs there are",
        )
    jobs = [item for item in found if item["kind"] == "Job"]
    removed = _remove(cluster, jobs)
    # Where the Job does not own the rest (kubectl apply), it stays until the pods have stopped: they still find each other.
    _wait_for_pods(cluster, name, say, timeout_s)
    removed += _remove(cluster, [item for item in found if item["kind"] != "Job"])
    return removed


def _named_by(job: Manifest) -> Manifest:
    """The Secret that a Job mounts as its token, as far as needed to delete it."""
    volumes = job["spec"]["template"]["spec"].get("volumes") or []
    name = next((item["secret"]["secretName"] for item in volumes if item["name"] == "orch-token"), "")
    return {"kind": "Secret", "metadata": {"name": name or token_name(job["metadata"]["name"])}}


def _remove(cluster: Cluster, items: list[Manifest]) -> list[str]:
    for item in items:
        cluster.delete(item["kind"], item["metadata"]["name"], uid=item["metadata"].get("uid"))
    return [f"{item['kind']} {item['metadata']['name']}" for item in items]


def _wait_for_pods(cluster: Cluster, name: str, say: Say, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    told: set[str] = set()
    while True:
        # The Job's name is free only when the Job, too, is gone.
        pods = cluster.select("Pod", labels=selector_of(name))
        if not pods and cluster.find("Job", name) is None:
            return
        names = {pod["metadata"]["name"] for pod in pods}
        if names and names != told:
            say(f"waiting for {len(names)} pod{'s' if len(names) > 1 else ''} to stop: {', '.join(sorted(names)[:4])}")
            told = names
        if time.monotonic() > deadline:
            places = ", ".join(f"{pod['metadata']['name']} on {pod['spec'].get('nodeName', '?')}" for pod in pods[:10])
            raise ClusterError(
                f"pods of job {name} are still there after {timeout_s:.0f} s: {places}",
                remedy="their node may be silent; if it is gone for good: kubectl delete node NODE, then orch delete again",
            )
        time.sleep(0.5)
