"""A cluster looked over once for all jobs: what orch needs of it, what is there, and what is missing for which kind of job.

Reading is at the top; what follows from it is pure. What no job needs is never an error here.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.jobfile.accelerators import from_labels
from orchestrator.jobfile.spec import JobSpec
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import Forbidden, NotFound
from orchestrator.kube.objects import Manifest, annotations, answers, condition, labels, quantity, takes_pods
from orchestrator.manifests.render import TOKEN_PLACEHOLDER, render
from orchestrator.preflight import access, addons, take
from orchestrator.preflight.access import Permission
from orchestrator.preflight.check import Check, Finding, Level, error, errors, ok, warning
from orchestrator.preflight.facts import Unknown, jobset_schema, look
from orchestrator.preflight.names import dry_run
from orchestrator.preflight.pod import admitted, worker_pod
from orchestrator.preflight.subject import CLUSTER_CHECKS, Place
from orchestrator.text import amount_text, columns
from trainer.config import TrainConfig

_SYSTEM = "kube-system"
_DNS = ("kube-dns", "coredns", "rke2-coredns-rke2-coredns", "dns-default")
"""What clusters call the Service of their DNS."""
_CAPACITY = {
    "cloud.google.com/gke-spot": "spot",
    "cloud.google.com/gke-flex-start": "flex-start",
    "cloud.google.com/reservation-name": "reservation",
}
_OUR_RESOURCES = {"jobs", "jobsets", "pods", "services", "configmaps", "secrets", "networkpolicies"}


@dataclass(frozen=True)
class NodeGroup:
    """Nodes that are alike for a job."""

    accelerator: str
    """As a job file names it, with the count of a node; empty: none."""
    capacity: str
    """on-demand, spot, flex-start, reservation."""
    cpu: str
    memory: str
    architecture: str
    taints: str
    nodes: int = 0
    ready: int = 0


@dataclass(frozen=True)
class Report:
    """What `orch doctor` found."""

    checks: list[Check]
    nodes: list[NodeGroup]

    @property
    def well(self) -> bool:
        """Whether nothing is missing that every job needs."""
        return not errors(self.checks)

    def to_json(self) -> dict[str, Any]:
        """The object of `orch doctor -o json`."""
        return {
            "ok": self.well,
            "checks": [check.to_json() for check in self.checks],
            "nodes": [asdict(group) for group in self.nodes],
        }


def examine(cluster: Cluster) -> Report:
    """Look the cluster over, for jobs in the namespace. Nothing is created: what would be is tried by server-side dry runs.

    Raises:
        ClusterUnreachable: the API server does not answer. Forbidden: it does not know the user.
    """
    place = Place(cluster, look(cluster))
    return Report(take(CLUSTER_CHECKS.all(), place), groups(place.facts.nodes))


# --- by trying


def _sample() -> tuple[JobSpec, TrainConfig]:
    spec = JobSpec.model_validate(
        {
            "name": "orch-doctor",
            "image": {"ref": "registry.example/orch-doctor"},
            "train": {"command": ["true"]},
            "run": {"directory": "gs://orch-doctor/run"},
            "resources": {"cpu": 1.0, "memory": "1Gi"},
        }
    )
    config = TrainConfig(name=spec.name, train=spec.train, run_directory="gs://orch-doctor/run")
    return spec, config


@CLUSTER_CHECKS.check(
    "job", 50, what="one job and what belongs to it by server-side dry run: quotas, webhooks", error_when="refused"
)
def _job(place: Place) -> Finding:
    """A job as it would be sent, past validation, admission webhooks and quotas."""
    spec, config = _sample()
    objects = render(spec, config, namespace=place.cluster.namespace, token=TOKEN_PLACEHOLDER)
    return dry_run(place.cluster, objects, [], spec.name)


@CLUSTER_CHECKS.check("pod", 40, what="one pod by server-side dry run: Pod Security, webhooks", error_when="refused")
def _pod(place: Place) -> Finding:
    spec, config = _sample()
    job = render(spec, config, namespace=place.cluster.namespace, token=TOKEN_PLACEHOLDER)[-1]
    tried = worker_pod(job["spec"]["template"], spec.name, place.cluster.namespace)
    return admitted(place.cluster, place.facts, tried)


# --- add-ons


@CLUSTER_CHECKS.check("jobset", 100, what="JobSet and its version", error_when="never: only some jobs need it")
def _jobset(place: Place) -> Finding:
    served = place.facts.groups.get(addons.JOBSET, [])
    if not served:
        return warning(
            "not installed: TPU slices of several hosts and kubernetes.kind: JobSet are not possible",
            "https://jobset.sigs.k8s.io/docs/installation, if they are wanted",
        )
    found = addons.addons(place.facts, jobset=True, queue=None, schema=jobset_schema(place.cluster))
    if found.level is not Level.OK:
        return warning(found.text, found.remedy)
    missing = access.refused(
        place.cluster, [Permission(verb, "JobSet", "", "submit") for verb in ("create", "patch", "delete")]
    )
    if missing:
        told = ", ".join(item.text for item in missing)
        return warning(f"installed, and you may not {told}", "ask for the role orch-submitter (k8s/setup)")
    return ok(f"{addons.JOBSET} {', '.join(served)}")


@CLUSTER_CHECKS.check(
    "kueue",
    110,
    what="Kueue, and the queues of the namespace that admit nothing",
    error_when="never: only some jobs need it",
)
def _kueue(place: Place) -> Finding:
    served = place.facts.groups.get(addons.KUEUE, [])
    if not served:
        return warning(
            "not installed: scheduling.queue is not possible",
            "https://kueue.sigs.k8s.io/docs/installation, if queues are wanted",
        )
    try:
        queues = place.cluster.select("LocalQueue")
    except Forbidden:
        return warning(f"{addons.KUEUE} {served[0]}; you may not look at the queues of the namespace")
    return queues_in_words(queues, served[0], place.cluster.namespace)


def queues_in_words(queues: list[Manifest], version: str, namespace: str) -> Finding:
    """The queues of the namespace, and those that admit nothing."""
    if not queues:
        return warning(f"{addons.KUEUE} {version}; namespace {namespace} has no LocalQueue", "k8s/setup shows one")
    stuck = [
        f"{queue['metadata']['name']}: {active.get('message', active.get('reason', 'not active'))}"
        for queue in queues
        if (active := condition(queue, "Active")) and active["status"] != "True"
    ]
    if stuck:
        return warning(f"queues that admit nothing: {'; '.join(stuck)}", "see kubectl describe localqueue")
    names = ", ".join(sorted(queue["metadata"]["name"] for queue in queues))
    return ok(f"{addons.KUEUE} {version}; queues: {names}")


@CLUSTER_CHECKS.check(
    "webhooks",
    60,
    what="admission webhooks that a job goes through have somebody who answers",
    error_when="nobody answers",
)
def _webhooks(place: Place) -> Finding:
    """Whether every webhook that stands in the way of a job has somebody who answers."""
    try:
        configurations = [
            item
            for kind in ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")
            for item in place.cluster.select(kind)
        ]
        services = sorted({service for item in configurations for service in services_in_the_way(item)})
        silent = [service for service in services if not _answers(place.cluster, *service)]
    except Forbidden:
        return ok("you may not look at them; the line `job` tried those that concern a job")
    if silent:
        told = ", ".join(f"{namespace}/{name}" for namespace, name in silent)
        return error(
            f"no pod answers for {told}: what goes through its webhooks cannot be created",
            f"kubectl get pods -n {silent[0][0]}; whoever runs that add-on must look at it",
        )
    return ok(f"{len(services)} services of admission webhooks concern jobs; all have somebody who answers")


def services_in_the_way(configuration: Manifest) -> list[tuple[str, str]]:
    """(namespace, name) of the Services that are asked about objects like ours, and whose silence is a refusal."""
    found = []
    for webhook in configuration.get("webhooks") or []:
        service = webhook.get("clientConfig", {}).get("service")
        resources = {name for rule in webhook.get("rules") or [] for name in rule.get("resources") or []}
        concerned = "*" in resources or "*/*" in resources or resources & _OUR_RESOURCES
        if service and concerned and webhook.get("failurePolicy", "Fail") == "Fail":
            found.append((service["namespace"], service["name"]))
    return found


def _answers(cluster: Cluster, namespace: str, service: str) -> bool:
    slices = cluster.elsewhere(namespace).select("EndpointSlice", labels=f"kubernetes.io/service-name={service}")
    return has_ready_endpoint(slices)


def has_ready_endpoint(slices: Sequence[Manifest]) -> bool:
    """Whether somebody is ready behind a Service."""
    return any(answers(endpoint) for item in slices for endpoint in item.get("endpoints") or [])


@CLUSTER_CHECKS.check(
    "dns", 70, what="the DNS by which workers find each other has somebody who answers", error_when="nobody answers"
)
def _dns(place: Place) -> Finding:
    """Workers find worker 0 by its name."""
    try:
        slices = place.cluster.elsewhere(_SYSTEM).select("EndpointSlice")
    except Forbidden:
        return ok("you may not look at it; the workers' log says if names do not resolve")
    return dns_in_words(slices)


def dns_in_words(slices: list[Manifest]) -> Finding:
    """Whether a DNS service that is known by its name has somebody who answers."""
    own = [item for item in slices if labels(item).get("kubernetes.io/service-name") in _DNS]
    if not own:
        return warning(
            f"no DNS service is known in {_SYSTEM}: where the nodes' kubelets name another one, nothing is wrong",
            "kubectl run --rm -it dns --image=busybox -- nslookup kubernetes.default",
        )
    name = own[0]["metadata"]["labels"]["kubernetes.io/service-name"]
    if not has_ready_endpoint(own):
        return error(
            f"nobody answers for Service {name}: workers find each other by name",
            f"kubectl get pods -n {_SYSTEM}",
        )
    return ok(f"Service {name} has somebody who answers")


# --- nodes


def groups(found: list[Manifest] | Unknown) -> list[NodeGroup]:
    """Nodes by what makes a difference to a job; those with accelerators first."""
    if isinstance(found, Unknown):
        return []
    alike: dict[NodeGroup, list[bool]] = {}
    for node in found:
        alike.setdefault(_group_of(node), []).append(takes_pods(node))
    counted = [replace(group, nodes=len(ready), ready=sum(ready)) for group, ready in alike.items()]
    return sorted(counted, key=lambda group: (not group.accelerator, group.accelerator, group.capacity, group.cpu))


def _group_of(node: Manifest) -> NodeGroup:
    given = labels(node)
    has = node.get("status", {}).get("allocatable") or {}
    taints = [
        f"{taint['key']}:{taint['effect']}"
        for taint in (node.get("spec") or {}).get("taints") or []
        if not taint["key"].startswith("node.kubernetes.io/")
    ]
    return NodeGroup(
        accelerator=_accelerator(given, has),
        capacity=next((word for label, word in _CAPACITY.items() if label in given), "on-demand"),
        cpu=amount_text(quantity(has.get("cpu", "0")), "cpu"),
        memory=amount_text(quantity(has.get("memory", "0")), "memory"),
        architecture=given.get("kubernetes.io/arch", "?"),
        taints=", ".join(sorted(taints)),
    )


def _accelerator(given: dict[str, str], has: dict[str, str]) -> str:
    chips = int(has.get("google.com/tpu", "0"))
    gpus = int(has.get("nvidia.com/gpu", "0"))
    known = from_labels(given, chips or gpus or None)
    if known is not None:
        return known.name
    product = given.get("cloud.google.com/gke-accelerator") or given.get("nvidia.com/gpu.product")
    if gpus:
        return f"gpu:{gpus}" + (f" ({product})" if product else "")
    if chips:
        return f"{given.get('cloud.google.com/gke-tpu-accelerator', 'tpu')} ({chips} chips)"
    return ""


def nodes(found: list[Manifest] | Unknown) -> Finding:
    """How many nodes there are, and which are out."""
    if isinstance(found, Unknown):
        return warning("you may not look at nodes", "the ClusterRole orch-reader (k8s/setup) allows it")
    if not found:
        return warning("there are none: jobs wait until some are added")
    out = [node["metadata"]["name"] for node in found if not takes_pods(node)]
    text = f"{len(found)}, of which {len(found) - len(out)} take pods"
    if out:
        shown = ", ".join(out[:5]) + (f" and {len(out) - 5} more" if len(out) > 5 else "")
        return warning(f"{text}; not ready or cordoned: {shown}", "kubectl describe node; kubectl uncordon")
    return ok(text)


@CLUSTER_CHECKS.check(
    "nodes", 80, what="nodes, and those that take no pods", error_when="never: a warning where some do not"
)
def _nodes(place: Place) -> Finding:
    return nodes(place.facts.nodes)


def kinds_of_capacity(found: list[Manifest] | Unknown) -> Finding:
    """Which values of resources.capacity have nodes now. None need be there: GKE makes such nodes when they are asked for."""
    if isinstance(found, Unknown):
        return ok("you may not look at nodes")
    there = dict.fromkeys(_CAPACITY.values(), 0)
    for node in found:
        for label, kind in _CAPACITY.items():
            there[kind] += label in labels(node)
    if not any(there.values()):
        return ok(
            "no nodes for capacity: spot, flex-start or reservation now; such jobs wait until a node pool makes some",
        )
    return ok("; ".join(f"{kind}: {count} nodes" for kind, count in there.items()))


@CLUSTER_CHECKS.check("capacity", 170, what="nodes for each value of resources.capacity", error_when="never")
def _capacity(place: Place) -> Finding:
    return kinds_of_capacity(place.facts.nodes)


# --- the namespace


def quotas(found: list[Manifest] | Unknown) -> Finding:
    """What is left of the namespace's quotas."""
    if isinstance(found, Unknown):
        return warning("you may not look at the quotas of the namespace")
    if not found:
        return ok("none in the namespace")
    told = []
    for item in found:
        status = item.get("status", {})
        for resource, hard in (status.get("hard") or {}).items():
            used = quantity((status.get("used") or {}).get(resource, "0"))
            told.append(f"{resource} {amount_text(used, resource)} of {amount_text(quantity(hard), resource)}")
    return ok(f"in use: {', '.join(told)}")


