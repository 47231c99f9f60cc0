"""Gathers what judge.py judges: the Job, its pods and their events, the coordinator's state, the run directory's records."""

import logging
import threading
import time
from dataclasses import replace

from orchestrator.kube.carrier import event_sources
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ClusterError, Forbidden
from orchestrator.kube.jobs import find_job
from orchestrator.kube.names import CONTAINER, selector_of
from orchestrator.kube.objects import Manifest, has_pods, newest_pods, run_directory_of, running
from orchestrator.kube.silent_node import doubtful
from orchestrator.runs.goodput import STATUS_SEGMENTS
from orchestrator.runs.past import Past, past_of
from orchestrator.runs.view import STORE_S, RunView, view_of
from orchestrator.status import surroundings
from orchestrator.status.judge import judge
from orchestrator.status.model import JobStatus
from orchestrator.status.observation import Observation
from orchestrator.text import first_line
from trainer.errors import OrchError
from trainer.rundir.bucket import is_bucket
from trainer.rundir.metrics import TooMany, read_signs
from trainer.rundir.open import open_store
from trainer.wire.coordinator import JobState

log = logging.getLogger(__name__)

_TROUBLED = 5
"""Events are asked for of so many pods that do not run: the troubles of a thousand pods are few and alike."""
_GROUPS = 5
"""The same for the Jobs of a JobSet."""
_PAST_S = 5.0
"""So long, and no longer, a status waits for the goodput and what went on before: it is not what a person asked for first."""


def status_of(cluster: Cluster, name: str, *, with_past: bool = False) -> JobStatus:
    """The status of a job of the cluster.

    Raises:
        NotFound: no such job. ClusterError: the cluster does not answer, or forbids it.
    """
    return judge(observe(cluster, name, with_past=with_past))


def observe(cluster: Cluster, name: str, *, with_past: bool = False) -> Observation:
    """All that can be seen of a job now. Only the Job and its pods must be there; the rest may be missing.

    With `with_past` the run directory's metrics are read too, where it is a gs:// one that answers soon.

    Raises:
        NotFound: no such job. ClusterError: the cluster does not answer, or forbids it.
    """
    job = find_job(cluster, name)
    pods = cluster.select("Pod", labels=selector_of(name))
    reader = _PastReader(job) if with_past else None
    events = _events(cluster, job, list(newest_pods(pods).values()))
    return look_around(cluster, job, pods, events, reader)


def look_around(
    cluster: Cluster, job: Manifest, pods: list[Manifest], events: list[Manifest], reader: "_PastReader | None" = None
) -> Observation:
    """Ask those that know more than the Job and its pods: the coordinator, else the run directory; what explains a wait."""
    newest = newest_pods(pods)
    live, live_error = ask_coordinator(cluster, newest.get(0))
    view, records_error = (None, "") if live is not None else _read_run_directory(job)
    workload, ahead = surroundings.queued(cluster, job)
    return Observation(
        job=job,
        pods=pods,
        events=events,
        past=reader.wait() if reader else Past(),
        live=live,
        live_error=live_error,
        records=view.records if view is not None else None,
        records_error=records_error,
        saved_step=view.line[0].step if view is not None and view.line else 0,
        nodes=surroundings.node_rooms(cluster, list(newest.values())),
        hosts=surroundings.hosts_if_told(cluster, [pod for pod in newest.values() if doubtful(pod)]),
        workload=workload,
        ahead=ahead,
        log_tails=surroundings.unheard(cluster, list(newest.values()), live),
    )


def ask_coordinator(cluster: Cluster, chief: Manifest | None) -> tuple[JobState | None, str]:
    """What the coordinator in worker 0's pod says, by one exec; else why it could not be asked."""
    if chief is None or not running(chief):
        return None, ""
    try:
        answer = cluster.exec(
            chief["metadata"]["name"], ["python", "-P", "-m", "trainer.agent", "state"], container=CONTAINER
        )
        return JobState.model_validate_json(answer), ""
    except (ClusterError, ValueError) as error:
        return None, first_line(error)


def _read_run_directory(job: Manifest) -> tuple[RunView | None, str]:
    """The run directory of a job, or why it cannot be read."""
    directory = run_directory_of(job)
    if not is_bucket(directory):
        return None, f"{directory} lies on a volume of the cluster" if directory else ""
    try:
        return view_of(open_store(directory, timeout_s=STORE_S)), ""
    except OrchError as error:
        return None, error.message


class _PastReader:
    """Reads the past in a thread of its own, while the cluster is asked; a store that does not answer holds nobody up."""

    def __init__(self, job: Manifest) -> None:
        self._job = job
        self._past = Past()
        self._thread = threading.Thread(target=self._read, name="past", daemon=True)
        self._until_s = time.monotonic() + _PAST_S
        self._thread.start()

    def wait(self) -> Past:
        """The past; an empty one where it could not be had in time."""
        self._thread.join(max(self._until_s - time.monotonic(), 0.0))
        return self._past

    def _read(self) -> None:
        directory = run_directory_of(self._job)
        if not is_bucket(directory):
            return
        running = has_pods(self._job)
        try:
            view = view_of(open_store(directory, timeout_s=_PAST_S))
            signs = read_signs(view.store, view.records, segments_max=STATUS_SEGMENTS)
            past = past_of(view, signs, running=running)
        except (OrchError, TooMany) as error:
            log.debug("no past: %s", error)
            return
        # Before its first attempt the newest launch is another one, whose saves are not its own.
        ours = view.attempt is not None and view.attempt.launch.id == self._job["metadata"]["uid"]
        self._past = past if ours else replace(past, save_troubles=())


def _events(cluster: Cluster, job: Manifest, pods: list[Manifest]) -> list[Manifest]:
    troubled = [pod["metadata"]["name"] for pod in pods if not running(pod)]
    sources = event_sources(job)[: _GROUPS + 1] + [("Pod", pod) for pod in troubled[:_TROUBLED]]
    events: list[Manifest] = []
    try:
        for kind, name in sources:
            events += cluster.select("Event", fields=f"involvedObject.kind={kind},involvedObject.name={name}")
    except Forbidden:
        return []  # they explain more, but nothing depends on them
    return events
