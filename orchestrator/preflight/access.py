"""The API server, its version, the namespace, and what the user may do in it."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from orchestrator.kube import Cluster
from orchestrator.preflight.check import Check, error, ok, warning
from orchestrator.preflight.facts import Facts, Unknown

OLDEST = (1, 31)
"""The oldest Kubernetes whose Jobs have all that is used: podFailurePolicy and backoffLimitPerIndex of Indexed Jobs."""


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


def cluster(facts: Facts) -> Check:
    """Whether this Kubernetes is new enough, and as whom it knows the user."""
    major, minor = facts.version
    text = f"Kubernetes {major}.{minor} at {facts.server}, context {facts.context}, as {facts.user or 'nobody known'}"
    if facts.version < OLDEST:
        return error("cluster", f"{text}: orch needs {OLDEST[0]}.{OLDEST[1]} or newer", "have the cluster upgraded")
    return ok("cluster", text)


def namespace(facts: Facts) -> Check:
    """Whether the namespace exists, and is not just being removed."""
    found = facts.namespace_object
    if found is None:
        return error(
            "namespace",
            f"there is no namespace {facts.namespace} in context {facts.context}",
            f"create it (kubectl create namespace {facts.namespace}), or choose another with --namespace",
        )
    if isinstance(found, Unknown):
        return ok("namespace", f"{facts.namespace}; whether it exists shows when objects are created: {found.why}")
    if found.get("status", {}).get("phase") == "Terminating":
        return error("namespace", f"namespace {facts.namespace} is being deleted", "choose another with --namespace")
    return ok("namespace", facts.namespace)


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


def permissions(cluster: Cluster, carrier: str, *, queue: bool) -> Check:
    """Whether the user may do what the commands do."""
    asked = [*needed(carrier), *wanted(queue=queue)]
    missing = refused(cluster, asked)
    if not missing:
        return ok("permissions", f"all {len(asked)} verbs that the commands use are allowed in {cluster.namespace}")
    in_the_way = [item.text for item in missing if item in needed(carrier)]
    remedy = "ask an administrator for the role orch-submitter (k8s/setup), or use another --namespace"
    where = f"in namespace {cluster.namespace} of context {cluster.context}"
    if in_the_way:
        return error("permissions", f"you may not do this {where}: {', '.join(in_the_way)}", remedy)
    told = ", ".join(f"{item.text} (orch {item.command})" for item in missing)
    return warning("permissions", f"you may not do this {where}: {told}", remedy)


def refused(cluster: Cluster, asked: Iterable[Permission]) -> list[Permission]:
    """Those of the permissions that the user lacks."""
    asked = list(asked)
    with ThreadPoolExecutor(6) as pool:
        answers = pool.map(lambda item: cluster.can_i(item.verb, item.kind, subresource=item.subresource), asked)
        return [item for item, allowed in zip(asked, answers, strict=True) if not allowed]
