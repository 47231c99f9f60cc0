"""A cluster looked over once for all jobs: what orch needs of it, what is there, and what is missing for which kind of job.

Reading is at the top; what follows from it is pure. What no job needs is never an error here.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.accelerators import from_labels
from orchestrator.kube import KINDS, Cluster, Forbidden, NotFound
from orchestrator.kube_objects import Manifest, annotations, answers, condition, labels, quantity, takes_pods
from orchestrator.manifests import TOKEN_PLACEHOLDER, render
from orchestrator.preflight import access, addons, capacity, pod
from orchestrator.preflight.access import Permission
from orchestrator.preflight.check import Check, Level, error, errors, ok, warning
from orchestrator.preflight.facts import Facts, Unknown, jobset_schema, look
from orchestrator.preflight.names import dry_run
from orchestrator.spec import JobSpec
from trainer.config import TrainConfig
from trainer.errors import OrchError

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
    facts = look(cluster)
    first = [access.cluster(facts), access.namespace(facts)]
    if errors(first):
        return Report(first, groups(facts.nodes))
    pieces: list[tuple[str, Callable[[], Check]]] = [
        ("permissions", lambda: access.permissions(cluster, "Job", queue=addons.KUEUE in facts.groups)),
        ("pod", lambda: _try_pod(cluster, facts)),
        ("job", lambda: _try_job(cluster)),
        ("webhooks", lambda: _webhooks(cluster)),
        ("dns", lambda: _dns(cluster)),
        ("nodes", lambda: nodes(facts.nodes)),
        ("network-policy", lambda: addons.network_policy(facts)),
        ("jobset", lambda: _jobset(cluster, facts)),
        ("kueue", lambda: _kueue(cluster, facts)),
        ("quota", lambda: quotas(facts.quotas)),
        ("limits", lambda: limits(facts.limit_ranges)),
        ("priorities", lambda: _listed(cluster, "PriorityClass", "priorities", "scheduling.priority")),
        ("account", lambda: _account(cluster)),
        ("storage", lambda: _storage(cluster)),
        ("capacity", lambda: kinds_of_capacity(facts.nodes)),
    ]
    with ThreadPoolExecutor(8) as pool:
        checks = list(pool.map(lambda piece: _tried(*piece), pieces))
    return Report(first + checks, groups(facts.nodes))


def _tried(name: str, piece: Callable[[], Check]) -> Check:
    try:
        return piece()
    except OrchError as problem:
        return error(name, problem.message, problem.remedy)


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


def _try_job(cluster: Cluster) -> Check:
    """A job as it would be sent, past validation, admission webhooks and quotas."""
    spec, config = _sample()
    objects = render(spec, config, namespace=cluster.namespace, token=TOKEN_PLACEHOLDER)
    tried = dry_run(cluster, objects, [], spec.name)
    return Check("job", tried.level, tried.text, tried.remedy)


def _try_pod(cluster: Cluster, facts: Facts) -> Check:
    spec, config = _sample()
    job = render(spec, config, namespace=cluster.namespace, token=TOKEN_PLACEHOLDER)[-1]
    return pod.admitted(cluster, facts, pod.worker_pod(job["spec"]["template"], spec.name, cluster.namespace))


# --- add-ons


def _jobset(cluster: Cluster, facts: Facts) -> Check:
    served = facts.groups.get(addons.JOBSET, [])
    if not served:
        return warning(
            "jobset",
            "not installed: TPU slices of several hosts and kubernetes.kind: JobSet are not possible",
            "https://jobset.sigs.k8s.io/docs/installation, if they are wanted",
        )
    found = addons.addons(facts, jobset=True, queue=None, schema=jobset_schema(cluster))
    if found.level is not Level.OK:
        return warning("jobset", found.text, found.remedy)
    missing = access.refused(
        cluster, [Permission(verb, "JobSet", "", "submit") for verb in ("create", "patch", "delete")]
    )
    if missing:
        told = ", ".join(item.text for item in missing)
        return warning("jobset", f"installed, and you may not {told}", "ask for the role orch-submitter (k8s/setup)")
    return ok("jobset", f"{addons.JOBSET} {', '.join(served)}")


def _kueue(cluster: Cluster, facts: Facts) -> Check:
    served = facts.groups.get(addons.KUEUE, [])
    if not served:
        return warning(
            "kueue",
            "not installed: scheduling.queue is not possible",
            "https://kueue.sigs.k8s.io/docs/installation, if queues are wanted",
        )
    try:
        queues = cluster.select("LocalQueue")
    except Forbidden:
        return warning("kueue", f"{addons.KUEUE} {served[0]}; you may not look at the queues of the namespace")
    return queues_in_words(queues, served[0], cluster.namespace)


def queues_in_words(queues: list[Manifest], version: str, namespace: str) -> Check:
    """The queues of the namespace, and those that admit nothing."""
    if not queues:
        return warning(
            "kueue", f"{addons.KUEUE} {version}; namespace {namespace} has no LocalQueue", "k8s/setup shows one"
        )
    stuck = [
        f"{queue['metadata']['name']}: {active.get('message', active.get('reason', 'not active'))}"
        for queue in queues
        if (active := condition(queue, "Active")) and active["status"] != "True"
    ]
    if stuck:
        return warning("kueue", f"queues that admit nothing: {'; '.join(stuck)}", "see kubectl describe localqueue")
    names = ", ".join(sorted(queue["metadata"]["name"] for queue in queues))
    return ok("kueue", f"{addons.KUEUE} {version}; queues: {names}")


def _webhooks(cluster: Cluster) -> Check:
    """Whether every webhook that stands in the way of a job has somebody who answers."""
    try:
        configurations = [
            item
            for kind in ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")
            for item in cluster.select(kind)
        ]
        services = sorted({service for item in configurations for service in services_in_the_way(item)})
        silent = [service for service in services if not _answers(cluster, *service)]
    except Forbidden:
        return ok("webhooks", "you may not look at them; the line `job` tried those that concern a job")
    if silent:
        told = ", ".join(f"{namespace}/{name}" for namespace, name in silent)
        return error(
            "webhooks",
            f"no pod answers for {told}: what goes through its webhooks cannot be created",
            f"kubectl get pods -n {silent[0][0]}; whoever runs that add-on must look at it",
        )
    return ok("webhooks", f"{len(services)} services of admission webhooks concern jobs; all have somebody who answers")


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


def _dns(cluster: Cluster) -> Check:
    """Workers find worker 0 by its name."""
    try:
        slices = cluster.elsewhere(_SYSTEM).select("EndpointSlice")
    except Forbidden:
        return ok("dns", "you may not look at it; the workers' log says if names do not resolve")
    return dns_in_words(slices)


def dns_in_words(slices: list[Manifest]) -> Check:
    """Whether a DNS service that is known by its name has somebody who answers."""
    own = [item for item in slices if labels(item).get("kubernetes.io/service-name") in _DNS]
    if not own:
        return warning(
            "dns",
            f"no DNS service is known in {_SYSTEM}: where the nodes' kubelets name another one, nothing is wrong",
            "kubectl run --rm -it dns --image=busybox -- nslookup kubernetes.default",
        )
    name = own[0]["metadata"]["labels"]["kubernetes.io/service-name"]
    if not has_ready_endpoint(own):
        return error(
            "dns",
            f"nobody answers for Service {name}: workers find each other by name",
            f"kubectl get pods -n {_SYSTEM}",
        )
    return ok("dns", f"Service {name} has somebody who answers")


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
        cpu=capacity.shown(quantity(has.get("cpu", "0")), "cpu"),
        memory=capacity.shown(quantity(has.get("memory", "0")), "memory"),
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


def nodes(found: list[Manifest] | Unknown) -> Check:
    """How many nodes there are, and which are out."""
    if isinstance(found, Unknown):
        return warning("nodes", "you may not look at nodes", "the ClusterRole orch-reader (k8s/setup) allows it")
    if not found:
        return warning("nodes", "there are none: jobs wait until some are added")
    out = [node["metadata"]["name"] for node in found if not takes_pods(node)]
    text = f"{len(found)}, of which {len(found) - len(out)} take pods"
    if out:
        shown = ", ".join(out[:5]) + (f" and {len(out) - 5} more" if len(out) > 5 else "")
        return warning("nodes", f"{text}; not ready or cordoned: {shown}", "kubectl describe node; kubectl uncordon")
    return ok("nodes", text)


def kinds_of_capacity(found: list[Manifest] | Unknown) -> Check:
    """Which values of resources.capacity have nodes now. None need be there: GKE makes such nodes when they are asked for."""
    if isinstance(found, Unknown):
        return ok("capacity", "you may not look at nodes")
    there = dict.fromkeys(_CAPACITY.values(), 0)
    for node in found:
        for label, kind in _CAPACITY.items():
            there[kind] += label in labels(node)
    if not any(there.values()):
        return ok(
            "capacity",
            "no nodes for capacity: spot, flex-start or reservation now; such jobs wait until a node pool makes some",
        )
    return ok("capacity", "; ".join(f"{kind}: {count} nodes" for kind, count in there.items()))


# --- the namespace


def quotas(found: list[Manifest] | Unknown) -> Check:
    """What is left of the namespace's quotas."""
    if isinstance(found, Unknown):
        return warning("quota", "you may not look at the quotas of the namespace")
    if not found:
        return ok("quota", "none in the namespace")
    told = []
    for item in found:
        status = item.get("status", {})
        for resource, hard in (status.get("hard") or {}).items():
            used = quantity((status.get("used") or {}).get(resource, "0"))
            told.append(f"{resource} {capacity.shown(used, resource)} of {capacity.shown(quantity(hard), resource)}")
    return ok("quota", f"in use: {', '.join(told)}")


