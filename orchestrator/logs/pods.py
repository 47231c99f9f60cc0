"""What the workers of a job on the cluster print, all of them at once, through broken connections and the replacement of pods.

What is there already comes in order of time. Then a thread reads each pod on from where that ended, one thread watches the job
for new pods, and the caller's thread takes lines from one queue. Which lines are new and which are wanted decides lines.py.
"""

import heapq
import logging
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from orchestrator.diagnose.trouble import workers_text
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ClusterError, ClusterUnreachable, NotFound, Rejected
from orchestrator.kube.jobs import find_job
from orchestrator.kube.names import CONTAINER, selector_of
from orchestrator.kube.objects import (
    Manifest,
    container_status,
    has_pods,
    index_of,
    is_over,
    run_directory_of,
    workers_of,
)
from orchestrator.kube.watch import View, Watch
from orchestrator.logs.lines import Attempts, Cursor, Line, Note, Stamped, Wanted, last_of_each, parse
from orchestrator.logs.segments import of_gone_pods
from orchestrator.status.observe import status_of
from trainer.errors import OrchError
from trainer.retry import Backoff
from trainer.rundir.bucket import is_bucket

log = logging.getLogger(__name__)

MOST_WORKERS = 64
"""So many are read when none are named: each takes a connection."""
_QUEUE_LINES = 10_000
_EXPLAIN_S = 2.0
_EXPLAIN_AGAIN_S = 15.0
_AGAIN_S = 1.0
_LAST_AGAIN_S = 10.0
_TRIES = 3
_QUIET_S = 100.0
"""The agent says something once a minute: a stream that is silent for longer hangs on a dead connection, and is opened anew."""
_REST_S = 30.0
"""After the end of the job, how long a pod is still tried that cannot be read, as when its node does not answer."""


def read(cluster: Cluster, name: str, wanted: Wanted) -> Iterator[Line | Note]:
    """All lines there are, in order of time. None when no container has started, or when all pods are gone and left nothing.

    Raises:
        NotFound: no such job. ClusterError: the cluster does not answer, or forbids it.
    """
    job = find_job(cluster, name)
    wanted, notes = _narrowed(job, wanted)
    yield from notes
    pods = cluster.select("Pod", labels=selector_of(name))
    yield from _so_far(
        cluster, [_Pod(pod) for pod in pods if _started(pod, wanted)], wanted, _GonePods(job, pods, wanted)
    )


def follow(cluster: Cluster, name: str, wanted: Wanted) -> Iterator[Line | Note]:
    """The same, then lines as they come, until the job has ended and all of it was read.

    Pods that are not there yet are waited for, and the wait is explained by notes; a pod that replaces another is read too.

    Raises:
        NotFound: no such job. ClusterError: the cluster forbids it. One that does not answer is asked again.
    """
    job = find_job(cluster, name)
    wanted, notes = _narrowed(job, wanted)
    yield from notes
    # What comes from now on is shown whole, also of a pod that begins only now.
    shared = _Following(cluster, name, replace(wanted, tail=None))
    pods = cluster.select("Pod", labels=selector_of(name))
    known = [_Pod(pod) for pod in pods if _started(pod, wanted)]
    yield from _so_far(cluster, known, wanted, _GonePods(job, pods, wanted))
    for pod in known:
        shared.read_on(pod)
    watcher = threading.Thread(target=_watch, args=(job, shared), name="watch", daemon=True)
    watcher.start()
    try:
        while (item := shared.lines.get()) is not None:
            yield item
        if shared.failure is not None:
            raise shared.failure
    finally:
        shared.stop.set()


def left_behind(cluster: Cluster, name: str, *, while_active: bool) -> str:
    """The run directory of a job, where what its pods do not tell can be looked for; empty where it cannot be read from here.

    Also empty, unless `while_active`, while the job is about to print something: what is there is of an earlier launch.
    """
    job = find_job(cluster, name)
    directory = run_directory_of(job)
    active = has_pods(job)
    return directory if is_bucket(directory) and (while_active or not active) else ""


def _narrowed(job: Manifest, wanted: Wanted) -> tuple[Wanted, list[Note]]:
    """Workers that exist, and not more than can be read at once unless they are named."""
    count = workers_of(job)
    if wanted.workers is not None:
        beyond = [index for index in wanted.workers if index >= count]
        if beyond:
            only = "only worker 0" if count == 1 else f"workers 0-{count - 1}"
            return wanted, [Note(f"the job has {only}; no {workers_text(beyond)}")]
    elif count > MOST_WORKERS:
        text = f"workers 0-{MOST_WORKERS - 1} of {count} are shown; --worker 0,100-120 chooses others"
        return replace(wanted, workers=frozenset(range(MOST_WORKERS))), [Note(text)]
    return wanted, []


