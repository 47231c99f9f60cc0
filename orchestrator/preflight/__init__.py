"""What must hold before a submit, asked of the cluster, the registry and the bucket: a list of checks, one line each.

Nothing is changed but a probe in the bucket. Errors stop a submit, warnings are said. What the cluster says of itself is
read in facts.py; the other modules hold one matter each.
"""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from orchestrator.kube import Cluster
from orchestrator.kube_objects import Manifest
from orchestrator.preflight import access, addons, capacity, exposure, names, pod, storage
from orchestrator.preflight import image as images
from orchestrator.preflight.check import Check, Level, error, errors, lines
from orchestrator.preflight.facts import Facts, jobset_schema, look
from orchestrator.spec import JobSpec
from trainer.config import TrainConfig
from trainer.errors import OrchError

__all__ = ["Check", "Level", "Subject", "errors", "lines", "preflight", "said"]


@dataclass(frozen=True)
class Subject:
    """The job that is checked."""

    spec: JobSpec
    config: TrainConfig
    objects: list[Manifest]
    """As they would be created; the Job or JobSet is the last."""
    replace: bool
    """Whether a job of the same name that orch made is to be replaced."""
    version: str
    """Of this orch."""

    @property
    def carrier(self) -> Manifest:
        return self.objects[-1]

    @property
    def template(self) -> Manifest:
        """Of the workers' pods."""
        spec = self.carrier["spec"]
        if self.carrier["kind"] == "JobSet":
            spec = spec["replicatedJobs"][0]["template"]["spec"]
        template: Manifest = spec["template"]
        return template


def preflight(cluster: Cluster, subject: Subject, *, skip: Collection[str] = ()) -> list[Check]:
    """All checks but those to skip, in order; most of them are asked at the same time.

    What does not let itself be looked at is a line of its own, and an error where nothing else can be: all is collected, so
    that one run shows it all.

    Raises:
        ClusterUnreachable: the API server does not answer. Forbidden: it does not know the user.
    """
    facts = look(cluster)
    first = [access.cluster(facts), access.namespace(facts)]
    if errors(first):
        return first
    pieces = _pieces(cluster, subject, facts)
    wanted = [(name, piece) for name, piece in pieces.items() if name not in skip and "all" not in skip]
    with ThreadPoolExecutor(8) as pool:
        return first + list(pool.map(lambda item: _tried(*item), wanted))


def _tried(name: str, piece: Callable[[], Check]) -> Check:
    try:
        return piece()
    except OrchError as problem:
        return error(name, problem.message, problem.remedy)


def _pieces(cluster: Cluster, subject: Subject, facts: Facts) -> dict[str, Callable[[], Check]]:
    from orchestrator.registry import describe

    spec, config, objects = subject.spec, subject.config, subject.objects
    kind = subject.carrier["kind"]
    jobset, queue = kind == "JobSet", spec.scheduling.queue
    worker = pod.worker_pod(subject.template, spec.name, cluster.namespace)
    wanted = capacity.Wanted(config.workers, worker, _counted(objects))
    selector = worker["spec"].get("nodeSelector") or {}
    found = _once(lambda: names.taken(cluster, objects))
    run = _once(lambda: storage.read_run(config))
    return {
        "permissions": lambda: access.permissions(cluster, kind, queue=queue is not None),
        "name": lambda: names.name_free(found(), spec.name, cluster.namespace, replace=subject.replace),
        "run-directory": lambda: names.run_directory_free(cluster, spec.name, config),
        "references": lambda: names.references(cluster, spec, config),
        "add-ons": lambda: addons.addons(
            facts, jobset=jobset, queue=queue, schema=jobset_schema(cluster) if jobset else None
        ),
        "secrets": lambda: exposure.secrets_by_reference(spec),
        "quota": lambda: capacity.quota(facts.quotas, wanted),
        "limits": lambda: capacity.limit_range(facts.limit_ranges, wanted),
        "nodes": lambda: capacity.nodes(facts.nodes, wanted),
        "network-policy": lambda: addons.network_policy(facts),
        "image": lambda: images.image(spec, facts.nodes, selector, subject.version, describe=describe),
        "bucket": lambda: storage.bucket(config),
        "checkpoints": lambda: storage.checkpoints(config, run()),
        "memory": lambda: storage.memory(config, run()),
        "grace": lambda: storage.grace(spec, config, run()),
        "pod": lambda: pod.admitted(cluster, facts, worker),
        "dry-run": lambda: names.dry_run(cluster, objects, found(), spec.name),
    }


def _counted(objects: list[Manifest]) -> dict[str, int]:
    """Resource -> how many of it a submit creates, as quotas count them."""
    from orchestrator.kube import KINDS

    counted: dict[str, int] = {}
    for item in objects:
        resource = KINDS[item["kind"]].resource
        counted[resource] = counted.get(resource, 0) + 1
    return counted


def _once(read: Callable[[], Any]) -> Callable[[], Any]:
    """The same, asked once whoever asks first."""
    from threading import Lock

    lock = Lock()
    answers: list[Any] = []

    def ask() -> Any:
        with lock:
            if not answers:
                answers.append(read())
            return answers[0]

    return ask


def said(checks: Collection[Check]) -> Iterator[str]:
    """What a submit says of its checks: the warnings, and how many lines were in order."""
    for check in checks:
        if check.level is Level.WARNING:
            yield f"warning: {check.name}: {check.text}" + (f" -> {check.remedy}" if check.remedy else "")
    good = sum(check.level is Level.OK for check in checks)
    yield f"checked: {good} of {len(checks)} checks are ok"
