"""The jobs of a cluster: found by name, or all of them, whatever carries them."""

from collections.abc import Iterator
from contextlib import nullcontext, suppress

from orchestrator.kube.carrier import CARRIERS, as_job, child_selector, failed
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import Forbidden, NotFound
from orchestrator.kube.names import OURS
from orchestrator.kube.objects import Manifest, is_ours

_NO_SUCH_KIND = (NotFound, Forbidden)
"""What asking for a JobSet answers where JobSet is not installed, or is not for this user."""


def find_job(cluster: Cluster, name: str) -> Manifest:
    """The Job or JobSet that carries a job, in the shape of a Job (carrier.py); `kind` says which of the two it is.

    Raises:
        NotFound: there is none of that name, or it is not orch's; names the jobs there are.
    """
    strangers = []
    for carrier in find_carriers(cluster, name):
        if is_ours(carrier):
            asked = carrier["kind"] == "JobSet" and failed(carrier)
            return as_job(carrier, cluster.select("Job", labels=child_selector(name)) if asked else [])
        strangers.append(carrier["kind"])
    others = [job["metadata"]["name"] for job in list_jobs(cluster)]
    where = f"namespace {cluster.namespace} of context {cluster.context}"
    there = f"there are: {', '.join(sorted(others)[:10])}" if others else "there are none of orch"
    raise NotFound(
        f"{strangers[0]} {name} in {where} was not made by orch" if strangers else f"no job {name} in {where}",
        remedy=f"{there}. For a run on this machine give its directory, with a slash: ./runs/{name}",
    )


def list_jobs(cluster: Cluster, *, all_namespaces: bool = False) -> list[Manifest]:
    """All jobs of orch in the namespace, or in all, whatever carries them, each in the shape of a Job."""
    found: list[Manifest] = []
    for kind in CARRIERS:
        with suppress(*_NO_SUCH_KIND) if kind == "JobSet" else nullcontext():
            found += cluster.select(kind, labels=OURS, all_namespaces=all_namespaces)
    return [as_job(carrier) for carrier in found]


def find_carriers(cluster: Cluster, name: str) -> Iterator[Manifest]:
    """The Job and the JobSet of that name, where there are such, whoever made them, as they are."""
    for kind in CARRIERS:
        carrier = None
        with suppress(*_NO_SUCH_KIND) if kind == "JobSet" else nullcontext():
            carrier = cluster.find(kind, name)
        if carrier is not None:
            yield carrier