def _started(pod: Manifest, wanted: Wanted) -> bool:
    """Whether a pod is a worker that is wanted, and has something to read."""
    status = container_status(pod)
    state = status.get("state", {})
    ran = (
        "running" in state or bool(state.get("terminated", {}).get("containerID")) or status.get("restartCount", 0) > 0
    )
    return ran and index_of(pod) >= 0 and wanted.worker(index_of(pod))


class _Pod:
    """One pod, and how far it was read."""

    def __init__(self, pod: Manifest) -> None:
        self.name: str = pod["metadata"]["name"]
        self.uid: str = pod["metadata"]["uid"]
        self.worker = index_of(pod)
        self.node: str = pod["spec"].get("nodeName", "?")
        self.restarts = int(container_status(pod).get("restartCount", 0))
        self._cursor = Cursor()
        self._attempts = Attempts()
        self._read_before = 0
        """Restarts of the container whose earlier lives were read."""

    def lines(self, cluster: Cluster, wanted: Wanted, *, follow: bool = False) -> Iterator[Line]:
        """What was not read yet: to its present end, or with `follow` as it comes, to the end of the connection.

        Raises:
            ClusterError: it cannot be read; what came before stays read.
        """
        if self.restarts > self._read_before:
            # The container ran before in this pod. The kubelet keeps its last life only.
            try:
                yield from self._new(cluster, wanted, previous=True)
            except Rejected as error:
                log.debug("previous log of pod %s: %s", self.name, error)
            self._read_before = self.restarts
        yield from self._new(cluster, wanted, follow=follow)

    def _new(self, cluster: Cluster, wanted: Wanted, *, follow: bool = False, previous: bool = False) -> Iterator[Line]:
        first = not self._cursor.since
        # Where an attempt begins only the lines before tell.
        since = self._cursor.since or (_since(wanted) if wanted.attempt is None else "")
        # What the API leaves out cannot be searched for something else.
        tail = max(wanted.tail, 1) if wanted.tail is not None and first and not wanted.skips else None
        raw = cluster.logs(
            self.name,
            container=CONTAINER,
            follow=follow,
            previous=previous,
            since=since,
            tail=tail,
            quiet_s=_QUIET_S if follow else None,
        )
        for stamped in self._cursor.follow(parse(line) for line in raw):
            line = self._line(stamped)
            if wanted.shows(line):
                yield line

    def _line(self, stamped: Stamped) -> Line:
        return Line(self.worker, stamped.text, stamped.time_ns, self._attempts.of(stamped.text))


def _since(wanted: Wanted) -> str:
    return Cursor(wanted.since_ns).since


class _GonePods:
    """The pods of a job that are gone: their lines are in the run directory, where that can be read from here."""

    def __init__(self, job: Manifest, pods: list[Manifest], wanted: Wanted) -> None:
        self._directory = run_directory_of(job)
        self._launch: str = job["metadata"]["uid"]
        self._present = {pod["metadata"]["uid"] for pod in pods}
        self._wanted = wanted

    def lines(self, notes: list[Note]) -> Iterator[Line]:
        """In order of time, to the minute; what cannot be had goes to `notes`."""
        if not is_bucket(self._directory):
            return
        try:
            gone = of_gone_pods(self._directory, self._wanted, launch=self._launch, present=self._present)
            if gone.missing:
                notes.append(
                    Note(
                        f"of pods that are gone, the run directory holds no lines of {gone.missing}: "
                        "worker 0's are kept there, and the others' before a failure"
                    )
                )
            for line in gone.lines:
                if self._wanted.shows(line):
                    yield line
        except OrchError as error:
            notes.append(
                Note(f"what pods that are gone have printed, if there are any, cannot be read: {error.message}")
            )


def _so_far(cluster: Cluster, pods: list[_Pod], wanted: Wanted, gone: _GonePods) -> Iterator[Line | Note]:
    """All pods to their present end and those that are gone, merged by time."""
    notes: list[Note] = []

    def patiently(pod: _Pod) -> Iterator[tuple[int, Line]]:
        newest = 0
        for tries_left in reversed(range(_TRIES)):
            try:
                for line in pod.lines(cluster, wanted):
                    newest = max(newest, line.time_ns)
                    yield newest, line
                return
            except NotFound:
                return  # replaced or removed a moment ago
            except (ClusterUnreachable, Rejected) as error:
                if not tries_left:
                    notes.append(Note(_cannot_read(pod, error)))
                    return
                time.sleep(_AGAIN_S)

    left = ((line.time_ns, line) for line in gone.lines(notes))
    merged = heapq.merge(left, *(patiently(pod) for pod in pods), key=lambda item: item[0])
    yield from last_of_each((line for _, line in merged), wanted.tail)
    yield from notes


def _cannot_read(pod: _Pod, error: ClusterError) -> str:
    return f"worker {pod.worker}: the log of pod {pod.name} on node {pod.node} cannot be read: {error.message}"


