"""Pods and events -> what is wrong in words, and what a person can do about it. Pure: no cluster, no clock.

Each function here knows one kind of trouble by what Kubernetes says about it, and returns None where it is not that.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from orchestrator.carrier import GROUP_LABEL, GROUP_WORKERS, event_sources
from trainer.exit_codes import title_of

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Trouble:
    """One cause, with all workers that have it."""

    reason: str
    """One line: what is wrong, with the object and its figures."""
    remedy: str
    """What to do next."""
    workers: tuple[int, ...] = ()
    """Indexes; empty when it is about the whole job."""

    @property
    def text(self) -> str:
        """The reason, with the workers before it."""
        return f"{workers_text(self.workers)}: {self.reason}" if self.workers else self.reason


def workers_text(indexes: Iterable[int]) -> str:
    """`worker 3`, `workers 0, 1`, `workers 0-7, 9`."""
    ranges: list[list[int]] = []
    for index in sorted(set(indexes)):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    parts = [
        str(first) if first == last else f"{first}, {last}" if last == first + 1 else f"{first}-{last}"
        for first, last in ranges
    ]
    return ("worker " if len(ranges) == 1 and ranges[0][0] == ranges[0][1] else "workers ") + ", ".join(parts)


def index_of(pod: Manifest) -> int:
    """The worker that a pod is: its completion index, counted on from those of the groups before its own in a JobSet; -1 for
    a pod that has none."""
    labels = pod["metadata"].get("labels") or {}
    annotations = pod["metadata"].get("annotations") or {}
    given = (labels | annotations).get("batch.kubernetes.io/job-completion-index")
    if given is None:
        return -1
    return int(labels.get(GROUP_LABEL, 0)) * int(annotations.get(GROUP_WORKERS, 0)) + int(given)


def container_status(pod: Manifest, name: str = "trainer") -> Manifest:
    """The status of a pod's container; empty before it has one."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status["name"] == name:
            return dict(status)
    return {}


def condition(item: Manifest, kind: str) -> Manifest:
    """A condition of an object that is True; empty when it is not."""
    for entry in item.get("status", {}).get("conditions") or []:
        if entry["type"] == kind and entry["status"] == "True":
            return dict(entry)
    return {}


def diagnose(job: Manifest, pods: list[Manifest], events: list[Manifest]) -> list[Trouble]:
    """All that keeps a job from running, what a person must act on first.

    Args:
        job: the Job.
        pods: the newest pod of each worker.
        events: of the Job and of these pods, in any order.
    """
    by_object: dict[str, list[Manifest]] = {}
    for event in sorted(events, key=_time_of):
        by_object.setdefault(event.get("involvedObject", {}).get("name", ""), []).append(event)
    found: dict[tuple[str, str], list[int]] = {}
    for pod in pods:
        trouble = _of_pod(pod, by_object.get(pod["metadata"]["name"], []))
        if trouble is not None:
            found.setdefault((trouble.reason, trouble.remedy), []).append(index_of(pod))
    troubles = [Trouble(reason, remedy, tuple(sorted(workers))) for (reason, remedy), workers in found.items()]
    about_job = _of_job(job, pods, [event for _, name in event_sources(job) for event in by_object.get(name, [])])
    return ([about_job] if about_job else []) + troubles


def _of_job(job: Manifest, pods: list[Manifest], events: list[Manifest]) -> Trouble | None:
    name, spec = job["metadata"]["name"], job["spec"]
    queue = (job["metadata"].get("labels") or {}).get("kueue.x-k8s.io/queue-name")
    if spec.get("suspend"):
        if queue:
            return Trouble(
                f"waiting for queue {queue} to admit the job",
                f"kubectl describe localqueue {queue} shows what is in use and who waits before it",
            )
        return Trouble(
            "the job is suspended: no pods are wanted",
            f'kubectl patch job {name} --type=merge -p \'{{"spec":{{"suspend":false}}}}\' lets it go on',
        )
    refused = [event for event in events if event.get("reason") in _REFUSALS and not _passes(event)]
    if refused and len(pods) < spec.get("parallelism", 1):
        message = str(refused[-1].get("message", ""))
        return Trouble(
            f"Kubernetes refuses to create pods: {_after(message, 'is forbidden: ')}", _remedy_of_refusal(message)
        )
    return None


_REFUSALS = ("FailedCreate", "JobCreationFailed")
"""Of a Job whose pods are refused, and of a JobSet whose Jobs are."""


def _passes(event: Manifest) -> bool:
    """With an exclusive topology JobSet refuses the other pods of a group until its first one has a node."""
    message = str(event.get("message", ""))
    return "expected, transient error" in message or "follower pod node selector" in message


