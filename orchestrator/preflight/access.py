"""The API server, its version, the namespace, and what the user may do in it."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from orchestrator.kube.client import Cluster
from orchestrator.preflight.addons import KUEUE
from orchestrator.preflight.check import Finding, error, ok, warning
from orchestrator.preflight.facts import Facts, Unknown
from orchestrator.preflight.subject import CLUSTER_CHECKS, JOB_CHECKS, Candidate, Place

OLDEST = (1, 31)
"""The oldest Kubernetes whose Jobs have all that is used: podFailurePolicy and backoffLimitPerIndex of Indexed Jobs."""

_OF_CLUSTER, _TOO_OLD = "the API server answers, its version, who you are to it", "older than 1.31"
_NO_NAMESPACE = "it is not, or is being deleted"
_NO_PERMISSION = "one that submit, status or logs needs is missing"


class Permission(NamedTuple):
    """A verb on a kind, and the command that needs it."""

    verb: str
    kind: str
    subresource: str
    command: str

    @property
    def text(self) -> str:
        """create Job, get Pod/log."""
        return f"{self.verb} {self.kind}{'/' + self.subresource if self.subresource else ''}"


def cluster(facts: Facts) -> Finding:
    """Whether this Kubernetes is new enough, and as whom it knows the user."""
    major, minor = facts.version
    text = f"Kubernetes {major}.{minor} at {facts.server}, context {facts.context}, as {facts.user or 'nobody known'}"
    if facts.version < OLDEST:
        return error(f"{text}: orch needs {OLDEST[0]}.{OLDEST[1]} or newer", "have the cluster upgraded")
    return ok(text)


def namespace(facts: Facts) -> Finding:
    """Whether the namespace exists, and is not just being removed."""
    found = facts.namespace_object
    if found is None:
        return error(
            f"there is no namespace {facts.namespace} in context {facts.context}",
            f"create it (kubectl create namespace {facts.namespace}), or choose another with --namespace",
        )
    if isinstance(found, Unknown):
        return ok(f"{facts.namespace}; whether it exists shows when objects are created: {found.why}")
    if found.get("status", {}).get("phase") == "Terminating":
        return error(f"namespace {facts.namespace} is being deleted", "choose another with --namespace")
    return ok(facts.namespace)


@JOB_CHECKS.check("cluster", 10, basic=True, what=_OF_CLUSTER, error_when=_TOO_OLD)
@CLUSTER_CHECKS.check("cluster", 10, basic=True, what=_OF_CLUSTER, error_when=_TOO_OLD)
def _cluster(place: Place) -> Finding:
    return cluster(place.facts)


@JOB_CHECKS.check("namespace", 20, basic=True, what="it is there", error_when=_NO_NAMESPACE)
@CLUSTER_CHECKS.check("namespace", 20, basic=True, what="it is there", error_when=_NO_NAMESPACE)
def _namespace(place: Place) -> Finding:
    return namespace(place.facts)


def needed(carrier: str) -> list[Permission]:
    """Without these no job can be submitted and looked after. `carrier`: Job or JobSet."""
    found = [
        *_each("create get list watch patch delete", carrier, "submit"),
        *_each("list watch", "Pod", "submit, status -w, logs -f"),
        *_each("get", "Pod/log", "logs"),
    ]
    for kind in ("Service", "ConfigMap", "NetworkPolicy", "Secret"):
        found += _each("create delete", kind, "submit")
    if carrier == "JobSet":  # whose name a Job may have, and whose groups are Jobs
        found += _each("get list", "Job", "submit, status")
    return found


def wanted(*, queue: bool) -> list[Permission]:
    """Without these a job runs, and some command cannot do its work. `queue`: whether jobs go through Kueue."""
    found = [
        # A WebSocket begins as a GET; Kubernetes 1.35 asks for create besides.
        *_each("get create", "Pod/exec", "status, exec"),
        *_each("list watch", "Event", "status, events"),
        *_each("get delete", "Pod", "logs, replace"),
        *_each("patch", "Pod/status", "replace"),
        *_each("create", "Pod", "check"),
        *_each("get list", "Service", "check, delete"),
        *_each("get list", "ConfigMap", "check, resume, delete"),
        *_each("get list", "NetworkPolicy", "check, delete"),
        *_each("list", "ResourceQuota", "check"),
        *_each("list", "LimitRange", "check"),
        *_each("get", "PersistentVolumeClaim", "check"),
        *_each("get", "ServiceAccount", "check"),
        *_each("get", "Namespace", "check"),
    ]
    if queue:
        found += [
            *_each("get list", "LocalQueue", "check, doctor"),
            *_each("list patch", "Workload", "status, cancel, resume"),
            *_each("get", "LocalQueueView/pendingworkloads", "status"),
        ]
    return found


def _each(verbs: str, of: str, command: str) -> list[Permission]:
    kind, _, subresource = of.partition("/")
    return [Permission(verb, kind, subresource, command) for verb in verbs.split()]


def permissions(cluster: Cluster, carrier: str, *, queue: bool) -> Finding:
    """Whether the user may do what the commands do."""
    asked = [*needed(carrier), *wanted(queue=queue)]
    missing = refused(cluster, asked)
    if not missing:
        return ok(f"all {len(asked)} verbs that the commands use are allowed in {cluster.namespace}")
    in_the_way = [item.text for item in missing if item in needed(carrier)]
    remedy = "ask an administrator for the role orch-submitter (k8s/setup), or use another --namespace"
    where = f"in namespace {cluster.namespace} of context {cluster.context}"
    if in_the_way:
        return error(f"you may not do this {where}: {', '.join(in_the_way)}", remedy)
    told = ", ".join(f"{item.text} (orch {item.command})" for item in missing)
    return warning(f"you may not do this {where}: {told}", remedy)


@JOB_CHECKS.check(
    "permissions",
    30,
    before_image=True,
    what="each verb that the commands use",
    error_when=_NO_PERMISSION,
)
def _permissions(on: Candidate) -> Finding:
    return permissions(on.cluster, on.job.carrier["kind"], queue=on.job.spec.scheduling.queue is not None)


@CLUSTER_CHECKS.check(
    "permissions",
    30,
    what="each verb that the commands use for a Job, and for a queue where there is Kueue",
    error_when=_NO_PERMISSION,
)
def _permissions_at_all(place: Place) -> Finding:
    return permissions(place.cluster, "Job", queue=KUEUE in place.facts.groups)


def refused(cluster: Cluster, asked: Iterable[Permission]) -> list[Permission]:
    """Those of the permissions that the user lacks."""
    asked = list(asked)
    with ThreadPoolExecutor(6) as pool:
        answers = pool.map(lambda item: cluster.can_i(item.verb, item.kind, subresource=item.subresource), asked)
        return [item for item, allowed in zip(asked, answers, strict=True) if not allowed]