@dataclass
class _Following:
    """What the threads of `follow` share."""

    cluster: Cluster
    job: str
    wanted: Wanted
    lines: "queue.Queue[Line | Note | None]" = field(default_factory=lambda: queue.Queue(_QUEUE_LINES))
    stop: threading.Event = field(default_factory=threading.Event)
    readers: dict[str, threading.Thread] = field(default_factory=dict)
    """Pod UID -> the thread that reads it."""
    failing: dict[str, float] = field(default_factory=dict)
    """Pod UID -> since when it cannot be read, of those that cannot."""
    failure: ClusterError | None = None

    def read_on(self, pod: _Pod) -> None:
        """Read a pod in a thread of its own, if it is not read already."""
        if pod.uid in self.readers:
            return
        thread = threading.Thread(target=_read_pod, args=(pod, self), name=f"read {pod.name}", daemon=True)
        self.readers[pod.uid] = thread
        thread.start()

    def put(self, item: Line | Note | None) -> None:
        """Hand an item to the caller; waits while they are slow, so that memory stays bounded."""
        while not self.stop.is_set():
            try:
                self.lines.put(item, timeout=1.0)
                return
            except queue.Full:
                continue


def _watch(job: Manifest, shared: _Following) -> None:
    """Start a reader for each pod that starts; end when the job has ended and the readers have."""
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    wanted = shared.wanted
    views = [
        View(job["kind"], fields=f"metadata.name={name}"),
        View("Pod", labels=selector_of(name), keep=lambda pod: index_of(pod) >= 0 and wanted.worker(index_of(pod))),
    ]
    told, told_s, away = "", 0.0, ""
    try:
        with Watch(shared.cluster, views) as watch:
            while not shared.stop.is_set():
                changed = watch.wait(_EXPLAIN_S)
                if watch.away != away:
                    away = watch.away
                    shared.put(Note(f"{away}; trying again" if away else "the API server answers again"))
                if away or not watch.ready:
                    continue
                for pod in watch.items("Pod"):
                    if _started(pod, wanted):
                        shared.read_on(_Pod(pod))
                carriers = [item for item in watch.items(job["kind"]) if item["metadata"]["uid"] == uid]
                if not carriers or is_over(carriers[0]):
                    break
                idle = not any(reader.is_alive() for reader in shared.readers.values())
                if idle and (changed or time.monotonic() - told_s > _EXPLAIN_AGAIN_S):
                    told, told_s = _explain(shared, told), time.monotonic()
    except NotFound:
        pass  # deleted: what was there is read to its end
    except ClusterError as error:
        shared.failure = error
    if shared.failure is None:
        _read_the_rest(shared)
    shared.put(None)


def _read_the_rest(shared: _Following) -> None:
    """After the job's end: until each pod was read to its end, or could not be read for a while."""
    ended_s = time.monotonic()
    for uid, reader in list(shared.readers.items()):
        while reader.is_alive() and not shared.stop.is_set():
            reader.join(0.5)
            failing_s = shared.failing.get(uid)
            if failing_s is not None and time.monotonic() - max(failing_s, ended_s) > _REST_S:
                break


def _explain(shared: _Following, told: str) -> str:
    """Say why there is nothing to read, when that is something new."""
    try:
        status = status_of(shared.cluster, shared.job)
    except ClusterUnreachable:
        return told  # the watch says it
    text = f"{status.state}: {status.reason}"
    if text != told and not status.over:
        shared.put(Note(text))
    return text


def _read_pod(pod: _Pod, shared: _Following) -> None:
    """Read a container to its end, going on after the last line when a connection breaks."""
    pauses, told = Backoff(_AGAIN_S, _LAST_AGAIN_S), False
    while not shared.stop.is_set():
        try:
            now = shared.cluster.get("Pod", pod.name)
            if now["metadata"]["uid"] != pod.uid:
                return
            container = container_status(now)
            pod.restarts = int(container.get("restartCount", 0))
            ended = "running" not in container.get("state", {})
            # After the container's end once more to its end: a stream may break off in the middle of a line.
            for line in pod.lines(shared.cluster, shared.wanted, follow=not ended):
                shared.put(line)
                if shared.stop.is_set():
                    return
            if ended:
                return
            pauses.reset()
            told = False
            shared.failing.pop(pod.uid, None)
            continue
        except NotFound:
            return
        except (ClusterUnreachable, Rejected) as error:
            log.debug("log of pod %s: %s", pod.name, error)
            pause_s = pauses.next_s()
            shared.failing.setdefault(pod.uid, time.monotonic())
            if pauses.failures == _TRIES and not told:
                told = True
                shared.put(Note(f"{_cannot_read(pod, error)}; trying again"))
        except ClusterError as error:
            shared.failure = error
            shared.put(None)
            return
        shared.stop.wait(pause_s)
