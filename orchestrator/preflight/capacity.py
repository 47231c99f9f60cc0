"""Would the workers fit: ResourceQuotas, LimitRanges and nodes, by what they allow in all. Pure.

How much of a node is free at the moment is not asked for: other pods come and go, and the scheduler tells it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from orchestrator.kube.kinds import KINDS
from orchestrator.kube.objects import Manifest, allocatable, labels, quantity
from orchestrator.preflight.check import Finding, error, ok, warning
from orchestrator.preflight.facts import Unknown
from orchestrator.preflight.pod import worker_of
from orchestrator.preflight.subject import JOB_CHECKS, Candidate
from orchestrator.text import amount_text

Amounts = dict[str, Decimal]


@dataclass(frozen=True)
class Demand:
    """What a job asks of a namespace and of nodes."""

    workers: int
    pod: Manifest
    """One worker's pod, of which `spec` is read."""
    objects: Mapping[str, int]
    """Resource as quotas count it (jobs.batch, services) -> how many the job has."""


def demand_of(on: Candidate) -> Demand:
    """What the job that is checked asks for."""
    counted = Counter(KINDS[item["kind"]].resource for item in on.job.objects)
    return Demand(on.job.config.workers, worker_of(on), counted)


def requests(pod: Manifest) -> Amounts:
    """What the scheduler reserves for a pod: its containers together, or its largest init container; and overhead."""
    return _pod_sum(pod, lambda container: _requests_of(container))


def limits(pod: Manifest) -> Amounts:
    """The same of limits. A resource without a limit in some container is left out of that container."""
    return _pod_sum(pod, lambda container: _amounts(container.get("resources", {}).get("limits")))


# --- quotas


def quota(quotas: list[Manifest] | Unknown, demand: Demand) -> Finding:
    """Whether the namespace's quotas have room for all workers: for ever too small is an error, used by others a warning."""
    if isinstance(quotas, Unknown):
        return warning("not known: you may not look at the quotas of the namespace")
    matching = [item for item in quotas if _in_scope(item.get("spec", {}), demand.pod)]
    if not matching:
        return ok("no quota limits this job")
    asked = _as_quotas_count(demand)
    never, not_now = [], []
    for item in matching:
        status = item.get("status", {})
        hard, used = _amounts(status.get("hard") or item["spec"].get("hard")), _amounts(status.get("used"))
        for resource, allowed in hard.items():
            needed = asked.get(resource)
            if needed is None:
                continue
            what = (
                f"{resource}: the job needs {amount_text(needed, resource)}, quota {item['metadata']['name']} allows "
            )
            if needed > allowed:
                never.append(f"{what}{amount_text(allowed, resource)}")
            elif needed > allowed - used.get(resource, Decimal(0)):
                taken = amount_text(used.get(resource, Decimal(0)), resource)
                not_now.append(f"{what}{amount_text(allowed, resource)}, of which {taken} are in use")
    if never:
        return error(
            "; ".join(never),
            "ask for less (resources.workers, cpu, memory), or have the quota raised: pods beyond it are never created",
        )
    if not_now:
        return warning(
            "; ".join(not_now),
            "workers beyond the quota are created when others end, and training begins with the last",
        )
    return ok(f"{_names(matching)}: room for {_workers(demand.workers)}")


@JOB_CHECKS.check(
    "quota",
    90,
    before_image=True,
    what="all workers within each ResourceQuota, scopes included",
    error_when="more than it allows in all; in use by others is a warning",
)
def _quota(on: Candidate) -> Finding:
    return quota(on.facts.quotas, demand_of(on))


def _as_quotas_count(demand: Demand) -> Amounts:
    total: Amounts = {"pods": Decimal(demand.workers), "count/pods": Decimal(demand.workers)}
    for resource, amount in requests(demand.pod).items():
        total[f"requests.{resource}"] = amount * demand.workers
        if resource in ("cpu", "memory", "ephemeral-storage"):
            total[resource] = amount * demand.workers
    for resource, amount in limits(demand.pod).items():
        total[f"limits.{resource}"] = amount * demand.workers
    for resource, count in demand.objects.items():
        total[f"count/{resource}"] = Decimal(count)
        if "." not in resource:
            total[resource] = Decimal(count)
    return total


