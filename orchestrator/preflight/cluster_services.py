"""What of a cluster must answer, or may be installed: JobSet, Kueue, the admission webhooks in a job's way, the DNS."""

from collections.abc import Sequence

from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import Forbidden
from orchestrator.kube.objects import Manifest, answers, condition, labels
from orchestrator.preflight import access, addons
from orchestrator.preflight.access import Permission
from orchestrator.preflight.check import Finding, Level, error, ok, warning
from orchestrator.preflight.facts import jobset_schema
from orchestrator.preflight.subject import CLUSTER_CHECKS, Place

_SYSTEM = "kube-system"
_DNS = ("kube-dns", "coredns", "rke2-coredns-rke2-coredns", "dns-default")
"""What clusters call the Service of their DNS."""
_OUR_RESOURCES = {"jobs", "jobsets", "pods", "services", "configmaps", "secrets", "networkpolicies"}


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
