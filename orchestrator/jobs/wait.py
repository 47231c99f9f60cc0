"""Waiting for a job: until it has ended, runs, is stopped, or is gone. The API server may be away meanwhile."""

import time
from collections.abc import Iterator
from enum import StrEnum

from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ClusterUnreachable, NotFound
from orchestrator.kube.jobs import find_job
from orchestrator.kube.names import selector_of
from orchestrator.kube.objects import Manifest, is_over, pod_is_over
from orchestrator.kube.watch import View, Watch
from orchestrator.logs.lines import Note
from orchestrator.status.model import JobStatus
from orchestrator.status.observe import status_of
from trainer.errors import OrchError

_LOOK_S = 1.0
_SOON_S = 5.0
"""Not more often than this the coordinator is asked because of a pod that changed..."""
_LATE_S = 15.0
"""...and not less often than this in any case."""


class Goal(StrEnum):
    """What is waited for. A job that has ended will not reach any of the others."""

    DONE = "done"
    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


class TooLate(OrchError):
    """The time to wait is over."""


def wait(
    cluster: Cluster, name: str, goal: Goal = Goal.DONE, *, timeout_s: float | None = None
) -> Iterator[JobStatus | Note]:
    """The status each time it says something new, until the goal is reached or the job has ended; the last one tells which.

    Raises:
        NotFound: no such job, or it was deleted meanwhile (with Goal.DELETED that is the end, without an error).
        TooLate: not within `timeout_s`. Forbidden.
    """
    deadline = time.monotonic() + timeout_s if timeout_s is not None else None
    try:
        job = find_job(cluster, name)
    except NotFound:
        if goal is Goal.DELETED:
            return
        raise
    kind, uid = job["kind"], job["metadata"]["uid"]
    views = [View(kind, fields=f"metadata.name={name}"), View("Pod", labels=selector_of(name))]
    last: JobStatus | None = None
    away, changed, asked_s = "", True, 0.0
    with Watch(cluster, views) as watch:
        while True:
            left_s = deadline - time.monotonic() if deadline is not None else _LOOK_S
            if left_s <= 0:
                doing = f": {last.state}: {last.reason}" if last is not None else ""
                raise TooLate(f"job {name} is not {goal} after {timeout_s:.0f} s{doing}")
            changed = watch.wait(min(left_s, _LOOK_S)) or changed
            if watch.away != away:
                away = watch.away
                yield Note(f"{away}; trying again" if away else "the API server answers again")
            if away or not watch.ready:
                continue
            carrier = next((item for item in watch.items(kind) if item["metadata"]["uid"] == uid), None)
            if carrier is None:
                if goal is Goal.DELETED:
                    return
                raise NotFound(f"job {name} was deleted meanwhile", remedy="Its run directory stays.")
            now = time.monotonic()
            over = is_over(carrier) and goal is not Goal.DELETED
            due = over or now - asked_s > (_SOON_S if changed else _LATE_S) or goal is Goal.RUNNING
            if goal is Goal.STOPPED and is_stopped(carrier, watch.items("Pod")):
                due = True
            if not due:
                continue
            asked_s, changed = now, False
            try:
                status = status_of(cluster, name)
            except (ClusterUnreachable, NotFound):
                continue  # the watch says it, and knows what follows
            if last is None or _news(status) != _news(last) or status.over:
                yield status
            last = status
            if goal is not Goal.DELETED and (
                status.over
                or (goal is Goal.RUNNING and status.state == "running")
                or (goal is Goal.STOPPED and is_stopped(carrier, watch.items("Pod")))
            ):
                return


def is_stopped(carrier: Manifest, pods: list[Manifest]) -> bool:
    """Whether it is suspended and the last of its pods has gone."""
    alive = [pod for pod in pods if not pod_is_over(pod)]
    return bool(carrier["spec"].get("suspend")) and not alive


def _news(status: JobStatus) -> tuple[str, str, int]:
    return status.state, status.reason, status.attempts
