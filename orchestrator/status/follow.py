"""A job's status, and what happens to it, as it changes: one list and one watch of the Job, its pods and their events; the
coordinator now and then."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.kube.carrier import as_job, child_selector, failed
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ClusterUnreachable, NotFound
from orchestrator.kube.jobs import find_job
from orchestrator.kube.names import selector_of
from orchestrator.kube.objects import Manifest, conditions, container_status, newest_pods
from orchestrator.kube.watch import View, Watch
from orchestrator.status.events import Happening, concerns, merged, of_events, of_restarts
from orchestrator.status.judge import judge
from orchestrator.status.model import Moment
from orchestrator.status.observation import Observation
from orchestrator.status.observe import look_around

ASK_S = 4.0
"""How often the coordinator is asked: each time starts a small program beside the training."""
SHOW_S = 0.5
"""How often, at most, the picture changes, however much happens."""
LAST_ANSWER_S = 30.0
"""So long the coordinator's last answer is shown while it cannot be asked, as when the API server has just come back."""
EVENTS_MOST = 2000


def follow(cluster: Cluster, name: str) -> Iterator[Moment]:
    """The status whenever something may have changed, until the job is over; the last one is the end.

    While the API server is away the last status comes again, with that said, and then it goes on.

    Raises:
        NotFound: no such job, or it was deleted meanwhile. ClusterError: the cluster forbids it.
    """
    job = find_job(cluster, name)
    views = [
        View(job["kind"], fields=f"metadata.name={name}"),
        View("Pod", labels=selector_of(name)),
        View("Event", keep=lambda event: concerns(event, job), most=EVENTS_MOST, optional=True),
    ]
    last: Moment | None = None
    asked = _LastAnswers()
    with Watch(cluster, views) as watch:
        while True:
            watch.wait(1.0)
            began_s = time.monotonic()
            if watch.away and last is not None:
                last = replace(last, away=watch.away)
                yield last
            elif watch.ready:
                try:
                    last = _moment(asked.observe(cluster, *_picture(cluster, watch, job)))
                except ClusterUnreachable as error:
                    if last is None:
                        continue
                    last = replace(last, away=error.message)
                yield last
                if last.status.over:
                    return
            time.sleep(max(SHOW_S - (time.monotonic() - began_s), 0.0))


def events_of(cluster: Cluster, name: str) -> Sequence[Happening]:
    """What happened to a job so far, oldest first.

    Raises:
        NotFound: no such job. ClusterError: the cluster does not answer, or forbids it.
    """
    job = find_job(cluster, name)
    events = [event for event in cluster.select("Event") if concerns(event, job)]
    return _moment(look_around(cluster, job, cluster.select("Pod", labels=selector_of(name)), events)).happened


def follow_events(cluster: Cluster, name: str) -> Iterator[Happening]:
    """The same, and what happens from now on, until the job is over. One that happens again comes again, with its count.

    Raises:
        As `follow`.
    """
    told: set[tuple[str, int]] = set()
    for moment in follow(cluster, name):
        for happening in moment.happened:
            if (happening.key, happening.count) not in told:
                told.add((happening.key, happening.count))
                yield happening


def _moment(seen: Observation) -> Moment:
    status = judge(seen)
    return Moment(status, merged(of_events(seen.events, seen.job), of_restarts(status.history)))


def _picture(cluster: Cluster, watch: Watch, job: Manifest) -> tuple[Manifest, list[Manifest], list[Manifest]]:
    """The Job, its pods and the events, as they are known now."""
    name, kind, uid = job["metadata"]["name"], job["kind"], job["metadata"]["uid"]
    carrier = next((item for item in watch.items(kind) if item["metadata"]["uid"] == uid), None)
    if carrier is None:
        raise NotFound(
            f"job {name} was deleted", remedy="its run directory stays: submitted again, it goes on from there"
        )
    children = cluster.select("Job", labels=child_selector(name)) if kind == "JobSet" and failed(carrier) else []
    return as_job(carrier, children), watch.items("Pod"), watch.items("Event")


class _LastAnswers:
    """The last answers of those that are asked more seldom than one looks."""

    def __init__(self) -> None:
        self._last: Observation | None = None
        self._at_s = self._answered_s = 0.0

    def observe(self, cluster: Cluster, job: Manifest, pods: list[Manifest], events: list[Manifest]) -> Observation:
        now = time.monotonic()
        last = self._last
        # Another worker 0 or another state of the Job makes what was answered before worthless.
        same = last is not None and marks(last.job, last.pods) == marks(job, pods)
        if last is not None and same and now - self._at_s < ASK_S:
            self._last = replace(last, job=job, pods=pods, events=events)
            return self._last
        seen = look_around(cluster, job, pods, events)
        self._at_s = now
        if seen.live is not None:
            self._answered_s = now
        elif seen.live_error and last is not None and last.live and same and now - self._answered_s < LAST_ANSWER_S:
            seen = replace(seen, live=last.live)
        self._last = seen
        return seen


def marks(job: Manifest, pods: list[Manifest]) -> tuple[object, ...]:
    """What, when it is another, is worth asking those who know more at once."""
    chief = newest_pods(pods).get(0)
    return (
        [(entry["type"], entry["status"]) for entry in conditions(job)],
        job["spec"].get("suspend"),
        chief["metadata"]["uid"] if chief else "",
        list(container_status(chief).get("state", {})) if chief else [],
    )