@CLUSTER_CHECKS.check("quota", 120, what="what is left of the namespace's quotas", error_when="never")
def _quota(place: Place) -> Finding:
    return quotas(place.facts.quotas)


def limits(found: list[Manifest] | Unknown) -> Finding:
    """What the namespace fills in or forbids."""
    if isinstance(found, Unknown):
        return warning("you may not look at the LimitRanges of the namespace")
    rules = [
        f"{rule['type']} {word} {', '.join(f'{name} {value}' for name, value in rule[word].items())}"
        for item in found
        for rule in item["spec"].get("limits") or []
        for word in ("min", "max", "default")
        if rule.get(word)
    ]
    return ok("; ".join(rules) if rules else "no LimitRange in the namespace")


@CLUSTER_CHECKS.check("limits", 130, what="what the namespace's LimitRanges fill in or forbid", error_when="never")
def _limits(place: Place) -> Finding:
    return limits(place.facts.limit_ranges)


@CLUSTER_CHECKS.check("priorities", 140, what="what scheduling.priority may name", error_when="never")
def _priorities(place: Place) -> Finding:
    try:
        found = place.cluster.select("PriorityClass")
    except Forbidden:
        return ok("you may not look at priorityclasses")
    own = sorted(item["metadata"]["name"] for item in found if not item["metadata"]["name"].startswith("system-"))
    if not own:
        return ok("no PriorityClass of your own: scheduling.priority has nothing to name")
    return ok(f"{', '.join(own)} (scheduling.priority)")


