"""All jobs of a namespace, a line each: what Kubernetes knows of them, and the step where it is cheap to ask."""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from orchestrator.diagnose.admission import stopped
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import Forbidden, NotFound
from orchestrator.kube.jobs import list_jobs
from orchestrator.kube.names import JOB_LABEL, OURS, QUEUE_LABEL, WORKLOAD_OF_LABEL
from orchestrator.kube.objects import (
    Manifest,
    condition,
    container_status,
    failure,
    labels,
    newest_pods,
    run_directory_of,
    workers_of,
)
from orchestrator.status.model import State
from orchestrator.status.observe import ask_coordinator
from orchestrator.text import duration
from trainer.wire.coordinator import JobState

_ASKED = 16
"""So many running jobs are asked for their step: each answer is one exec."""
_AT_ONCE = 8


@dataclass(frozen=True)
class ListedJob:
    """One job."""

    name: str
    namespace: str
    state: State
    ready: int
    """Workers whose agent is up."""
    workers: int
    created: str
    """RFC 3339."""
    queue: str
    run_directory: str
    step: int | None = None
    """Of those that run, where it was asked for."""
    total_steps: int | None = None


def jobs(cluster: Cluster, *, all_namespaces: bool = False, with_steps: bool = True) -> list[ListedJob]:
    """All jobs, the oldest first.

    Raises:
        Forbidden: the user may not look. ClusterError: the cluster does not answer.
    """
    found = list_jobs(cluster, all_namespaces=all_namespaces)
    pods: dict[tuple[str, str], list[Manifest]] = {}
    for pod in cluster.select("Pod", labels=OURS, all_namespaces=all_namespaces):
        metadata = pod["metadata"]
        key = (metadata["namespace"], metadata["labels"][JOB_LABEL])
        pods.setdefault(key, []).append(pod)
    workloads = _workloads(cluster, found, all_namespaces)
    rows = sorted(
        (listed(job, pods.get(_key(job), []), workloads.get(job["metadata"]["uid"])) for job in found),
        key=lambda item: item.created,
    )
    if not with_steps:
        return rows
    running = [item for item in rows if item.state == "running"][-_ASKED:]

    def ask(item: ListedJob) -> JobState | None:
        chief = newest_pods(pods[item.namespace, item.name]).get(0)
        return ask_coordinator(cluster.elsewhere(item.namespace), chief)[0]

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = dict(zip([(item.namespace, item.name) for item in running], pool.map(ask, running), strict=True))
    return [with_live(item, answers.get((item.namespace, item.name))) for item in rows]


def _workloads(cluster: Cluster, jobs: Sequence[Manifest], all_namespaces: bool) -> dict[str, Manifest]:
    """UID of a job -> what Kueue made of it, where there are jobs that may wait for it."""
    if not any(job["spec"].get("suspend") and QUEUE_LABEL in labels(job) for job in jobs):
        return {}
    with contextlib.suppress(NotFound, Forbidden):
        found = cluster.select("Workload", labels=WORKLOAD_OF_LABEL, all_namespaces=all_namespaces)
        return {item["metadata"]["labels"][WORKLOAD_OF_LABEL]: item for item in found}
    return {}


def listed(job: Manifest, pods: Sequence[Manifest], workload: Manifest | None = None) -> ListedJob:
    """A job as Kubernetes, and Kueue by its Workload, know it."""
    metadata, spec = job["metadata"], job["spec"]
    queue = labels(job).get(QUEUE_LABEL, "")
    workers = workers_of(job)
    ready = sum(bool(container_status(pod).get("ready")) for pod in newest_pods(list(pods)).values())
    state: State = "running" if ready >= workers else "waiting"
    if condition(job, "Complete", "True"):
        state = "succeeded"
    elif failure(job):
        state = "failed"
    elif spec.get("suspend"):
        state = "stopped" if stopped(job, workload) else "waiting"
    return ListedJob(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        state=state,
        ready=ready,
        workers=workers,
        created=metadata.get("creationTimestamp", ""),
        queue=queue,
        run_directory=run_directory_of(job),
    )


def with_live(item: ListedJob, live: JobState | None) -> ListedJob:
    """The same with what the coordinator said."""
    if live is None:
        return item
    return replace(item, state=live.state, step=live.step, total_steps=live.total_steps)


def table(rows: Sequence[ListedJob], now: datetime, *, all_namespaces: bool) -> list[tuple[str, ...]]:
    """Titles, and a row of cells for each job."""
    titles = ("name", "state", "ready", "step", "age", "queue", "run directory")
    cells: list[tuple[str, ...]] = [titles if not all_namespaces else ("namespace", *titles)]
    for item in rows:
        step = "" if item.step is None else f"{item.step}" + (f"/{item.total_steps}" if item.total_steps else "")
        line = (
            item.name, item.state, f"{item.ready}/{item.workers}", step, _age(item.created, now), item.queue,
            item.run_directory,
        )  # fmt: skip
        cells.append(line if not all_namespaces else (item.namespace, *line))
    return cells


def _key(job: Manifest) -> tuple[str, str]:
    return job["metadata"].get("namespace", ""), job["metadata"]["name"]


def _age(created: str, now: datetime) -> str:
    try:
        began = datetime.fromisoformat(created)
    except ValueError:
        return ""
    return duration(max((now - began.astimezone(UTC)).total_seconds(), 0.0))
