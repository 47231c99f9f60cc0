"""What a namespace grants and forbids all jobs in it: quotas, limits, priorities, the service account, storage."""

from orchestrator.kube.errors import Forbidden, NotFound
from orchestrator.kube.objects import Manifest, annotations, quantity
from orchestrator.preflight.check import Finding, error, ok, warning
from orchestrator.preflight.facts import Unknown
from orchestrator.preflight.subject import CLUSTER_CHECKS, Place
from orchestrator.text import amount_text


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
