"""What is installed in a cluster beside Kubernetes: JobSet, Kueue, and something that enforces NetworkPolicies. Pure."""

import json

from orchestrator.kube.objects import Manifest
from orchestrator.preflight.check import Finding, error, ok, warning
from orchestrator.preflight.facts import Facts, Unknown, jobset_schema
from orchestrator.preflight.subject import CLUSTER_CHECKS, JOB_CHECKS, Candidate, Place

JOBSET = "jobset.x-k8s.io"
JOBSET_VERSION = "v1alpha2"
JOBSET_OLDEST = "0.10.1"
"""The oldest JobSet that knows the field below, however it is installed: the Helm chart of 0.10.0 lacks it."""
_NEWEST_FIELD = "onJobFailureMessagePatterns"
"""Of k8s/jobset.yaml, the field that came last."""
KUEUE = "kueue.x-k8s.io"

_ENGINE = "an engine that enforces NetworkPolicies, by its DaemonSet or its API"
_NO_ENGINE = "never: a warning where none is known"
# The DaemonSet by which each engine runs, by its name in the engine's own manifests.
_ENGINES = {
    "anetd": "GKE Dataplane V2",
    "cilium": "Cilium",
    "calico-node": "Calico",
    "canal": "Canal",
    "kube-router": "kube-router",
    "weave-net": "Weave Net",
    "antrea-agent": "Antrea",
    "ovnkube-node": "OVN-Kubernetes",
    "ovn-kubernetes-node": "OVN-Kubernetes",
    "azure-npm": "Azure NPM",
    "kube-network-policies": "kube-network-policies",
}
# Where DaemonSets may not be listed: the API groups that engines add, which every user may see.
_ENGINES_BY_GROUP = {
    "cilium.io": "Cilium",
    "crd.projectcalico.org": "Calico",
    "projectcalico.org": "Calico",
    "operator.tigera.io": "Calico",
    "crd.antrea.io": "Antrea",
    "k8s.ovn.org": "OVN-Kubernetes",
}


def addons(facts: Facts, *, jobset: bool, queue: str | None, schema: Manifest | None = None) -> Finding:
    """Whether the add-ons that a job uses are there, in a version that orch speaks. `schema`: of JobSets, where it is known."""
    served = facts.groups.get(JOBSET, [])
    if jobset and not served:
        return error(
            "JobSet is not installed in this cluster, and the job needs it",
            "an administrator installs it: https://jobset.sigs.k8s.io/docs/installation; "
            "the plain form (kubernetes.kind: Job) needs nothing, but is for one host a slice",
        )
    if jobset and JOBSET_VERSION not in served:
        return error(f"JobSet is served as {', '.join(served)}; orch speaks {JOBSET_VERSION}", "install another JobSet")
    if jobset and schema is not None and _NEWEST_FIELD not in json.dumps(schema):
        return error(
            f"JobSet is too old: orch needs {JOBSET_OLDEST} or newer",
            "an administrator upgrades it: https://jobset.sigs.k8s.io/docs/installation",
        )
    if queue and KUEUE not in facts.groups:
        return error(
            "scheduling.queue: Kueue is not installed in this cluster",
            "leave scheduling.queue out, or have it installed: https://kueue.sigs.k8s.io/docs/installation",
        )
    used = [f"JobSet {JOBSET_VERSION}"] if jobset else []
    used += [f"Kueue {facts.groups[KUEUE][0]}"] if queue else []
    return ok(f"{' and '.join(used)}: there" if used else "none needed")


@JOB_CHECKS.check(
    "add-ons",
    70,
    what="JobSet, Kueue, where the job uses them",
    error_when="not installed, another version, a JobSet that is too old",
)
def _addons(on: Candidate) -> Finding:
    jobset = on.job.carrier["kind"] == "JobSet"
    schema = jobset_schema(on.cluster) if jobset else None
    return addons(on.facts, jobset=jobset, queue=on.job.spec.scheduling.queue, schema=schema)


def network_policy(facts: Facts) -> Finding:
    """Whether something in the cluster enforces NetworkPolicies; Kubernetes itself only stores them."""
    engine = policy_engine(facts)
    if engine:
        return ok(f"enforced by {engine}")
    looked = "nothing that is known to enforce them was found"
    if isinstance(facts.daemon_sets, Unknown):
        looked += " (you may not list DaemonSets: the ClusterRole orch-reader allows it)"
    return warning(
        f"{looked}: where nothing does, any pod of the cluster reaches the workers' ports",
        "install an engine such as Calico or Cilium (GKE: Dataplane V2); the agents' HTTP asks for a token all the same, "
        "TensorFlow's own ports do not",
    )


@JOB_CHECKS.check(
    "network-policy",
    120,
    what=_ENGINE,
    error_when=_NO_ENGINE,
)
@CLUSTER_CHECKS.check(
    "network-policy",
    90,
    what=_ENGINE,
    error_when=_NO_ENGINE,
)
def _network_policy(place: Place) -> Finding:
    return network_policy(place.facts)


def policy_engine(facts: Facts) -> str:
    """The engine that enforces NetworkPolicies, as far as can be seen; empty: none is known."""
    daemon_sets = [] if isinstance(facts.daemon_sets, Unknown) else facts.daemon_sets
    for item in daemon_sets:
        engine = _ENGINES.get(item["metadata"]["name"]) or _by_arguments(item)
        if engine:
            return engine
    if isinstance(facts.daemon_sets, Unknown):
        for group, engine in _ENGINES_BY_GROUP.items():
            if group in facts.groups:
                return f"{engine} (by its API {group})"
    nodes = [] if isinstance(facts.nodes, Unknown) else facts.nodes
    for node in nodes:
        # k3s has kube-router's controller built in.
        if "+k3s" in ((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion", ""):
            return "k3s"
    return ""


def _by_arguments(daemon_set: Manifest) -> str:
    """Engines that are part of something else, and can be switched off there."""
    containers = daemon_set["spec"]["template"]["spec"]["containers"]
    if daemon_set["metadata"]["name"] == "aws-node":
        arguments = [argument for container in containers for argument in container.get("args") or []]
        return "Amazon VPC CNI" if "--enable-network-policy=true" in arguments else ""
    return ""
