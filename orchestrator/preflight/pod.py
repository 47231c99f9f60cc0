"""One worker's pod before the API server: Pod Security, LimitRange, webhooks and classes, by a dry run of the pod itself.

The Job controller creates the pods later, and what refuses them then shows in status only; so it is asked now.
"""

from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import AlreadyExists, ClusterError, ClusterUnreachable, Forbidden, Rejected
from orchestrator.kube.names import COMPLETION_INDEX, JOB_UID_LABEL
from orchestrator.kube.objects import Manifest, annotations, labels
from orchestrator.preflight.check import Finding, error, ok, warning
from orchestrator.preflight.facts import Facts, Unknown
from orchestrator.preflight.subject import JOB_CHECKS, Candidate

_LEVEL = "pod-security.kubernetes.io/enforce"
_TOLD_BY_OTHERS = ("exceeded quota", "usage per ", "limit to request ratio per ")
"""What the lines `quota` and `limits` say, with figures."""


def worker_pod(template: Manifest, job: str, namespace: str) -> Manifest:
    """Worker 0's pod, as the Job controller would create it."""
    metadata = template["metadata"] | {"name": f"{job}-0-check", "namespace": namespace}
    metadata |= {
        "annotations": annotations(template) | {COMPLETION_INDEX: "0"},
        "labels": labels(template) | {JOB_UID_LABEL: "check"},
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    return pod | {"spec": template["spec"]}


def worker_of(on: Candidate) -> Manifest:
    """Worker 0's pod of the job that is checked."""
    return worker_pod(on.job.template, on.job.spec.name, on.cluster.namespace)


def admitted(cluster: Cluster, facts: Facts, pod: Manifest) -> Finding:
    """Whether the namespace would take such a pod."""
    level = security_level(facts)
    try:
        cluster.create(pod, dry_run=True)
    except AlreadyExists:
        pass  # admission came first, and let it pass
    except Forbidden as refusal:
        if "is forbidden: violates PodSecurity" not in refusal.message:
            if "User " in refusal.message or "cannot create resource" in refusal.message:
                return warning(
                    "not tried: you may not create pods, so not even a dry run of one",
                    "the role orch-submitter (k8s/setup) allows it: who may create Jobs runs pods already",
                )
            if any(told in refusal.message for told in _TOLD_BY_OTHERS):
                return _without_resources(cluster, facts, pod)
            return error(_reason(refusal), "see who refuses it, or ask an administrator of the namespace")
        return error(
            _reason(refusal),
            f"take out of kubernetes.pod or volumes what {level} forbids, or use a namespace with another level",
        )
    except ClusterUnreachable:
        raise
    except Rejected as refusal:
        if any(told in refusal.message for told in _TOLD_BY_OTHERS):
            return _without_resources(cluster, facts, pod)
        return error(_reason(refusal))
    except ClusterError as refusal:
        return error(_reason(refusal))
    return ok(f"a worker's pod is admitted; {level}")


@JOB_CHECKS.check(
    "pod", 180, what="one worker's pod by server-side dry run: Pod Security, webhooks, classes", error_when="refused"
)
def _pod(on: Candidate) -> Finding:
    return admitted(on.cluster, on.facts, worker_of(on))


def _without_resources(cluster: Cluster, facts: Facts, pod: Manifest) -> Finding:
    """What else would refuse a pod whose resources do: they are looked at first."""
    containers = pod["spec"]["containers"]
    if not any(container.get("resources") for container in containers):
        return ok(f"{security_level(facts)}; its resources are another line's matter")
    bare = [container | {"resources": {}} for container in containers]
    return admitted(cluster, facts, pod | {"spec": pod["spec"] | {"containers": bare}})


def security_level(facts: Facts) -> str:
    """The Pod Security level of the namespace, in words."""
    if facts.namespace_object is None or isinstance(facts.namespace_object, Unknown):
        return "Pod Security: level not known"
    level = labels(facts.namespace_object).get(_LEVEL)
    return f"Pod Security: {level}" if level else "Pod Security: no level is enforced"


def _reason(refusal: ClusterError) -> str:
    return refusal.message.partition(" is forbidden: ")[2] or refusal.message
