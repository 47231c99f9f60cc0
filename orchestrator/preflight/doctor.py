"""A cluster looked over once for all jobs: what orch needs of it, what is there, and what is missing for which kind of job.

Here are the report, and what is tried with a job; cluster_services.py, cluster_nodes.py and cluster_namespace.py look at the
rest. What no job needs is never an error.
"""

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.jobfile.spec import JobSpec
from orchestrator.kube.client import Cluster
from orchestrator.manifests.render import TOKEN_PLACEHOLDER, render
from orchestrator.preflight import take
from orchestrator.preflight.check import Check, Finding, errors
from orchestrator.preflight.cluster_nodes import NodeGroup, groups
from orchestrator.preflight.facts import look
from orchestrator.preflight.names import dry_run
from orchestrator.preflight.pod import admitted, worker_pod
from orchestrator.preflight.subject import CLUSTER_CHECKS, Place
from trainer.config import TrainConfig


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
