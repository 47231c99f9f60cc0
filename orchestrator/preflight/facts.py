"""What a cluster says of itself, as far as the user may look: read once, judged by the other modules here.

A submitter of k8s/setup may look at the namespace, and through the ClusterRole orch-reader at nodes, add-ons and classes.
What may not be looked at is Unknown, with the reason: it is never an error.
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import Forbidden, NotFound
from orchestrator.kube.kinds import KINDS
from orchestrator.kube.objects import Manifest

T = TypeVar("T")


@dataclass(frozen=True)
class Unknown:
    """What could not be read."""

    why: str


@dataclass(frozen=True)
class Facts:
    """One look at a cluster and a namespace of it."""

    context: str
    namespace: str
    server: str
    version: tuple[int, int]
    user: str
    namespace_object: Manifest | Unknown | None
    """None: there is no such namespace."""
    groups: dict[str, list[str]]
    """API group -> versions, the preferred one first."""
    nodes: list[Manifest] | Unknown
    daemon_sets: list[Manifest] | Unknown
    quotas: list[Manifest] | Unknown
    limit_ranges: list[Manifest] | Unknown


def look(cluster: Cluster) -> Facts:
    """Read all of it, several at a time.

    Raises:
        ClusterUnreachable: the API server does not answer.
        Forbidden: it does not accept the user at all.
    """
    version = cluster.version()
    user = ""
    with contextlib.suppress(NotFound):  # Kubernetes before 1.28, of which the check of the version says more
        user = cluster.user()
    with ThreadPoolExecutor(6) as pool:
        groups = pool.submit(cluster.api_groups)
        namespace = pool.submit(_namespace, cluster)
        nodes = pool.submit(_or_unknown, lambda: cluster.select("Node"))
        daemon_sets = pool.submit(_or_unknown, lambda: cluster.select("DaemonSet", all_namespaces=True))
        quotas = pool.submit(_or_unknown, lambda: cluster.select("ResourceQuota"))
        limit_ranges = pool.submit(_or_unknown, lambda: cluster.select("LimitRange"))
    return Facts(
        context=cluster.context,
        namespace=cluster.namespace,
        server=cluster.server,
        version=version,
        user=user,
        namespace_object=namespace.result(),
        groups=groups.result(),
        nodes=nodes.result(),
        daemon_sets=daemon_sets.result(),
        quotas=quotas.result(),
        limit_ranges=limit_ranges.result(),
    )


def jobset_schema(cluster: Cluster) -> Manifest | None:
    """What the cluster knows of JobSets; None where that may not be read, or there is none."""
    with contextlib.suppress(Forbidden, NotFound):
        return cluster.schema(KINDS["JobSet"].group, KINDS["JobSet"].version)
    return None


def _namespace(cluster: Cluster) -> Manifest | Unknown | None:
    try:
        return cluster.get("Namespace", cluster.namespace)
    except NotFound:
        return None
    except Forbidden:
        return Unknown(f"you may not look at the namespace {cluster.namespace}")


def _or_unknown(read: Callable[[], T]) -> T | Unknown:
    try:
        return read()
    except Forbidden as error:
        return Unknown(error.message)
