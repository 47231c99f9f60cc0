"""The API server, its version, the namespace, and what the user may do in it."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from orchestrator.kube import KINDS, Cluster
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
    of_submit = [
        *((verb, carrier, "") for verb in ("create", "get", "list", "patch", "delete")),
        *(("create", kind, "") for kind in ("Service", "ConfigMap", "Secret", "NetworkPolicy")),
        *(("delete", kind, "") for kind in ("Service", "ConfigMap", "Secret", "NetworkPolicy")),
        ("list", "Pod", ""),
    ]
    return [Permission(*item, "submit") for item in of_submit] + [
        Permission("get", "Pod", "log", "logs"),
        Permission("watch", "Pod", "", "status -w, logs -f"),
    ]


def wanted() -> list[Permission]:
    """Without these a job runs, and some command cannot do its work."""
    return [
        Permission("create", "Pod", "exec", "status, exec"),
        Permission("list", "Event", "", "status, events"),
        Permission("patch", "Pod", "status", "replace"),
        Permission("delete", "Pod", "", "replace"),
    ]


def permissions(cluster: Cluster, carrier: str) -> Check:
    """Whether the user may do what the commands do."""
    asked = [item for item in (*needed(carrier), *wanted()) if item.kind in KINDS]
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