def _remedy_of_refusal(message: str) -> str:
    if "exceeded quota" in message:
        return "ask for less under resources:, or free some of the namespace's quota (kubectl describe quota)"
    if "violates PodSecurity" in message:
        return (
            "take out what the namespace's Pod Security level forbids (see kubernetes.pod and volumes in the job file)"
        )
    if "serviceaccount" in message:
        return "create that service account, or correct scheduling.service_account"
    return "correct the job file, `orch delete` the job, and submit it again"


def _of_pod(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    checks: list[Callable[[Manifest, list[Manifest]], Trouble | None]] = [
        _node_lost,
        _evicted,
        _unschedulable,
        _image,
        _cannot_start,
        _volume,
        _ended_badly,
    ]
    for check in checks:
        trouble = check(pod, events)
        if trouble is not None:
            return trouble
    return None


def _node_lost(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    disruption = condition(pod, "DisruptionTarget")
    phase = pod.get("status", {}).get("phase")
    by_taint = disruption.get("reason") == "DeletionByTaintManager"
    if not pod["metadata"].get("deletionTimestamp") or not by_taint or phase not in ("Running", "Pending"):
        return None
    node = pod["spec"].get("nodeName", "?")
    return Trouble(
        f"node {node} is silent since {disruption.get('lastTransitionTime', 'some time')}, "
        "and nothing replaces its pod until it is known to be gone",
        f"bring the node back; if it is gone for good: kubectl delete node {node}",
    )


def _evicted(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    status = pod.get("status", {})
    if status.get("reason") != "Evicted":
        return None
    return Trouble(
        f"the node evicted the pod: {status.get('message', '').strip()}",
        "give resources.memory and resources.ephemeral_storage what the worker really uses",
    )


_INSUFFICIENT = re.compile(r"(\d+) Insufficient ([\w./-]+)")
_TAINT = re.compile(r"(\d+) node\(s\) had untolerated taint\(?s?\)? (\{.*?\})")
_SELECTOR = re.compile(r"(\d+) node\(s\) didn't match Pod's node affinity/selector")


def _unschedulable(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    for entry in pod.get("status", {}).get("conditions") or []:
        if entry["type"] != "PodScheduled" or entry["status"] != "False":
            continue
        message = str(entry.get("message", ""))
        if entry.get("reason") == "SchedulingGated":
            return Trouble("a scheduling gate holds the pod back", f"whoever set the gate opens it: {message}")
        return _why_no_node(pod, message)
    return None


def _why_no_node(pod: Manifest, message: str) -> Trouble:
    total = match[1] if (match := re.match(r"0/(\d+) nodes", message)) else "?"
    text = _after(message, "nodes are available: ").split(". ")[0].rstrip(".")
    requests = pod["spec"]["containers"][0].get("resources", {}).get("requests", {})
    parts: list[str] = []
    remedies: list[str] = []
    for count, resource in _INSUFFICIENT.findall(text):
        resource = resource.rstrip(".,")
        asked = requests.get(resource, "?")
        parts.append(f"{count} of {total} nodes have too little {resource} free (a worker asks for {asked})")
        remedies.append(_REMEDY_OF_RESOURCE.get(resource, "add nodes that have it, or wait until others free theirs"))
    for count, taint in _TAINT.findall(text):
        parts.append(f"{count} of {total} have the taint {taint}, which the pods do not tolerate")
        remedies.append("add it to scheduling.tolerations if the job may run there")
    for count in _SELECTOR.findall(text):
        labels = ", ".join(f"{key}={value}" for key, value in (pod["spec"].get("nodeSelector") or {}).items())
        parts.append(f"{count} of {total} lack the labels that are asked for ({labels or 'by affinity'})")
        remedies.append(
            "add such nodes, or change resources.accelerator, resources.capacity or scheduling.node_selector"
        )
    if not parts:
        parts, remedies = (
            [text or "no reason given"],
            ["kubectl describe pod " + pod["metadata"]["name"] + " says more"],
        )
    return Trouble("no node for it: " + "; ".join(parts), "; ".join(dict.fromkeys(remedies)))


_REMEDY_OF_RESOURCE = {
    "cpu": "ask for less with resources.cpu, add nodes, or wait until others free theirs",
    "memory": "ask for less with resources.memory, add nodes, or wait until others free theirs",
    "ephemeral-storage": "ask for less with resources.ephemeral_storage, or add nodes with larger disks",
    "pods": "add nodes: these run as many pods as they may",
}


def _image(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    waiting = container_status(pod).get("state", {}).get("waiting", {})
    reason = waiting.get("reason", "")
    image = pod["spec"]["containers"][0]["image"]
    if reason == "InvalidImageName":
        return Trouble(
            f"{image} is no valid name of an image", "correct image.ref: registry/repository@sha256:... or :tag"
        )
    if reason not in ("ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "RegistryUnavailable"):
        return None
    # While the kubelet backs off, only the events still hold the registry's own words.
    said = [
        str(event["message"])
        for event in events
        if event.get("reason") == "Failed" and "pull" in event.get("message", "")
    ]
    detailed = [text for text in said if "Back-off" not in text and not text.startswith("Error: ")]
    message = (detailed or [str(waiting.get("message", ""))])[-1]
    if any(word in message for word in ("not found", "manifest unknown", "does not exist")):
        why, remedy = "there is no such image", "push it, or correct image.ref, then `orch delete` and submit again"
    elif any(word in message for word in ("unauthorized", "denied", "forbidden", "401", "403", "no basic auth")):
        why, remedy = (
            "the registry refuses the node",
            "let the nodes read it, or name a pull secret in image.pull_secrets",
        )
    elif reason == "ErrImageNeverPull":
        why, remedy = "the node does not have it and may not pull it", "change image.pull_policy"
    else:
        why, remedy = _last_words_of(message), "check image.ref, and that the nodes reach the registry"
    return Trouble(f"the node cannot pull the image {image}: {why}", remedy)


def _last_words_of(message: str) -> str:
    return message.rsplit(": ", 2)[-1].strip() or "no reason given"


def _cannot_start(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    state = container_status(pod).get("state", {})
    waiting, ended = state.get("waiting", {}), state.get("terminated", {})
    message = str(waiting.get("message") or ended.get("message") or "")
    if waiting.get("reason") == "CreateContainerConfigError":
        if match := re.search(r"(secret|configmap) \"([^\"]+)\" not found", message):
            what = {"secret": "Secret", "configmap": "ConfigMap"}[match[1]]
            return Trouble(
                f"{what} {match[2]} does not exist", f"create it (kubectl create {match[1]} ...): the pod then starts"
            )
        if match := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) \S+?/(\S+)", message):
            return Trouble(
                f"{match[2]} {match[3]} has no key {match[1]}", "add the key, or correct secrets: in the job file"
            )
        return Trouble(f"the container's settings do not fit: {message}", "correct the job file and submit again")
    if waiting.get("reason") in ("CreateContainerError", "RunContainerError") or ended.get("reason") in (
        "StartError",
        "ContainerCannotRun",
    ):
        return Trouble(
            f"the container cannot start: {_after(message, 'unable to start container process: ')}",
            "the image must be built from the project's Dockerfile, or FROM an image that was",
        )
    return None


def _volume(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    status = container_status(pod)
    creating = status.get("state", {}).get("waiting", {}).get("reason") in ("ContainerCreating", "PodInitializing")
    failed = [
        event
        for event in events
        if event.get("reason") in ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
        # The kubelet has not heard of the object yet; a moment later it has.
        and "failed to sync" not in event.get("message", "")
    ]
    if not creating or not failed:
        return None
    message = str(failed[-1].get("message", ""))
    if match := re.search(r"(secret|configmap|persistentvolumeclaim) \"([^\"]+)\" not found", message):
        return Trouble(f"{match[1]} {match[2]} does not exist", "create it: the pod then starts")
    return Trouble(
        f"the pod's surroundings cannot be set up: {message}",
        f"kubectl describe pod {pod['metadata']['name']} says more",
    )


def _ended_badly(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    status = container_status(pod)
    ended = status.get("state", {}).get("terminated", {})
    code = ended.get("exitCode", 0)
    limit = pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory")
    if ended.get("reason") == "OOMKilled":
        return Trouble(
            f"out of memory: Linux killed it at its limit of {limit or 'the node'}",
            "raise resources.memory, or make train.global_batch_size smaller",
        )
    if not code or code == 143 or condition(pod, "DisruptionTarget"):
        return None
    message = str(ended.get("message", "")).strip()
    if "No module named trainer" in message or "No module named 'trainer'" in message:
        return Trouble(
            "the image does not hold the package trainer",
            "the image must be built from the project's Dockerfile, or FROM an image that was",
        )
    if message.startswith("{"):
        return None  # the agent's own last words: status.py reads them
    if "configuration in ORCH_CONFIG cannot be read" in message:
        return Trouble(
            "the trainer in the image does not understand the job's configuration: it is of another version than orch",
            "build the image from the version of the project that `orch --version` tells",
        )
    lines = message.splitlines() or [title_of(code)]
    last = [line for line in lines if line.startswith("error: ")][-1:] or lines[-1:]
    return Trouble(
        f"ended with exit code {code}: {last[0]}",
        f"`orch logs {pod['metadata'].get('labels', {}).get('app.kubernetes.io/instance', '')}` shows more",
    )


def _after(text: str, mark: str) -> str:
    return text.split(mark, 1)[1] if mark in text else text


def _time_of(event: Manifest) -> str:
    """RFC 3339 in UTC sorts as text."""
    return str(
        event.get("lastTimestamp") or event.get("eventTime") or event.get("metadata", {}).get("creationTimestamp") or ""
    )