@CLUSTER_CHECKS.check("account", 150, what="the service account `default`", error_when="it is not there")
def _account(place: Place) -> Finding:
    try:
        place.cluster.get("ServiceAccount", "default")
    except NotFound:
        return error("the namespace has no service account `default`: no pod can be created", "wait, or recreate it")
    except Forbidden:
        return ok("you may not look at service accounts")
    return ok("the service account `default` is there; its token is not mounted into the workers")


@CLUSTER_CHECKS.check("storage", 160, what="a default StorageClass", error_when="never")
def _storage(place: Place) -> Finding:
    try:
        found = place.cluster.select("StorageClass")
    except Forbidden:
        return ok("you may not look at storage classes; only claims need them")
    mark = "storageclass.kubernetes.io/is-default-class"
    default = [item["metadata"]["name"] for item in found if annotations(item).get(mark) == "true"]
    if not default:
        return ok("no default StorageClass: claims must name one; a run directory in a bucket needs none")
    return ok(f"default StorageClass {', '.join(default)}; a run directory on a claim needs ReadWriteMany")


def table(found: Sequence[NodeGroup]) -> list[str]:
    """The node table for a person."""
    if not found:
        return []
    titles = ("nodes", "ready", "accelerator", "capacity", "cpu", "memory", "arch", "taints")
    rows = [titles] + [
        (
            str(of.nodes),
            str(of.ready),
            of.accelerator or "-",
            of.capacity,
            of.cpu,
            of.memory,
            of.architecture,
            of.taints or "-",
        )
        for of in found
    ]
    return columns(rows)