def _in_scope(spec: Manifest, pod: Manifest) -> bool:
    """Whether a quota counts such pods. Of a quota with scopes nothing but pods is counted."""
    rules = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes") or []]
    rules += (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    return all(_matches_scope(rule, pod["spec"]) for rule in rules)


def _matches_scope(rule: Manifest, pod: Manifest) -> bool:
    scope, operator = rule["scopeName"], rule.get("operator", "Exists")
    if scope == "PriorityClass":
        priority = pod.get("priorityClassName", "")
        values = rule.get("values") or []
        return {
            "In": priority in values,
            "NotIn": priority not in values,
            "Exists": bool(priority),
            "DoesNotExist": not priority,
        }.get(operator, True)
    # Our pods always request something, and have no deadline of their own (the Job may have).
    return {"BestEffort": False, "Terminating": "activeDeadlineSeconds" in pod}.get(
        scope, {"NotTerminating": "activeDeadlineSeconds" not in pod}.get(scope, True)
    )


# --- limit ranges


def limit_range(limit_ranges: list[Manifest] | Unknown, demand: Demand) -> Finding:
    """Whether one worker is within what the namespace allows a container or a pod."""
    if isinstance(limit_ranges, Unknown):
        return warning("not known: you may not look at the LimitRanges of the namespace")
    if not limit_ranges:
        return ok("no LimitRange in the namespace")
    pod = with_defaults(demand.pod, limit_ranges)
    problems = []
    for item in limit_ranges:
        for rule in item["spec"].get("limits") or []:
            if rule["type"] == "Container":
                for container in pod["spec"]["containers"]:
                    problems += _outside(rule, _requests_of(container), _amounts(container["resources"].get("limits")))
            elif rule["type"] == "Pod":
                problems += _outside(rule, requests(pod), limits(pod))
    if problems:
        return error(
            f"LimitRange {_names(limit_ranges)}: {'; '.join(dict.fromkeys(problems))}",
            "change resources.cpu, memory or ephemeral_storage, or have the LimitRange changed",
        )
    return ok(f"LimitRange {_names(limit_ranges)}: a worker is within it")


@JOB_CHECKS.check("limits", 100, what="a worker within each LimitRange, with what it fills in", error_when="outside")
def _limits(on: Candidate) -> Finding:
    return limit_range(on.facts.limit_ranges, demand_of(on))


def with_defaults(pod: Manifest, limit_ranges: Iterable[Manifest]) -> Manifest:
    """The pod with what LimitRanges fill in where a container names nothing."""
    spec = pod["spec"]
    containers = []
    for container in spec["containers"]:
        resources = container.get("resources") or {}
        given = {"limits": dict(resources.get("limits") or {}), "requests": dict(resources.get("requests") or {})}
        # As the API server does first of all: a limit without a request is the request, too.
        given["requests"] = given["limits"] | given["requests"]
        for item in limit_ranges:
            for rule in item["spec"].get("limits") or []:
                if rule["type"] == "Container":
                    given["limits"] = dict(rule.get("default") or {}) | given["limits"]
                    given["requests"] = dict(rule.get("defaultRequest") or {}) | given["requests"]
        containers.append(container | {"resources": given})
    return pod | {"spec": spec | {"containers": containers}}


def _outside(rule: Manifest, asked: Amounts, allowed: Amounts) -> list[str]:
    per = f"a {rule['type'].lower()}"
    problems = []
    for resource, least in _amounts(rule.get("min")).items():
        if resource in asked and asked[resource] < least:
            at_least, not_so_much = amount_text(least, resource), amount_text(asked[resource], resource)
            problems.append(f"{per} asks for at least {at_least} of {resource}, not {not_so_much}")
    for resource, most in _amounts(rule.get("max")).items():
        if resource not in allowed:
            problems.append(f"{per} must have a limit of {resource}, at most {amount_text(most, resource)}")
        elif allowed[resource] > most:
            problems.append(
                f"{per} has at most {amount_text(most, resource)} of {resource}, not {amount_text(allowed[resource], resource)}"
            )
    for resource, ratio in _amounts(rule.get("maxLimitRequestRatio")).items():
        if resource in asked and resource in allowed and allowed[resource] > asked[resource] * ratio:
            problems.append(f"the limit of {resource} is more than {ratio} times its request")
    return problems


# --- nodes


def nodes(found: list[Manifest] | Unknown, demand: Demand) -> Finding:
    """Whether there are nodes for all workers, by their labels, taints and size. Never an error: nodes may be added,
    by a person or by an autoscaler, while the job waits."""
    if isinstance(found, Unknown):
        return warning(
            "not known: you may not look at nodes",
            "an administrator can allow it: ClusterRole orch-reader (k8s/setup)",
        )
    spec = demand.pod["spec"]
    selector: dict[str, str] = spec.get("nodeSelector") or {}
    labelled = [node for node in found if selector.items() <= labels(node).items()]
    remedy = "the job waits until there is one: right where a node pool grows for it, else see `kubectl get nodes --show-labels`"
    if not labelled:
        wanted_labels = ", ".join(f"{key}={value}" for key, value in selector.items())
        missing = [
            f"{key}={value}"
            for key, value in selector.items()
            if not any(labels(node).get(key) == value for node in found)
        ]
        text = f"none of {len(found)} nodes has the labels {wanted_labels}"
        text += f" (no node at all has {', '.join(missing)})" if missing and len(selector) > 1 else ""
        return warning(text if selector else "the cluster has no nodes", remedy)
    open_to_it = [node for node in labelled if not untolerated(node, spec.get("tolerations") or [])]
    if not open_to_it:
        why = ", ".join(dict.fromkeys(untolerated(node, spec.get("tolerations") or []) for node in labelled))
        return warning(
            f"no node of {len(labelled)} takes the workers now: {why}",
            "tolerate the taint (scheduling.tolerations) where it is a lasting one, or see `kubectl get nodes`",
        )
    asked = requests(demand.pod)
    room = [_room(node, asked) for node in open_to_it]
    if sum(room) >= demand.workers:
        return ok(f"{len(open_to_it)} of {len(found)} nodes can take workers, {sum(room)} of them in all when empty")
    if not any(room):
        largest = "; ".join(
            f"{resource}: a worker asks for {amount_text(amount, resource)}, the largest node has {amount_text(most, resource)}"
            for resource, amount in asked.items()
            if amount > (most := max(_allocatable(node).get(resource, Decimal(0)) for node in open_to_it))
        )
        return warning(largest or "no node has all that a worker asks for", remedy)
    return warning(
        f"room for {sum(room)} of {demand.workers} workers on {len(open_to_it)} nodes, when they are empty",
        remedy,
    )


@JOB_CHECKS.check(
    "nodes",
    110,
    what="labels, taints and size, for all workers on empty nodes",
    error_when="never: nodes may be added while a job waits",
)
def _nodes(on: Candidate) -> Finding:
    return nodes(on.facts.nodes, demand_of(on))


def untolerated(node: Manifest, tolerations: list[Manifest]) -> str:
    """Why a node takes no pod with these tolerations; empty where it does."""
    taints = (node.get("spec") or {}).get("taints") or []
    for taint in taints:
        if taint.get("effect") == "PreferNoSchedule" or any(_tolerates(item, taint) for item in tolerations):
            continue
        if taint["key"] == "node.kubernetes.io/unschedulable":
            return "cordoned"
        if taint["key"] in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
            return "not ready"
        value = f"={taint['value']}" if taint.get("value") else ""
        return f"taint {taint['key']}{value}:{taint.get('effect', '')}"
    return ""


def _tolerates(toleration: Manifest, taint: Manifest) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    return toleration.get("operator") == "Exists" or (toleration.get("value") or "") == (taint.get("value") or "")


def _room(node: Manifest, asked: Amounts) -> int:
    """How many such pods an empty node has room for."""
    has = _allocatable(node)
    most = int(has.get("pods", Decimal(110)))
    return min([most, *(int(has.get(resource, Decimal(0)) // amount) for resource, amount in asked.items() if amount)])


def _allocatable(node: Manifest) -> Amounts:
    return _amounts(allocatable(node))


# --- amounts


def _amounts(values: Mapping[str, Any] | None) -> Amounts:
    return {resource: quantity(value) for resource, value in (values or {}).items()}


def _requests_of(container: Manifest) -> Amounts:
    resources = container.get("resources") or {}
    return _amounts(resources.get("limits")) | _amounts(resources.get("requests"))


def _pod_sum(pod: Manifest, of: Callable[[Manifest], Amounts]) -> Amounts:
    spec = pod["spec"]
    total: Amounts = {}
    inits = spec.get("initContainers") or []
    beside = [container for container in inits if container.get("restartPolicy") == "Always"]
    for container in [*spec["containers"], *beside]:
        for resource, amount in of(container).items():
            total[resource] = total.get(resource, Decimal(0)) + amount
    for container in inits:
        for resource, amount in of(container).items():
            total[resource] = max(total.get(resource, Decimal(0)), amount)
    for resource, amount in _amounts(spec.get("overhead")).items():
        total[resource] = total.get(resource, Decimal(0)) + amount
    return total


def _names(items: list[Manifest]) -> str:
    return ", ".join(item["metadata"]["name"] for item in items)


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"
