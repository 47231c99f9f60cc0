"""A job, its pods and what surrounds them -> all its troubles, what a person must act on first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.diagnose import admission, ending, scheduling, starting, training
from orchestrator.diagnose.scheduling import NodeRoom
from orchestrator.diagnose.trouble import Trouble, gathered
from orchestrator.kube.carrier import event_sources
from orchestrator.kube.objects import Manifest, index_of, running, time_of
from trainer.wire.coordinator import JobState


@dataclass(frozen=True)
class Surroundings:
    """What explains a job's pods besides themselves and their events; each part may be missing."""

    earlier: Sequence[Manifest] = ()
    """Pods whose place another one took."""
    nodes: Sequence[NodeRoom] = ()
    """Where the user may look at them."""
    hosts: Mapping[str, Manifest] = field(default_factory=dict)
    """Name -> the Node of pods that may be out of reach, where the user may look at it."""
    workload: Manifest | None = None
    """Kueue's object for the job."""
    ahead: int | None = None
    """How many jobs wait before it in its queue, where Kueue tells."""
    live: JobState | None = None
    """The coordinator's answer."""
    log_tails: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """UID of a pod -> the last lines of its log, for those that run and that the coordinator does not hear."""


def diagnose(
    job: Manifest, pods: list[Manifest], events: list[Manifest], around: Surroundings | None = None
) -> list[Trouble]:
    """All that keeps a job from running, what a person must act on first.

    Args:
        job: the Job.
        pods: the newest pod of each worker.
        events: of the Job and of these pods, in any order.
    """
    around = around or Surroundings()
    by_object: dict[str, list[Manifest]] = {}
    for event in sorted(events, key=time_of):
        by_object.setdefault(event.get("involvedObject", {}).get("name", ""), []).append(event)
    of_job = [event for _, name in event_sources(job) for event in by_object.get(name, [])]
    found = [admission.of_job(job, pods, of_job, around.workload, around.ahead)]
    found += gathered(
        Trouble(trouble.reason, trouble.remedy, (index_of(pod),))
        for pod in pods
        if (trouble := _of_pod(pod, by_object.get(pod["metadata"]["name"], []), around)) is not None
    )
    waiting = {index_of(pod) for pod in pods if not running(pod)}
    found += gathered(ending.of_earlier(pod) for pod in around.earlier if index_of(pod) in waiting)
    if around.live is not None:
        found.append(training.of_restarts(job, around.live))
    return [trouble for trouble in found if trouble is not None and trouble.reason]


def _of_pod(pod: Manifest, events: list[Manifest], around: Surroundings) -> Trouble | None:
    for check in (
        lambda pod, _: ending.node_lost(pod, around.hosts.get(pod["spec"].get("nodeName", ""))),
        ending.disrupted,
        ending.evicted,
        lambda pod, _: scheduling.unschedulable(pod, around.nodes),
        starting.image,
        starting.cannot_start,
        starting.volume,
        ending.ended_badly,
        lambda pod, _: training.unheard(pod, around.log_tails.get(pod["metadata"]["uid"], ())),
    ):
        trouble = check(pod, events)
        if trouble is not None:
            return trouble
    return None
