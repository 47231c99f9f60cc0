"""What the workers of a job on the cluster print, all of them at once, through the replacement of pods, until the job ends.

One thread watches the job, one thread reads each pod, and the caller's thread takes lines from one queue.
"""

import heapq
import logging
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from orchestrator.diagnose import container_status, index_of
from orchestrator.kube import Cluster, ClusterError, Manifest, NotFound
from orchestrator.manifests import CONTAINER, selector_of
from orchestrator.observe import find_job, status_of
from orchestrator.status import JobStatus

log = logging.getLogger(__name__)

MOST_WORKERS = 64
"""So many are followed when none are named: each takes a connection."""
_QUEUE_LINES = 10_000
_WATCH_S = 10
_AGAIN_S = 1.0


@dataclass(frozen=True)
class Line:
    """One line of a worker."""

    worker: int
    text: str


@dataclass(frozen=True)
class Note:
    """Something about the job that is not a line of a worker."""

    text: str


@dataclass
class _Shared:
    """What the threads share."""

    lines: "queue.Queue[Line | Note | None]" = field(default_factory=lambda: queue.Queue(_QUEUE_LINES))
    stop: threading.Event = field(default_factory=threading.Event)
    readers: dict[str, threading.Thread] = field(default_factory=dict)
    """Pod UID -> the thread that reads it."""


def read(cluster: Cluster, name: str, workers: set[int] | None) -> Iterator[Line]:
    """All lines there are, in order of time. Empty when no container has started, or when all pods are gone.

    Raises:
        NotFound: no such job. ClusterError: the cluster does not answer, or forbids it.
    """
    find_job(cluster, name)
    pods = [pod for pod in cluster.select("Pod", labels=selector_of(name)) if _wanted(pod, workers) and _started(pod)]

    def stamped(pod: Manifest) -> Iterator[tuple[str, int, str]]:
        for line in cluster.logs(pod["metadata"]["name"], container=CONTAINER):
            stamp, _, text = line.partition(" ")
            yield stamp, index_of(pod), text

    for _, worker, text in heapq.merge(*(stamped(pod) for pod in pods)):
        yield Line(worker, text)


def follow(cluster: Cluster, name: str, workers: set[int] | None) -> Iterator[Line | Note]:
    """Lines as they come, from the first one on, until the job has ended and all of it was read.

    Pods that are not there yet are waited for, and the wait is explained by notes; a pod that replaces another is read too.

    Raises:
        NotFound: no such job. ClusterError: the cluster forbids it. One that does not answer is asked again.
    """
    job = find_job(cluster, name)
    shared = _Shared()
    watcher = threading.Thread(
        target=_watch, args=(cluster, name, job["metadata"]["uid"], workers, shared), name="watch", daemon=True
    )
    watcher.start()
    try:
        while (item := shared.lines.get()) is not None:
            yield item
    finally:
        shared.stop.set()


def wait(cluster: Cluster, name: str) -> Iterator[JobStatus]:
    """The status each time it says something new, until the job is over; the last one is the end.

    Raises:
        NotFound: the job was deleted meanwhile. Forbidden.
    """
    last: tuple[str, str, int] | None = None
    while True:
        status = status_of(cluster, name)
        said = (status.state, status.reason, status.attempts)
        if said != last or status.over:
            last = said
            yield status
        if status.over:
            return
        time.sleep(2.0)


def _wanted(pod: Manifest, workers: set[int] | None) -> bool:
    index = index_of(pod)
    return index in workers if workers is not None else 0 <= index < MOST_WORKERS


def _started(pod: Manifest) -> bool:
    state = container_status(pod).get("state", {})
    return "running" in state or bool(state.get("terminated", {}).get("containerID"))


def _watch(cluster: Cluster, name: str, uid: str, workers: set[int] | None, shared: _Shared) -> None:
    """Start a reader for each pod that starts; end when the job has ended and the readers have."""
    told = ""
    while not shared.stop.is_set():
        try:
            job = cluster.find("Job", name)
            over = job is None or job["metadata"]["uid"] != uid or _over(job)
            for pod in cluster.select("Pod", labels=selector_of(name)):
                _read_if_started(cluster, pod, workers, shared)
            if over:
                break
            if not any(reader.is_alive() for reader in shared.readers.values()):
                told = _explain_wait(cluster, name, told, shared)
            for event in cluster.watch("Pod", labels=selector_of(name), timeout_s=_WATCH_S if shared.readers else 2):
                _read_if_started(cluster, event.item, workers, shared)
                if shared.stop.is_set():
                    break
        except NotFound:
            break
        except ClusterError as error:
            if told != error.message:
                told = error.message
                shared.lines.put(Note(f"{error.message}; trying again"))
            shared.stop.wait(_AGAIN_S)
    for reader in list(shared.readers.values()):
        reader.join()
    shared.lines.put(None)


def _over(job: Manifest) -> bool:
    conditions = job.get("status", {}).get("conditions") or []
    return any(item["type"] in ("Complete", "Failed") and item["status"] == "True" for item in conditions)


def _explain_wait(cluster: Cluster, name: str, told: str, shared: _Shared) -> str:
    status = status_of(cluster, name)
    text = f"{status.state}: {status.reason}"
    if text != told and not status.over:
        shared.lines.put(Note(text))
    return text


def _read_if_started(cluster: Cluster, pod: Manifest, workers: set[int] | None, shared: _Shared) -> None:
    uid = pod["metadata"]["uid"]
    if uid in shared.readers or not _wanted(pod, workers) or not _started(pod):
        return
    reader = threading.Thread(
        target=_read_pod, args=(cluster, pod["metadata"]["name"], uid, index_of(pod), shared), name="read", daemon=True
    )
    shared.readers[uid] = reader
    reader.start()


def _read_pod(cluster: Cluster, pod: str, uid: str, worker: int, shared: _Shared) -> None:
    """Read a container to its end, going on after the last line when a connection breaks."""
    last = ""
    while not shared.stop.is_set():
        try:
            for line in cluster.logs(pod, container=CONTAINER, follow=True, since=last):
                stamp, _, text = line.partition(" ")
                if stamp > last:
                    last = stamp
                    shared.lines.put(Line(worker, text))
                if shared.stop.is_set():
                    return
            now = cluster.find("Pod", pod)
        except NotFound:
            return
        except ClusterError as error:
            log.debug("log of pod %s: %s", pod, error)
            shared.stop.wait(_AGAIN_S)
            continue
        # The end of a stream is the end of the container, or of the connection alone.
        if now is None or now["metadata"]["uid"] != uid or "running" not in container_status(now).get("state", {}):
            return
        shared.stop.wait(_AGAIN_S)