def limits(found: list[Manifest] | Unknown) -> Check:
    """What the namespace fills in or forbids."""
    if isinstance(found, Unknown):
        return warning("limits", "you may not look at the LimitRanges of the namespace")
    rules = [
        f"{rule['type']} {word} {', '.join(f'{name} {value}' for name, value in rule[word].items())}"
        for item in found
        for rule in item["spec"].get("limits") or []
        for word in ("min", "max", "default")
        if rule.get(word)
    ]
    return ok("limits", "; ".join(rules) if rules else "no LimitRange in the namespace")


def _listed(cluster: Cluster, kind: str, name: str, field: str) -> Check:
    try:
        found = cluster.select(kind)
    except Forbidden:
        return ok(name, f"you may not look at {KINDS[kind].plural}")
    own = sorted(item["metadata"]["name"] for item in found if not item["metadata"]["name"].startswith("system-"))
    return ok(name, f"{', '.join(own)} ({field})" if own else f"no {kind} of your own: {field} has nothing to name")


def _account(cluster: Cluster) -> Check:
    try:
        cluster.get("ServiceAccount", "default")
    except NotFound:
        return error(
            "account", "the namespace has no service account `default`: no pod can be created", "wait, or recreate it"
        )
    except Forbidden:
        return ok("account", "you may not look at service accounts")
    return ok("account", "the service account `default` is there; its token is not mounted into the workers")


def _storage(cluster: Cluster) -> Check:
    try:
        found = cluster.select("StorageClass")
    except Forbidden:
        return ok("storage", "you may not look at storage classes; only claims need them")
    mark = "storageclass.kubernetes.io/is-default-class"
    default = [item["metadata"]["name"] for item in found if annotations(item).get(mark) == "true"]
    if not default:
        return ok("storage", "no default StorageClass: claims must name one; a run directory in a bucket needs none")
    return ok("storage", f"default StorageClass {', '.join(default)}; a run directory on a claim needs ReadWriteMany")


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
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
