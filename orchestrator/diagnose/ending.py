"""A pod that ended badly, was taken away, or is out of reach. Texts of Kubernetes 1.34."""

from orchestrator.diagnose.remedy import MEMORY_REMEDY
from orchestrator.diagnose.trouble import Trouble
from orchestrator.kube.objects import Manifest, condition, container_status, index_of, job_of, last_words, pod_is_over
from orchestrator.kube.silent_node import silent_since
from orchestrator.text import memory_size
from trainer.exit_codes import ExitCode, title_of
from trainer.memory import is_full
from trainer.rundir.attempts import EndRecord
from trainer.wire.termination import UNREAD_CONFIG

_BY_ITSELF = "nothing: Kubernetes replaces the pod, and the job goes on from its last checkpoint, if it has one"


def node_lost(pod: Manifest, node: Manifest | None = None) -> Trouble | None:
    """A node that the control plane does not hear any more, with a pod that nothing replaces until it is known to be gone.

    Args:
        node: the pod's Node, where it was asked for and the user may see it.
    """
    since = silent_since(pod, node)
    if not since:
        return None
    where, job = pod["spec"]["nodeName"], job_of(pod)
    if pod["metadata"].get("deletionTimestamp"):
        return Trouble(
            f"node {where} is silent since {since}, and nothing replaces its pod until it is known to be gone",
            f"bring the node back, or free the place now: orch replace {job} --worker {index_of(pod)} "
            f"(safe here: what the old process may still write does not count); "
            f"if the node is gone for good: kubectl delete node {where}",
        )
    return Trouble(
        f"node {where} is silent since {since}",
        f"wait a little, it may come back; else: orch replace {job} --worker {index_of(pod)}",
    )


def disrupted(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    """A pod that the platform takes away, while its replacement is not there yet."""
    disruption = condition(pod, "DisruptionTarget", "True")
    if not disruption or pod.get("status", {}).get("reason") == "Evicted":
        return None
    return _of_disruption(pod, disruption)


def _of_disruption(pod: Manifest, disruption: Manifest) -> Trouble | None:
    node = pod["spec"].get("nodeName", "?")
    message = str(disruption.get("message", ""))
    match disruption.get("reason"):
        case "PreemptionByScheduler":
            return Trouble(
                f"preempted: a pod of higher priority needed its place on node {node}",
                "nothing: it starts again when there is room; scheduling.priority decides who gives way",
            )
        case "TerminationByKubelet" if "shutdown" in message or "shutdown" in str(pod.get("status", {}).get("message")):
            spot = " (spot capacity)" if _is_spot(pod) else ""
            return Trouble(f"preempted: node {node} was shut down{spot}", _BY_ITSELF)
        case "TerminationByKubelet":
            return Trouble(f"the kubelet of node {node} ended the pod: {message}", _BY_ITSELF)
        case "EvictionByEvictionAPI":
            return Trouble(f"evicted from node {node}: it is being drained, or somebody asked for it", _BY_ITSELF)
        case "DeletionByTaintManager" if not pod_is_over(pod):  # its Node was asked, and answers: node_lost comes first
            return Trouble(f"taken off node {node}, which has a taint that the pod does not tolerate", _BY_ITSELF)
        case "DeletionByPodGC" | "DeletionByTaintManager":
            return Trouble(f"node {node} is gone, and the pod with it", _BY_ITSELF)
    return None


def _is_spot(pod: Manifest) -> bool:
    selector = pod["spec"].get("nodeSelector") or {}
    return any("spot" in key or "preemptible" in key for key in selector)


def evicted(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    """A pod that its node put out for want of memory or disk."""
    status = pod.get("status", {})
    if status.get("reason") != "Evicted":
        return None
    message = str(status.get("message", "")).strip()
    field = "ephemeral_storage" if "ephemeral" in message or "storage" in message else "memory"
    return Trouble(
        f"the node evicted the pod: {message}",
        f"give resources.{field} what the worker really uses; Kubernetes replaces the pod by itself",
    )


def ended_badly(pod: Manifest, events: list[Manifest]) -> Trouble | None:
    """A container that ended with an error of its own, where no agent was left to say why."""
    ended = container_status(pod).get("state", {}).get("terminated", {})
    code = ended.get("exitCode", 0)
    if (trouble := out_of_memory(pod)) is not None:
        return trouble
    if not code or code == ExitCode.STOPPED or condition(pod, "DisruptionTarget", "True"):
        return None
    message = str(ended.get("message", "")).strip()
    if "No module named trainer" in message or "No module named 'trainer'" in message:
        return Trouble(
            "the image does not hold the package trainer",
            "the image must be built from the project's Dockerfile, or FROM an image that was",
        )
    if message.startswith("{"):
        return None  # the agent's own last words: a status reads them
    if UNREAD_CONFIG in message:
        return Trouble(
            "the trainer in the image does not understand the job's configuration: it is of another version than orch",
            "build the image from the version of the project that `orch --version` tells",
        )
    lines = message.splitlines() or [title_of(code)]
    last = [line for line in lines if line.startswith("error: ")][-1:] or lines[-1:]
    return Trouble(f"ended with exit code {code}: {last[0]}", f"`orch logs {job_of(pod)}` shows more")


def out_of_memory(pod: Manifest) -> Trouble | None:
    """The kernel's OOM kill.

    With cgroup v2 all of the container dies, the agent too (137, OOMKilled), and what it wrote ahead is the last that is
    known. With cgroup v1 the training process dies alone: the agent lives on, and its last words name a code of its own
    though the runtime may still call the container OOMKilled.
    """
    ended = container_status(pod).get("state", {}).get("terminated", {})
    said = last_words(pod)
    by_words = said is not None and (
        said.out_of_memory
        or (said.code == ExitCode.KILLED and is_full(said.memory_peak_bytes, said.memory_limit_bytes))
    )
    if ended.get("reason") != "OOMKilled" and not by_words:
        return None
    limit = limit_of(pod["spec"])
    peak = (
        f"; the training process had {memory_size(said.memory_peak_bytes)}" if said and said.memory_peak_bytes else ""
    )
    step = f" at step {said.step}" if said and said.step else ""
    where = f"its limit of {limit}" if limit else f"the limit of node {pod['spec'].get('nodeName', '?')}"
    return Trouble(f"out of memory{step}: Linux killed it at {where}{peak}", MEMORY_REMEDY)


def ended_by_memory(job: Manifest, end: EndRecord) -> Trouble | None:
    """The same from a job's end record, which comes seconds before its pods tell theirs: the limit, which that does not name."""
    limit = limit_of(job["spec"].get("template", {}).get("spec", {}))
    if not limit or end.cause is None or not end.cause.out_of_memory:
        return None
    return Trouble(f"out of memory: Linux killed the training process at its limit of {limit}", MEMORY_REMEDY)


def limit_of(pod_spec: Manifest) -> str:
    """The memory that a worker may use, as the pod says it; empty where it may use all of its node."""
    container: Manifest = next(iter(pod_spec.get("containers") or []), {})
    return str(container.get("resources", {}).get("limits", {}).get("memory") or "")


def of_earlier(pod: Manifest) -> Trouble:
    """Why a pod ended whose replacement does not run yet; without a reason where that is nothing to speak of."""
    trouble = out_of_memory(pod) or evicted(pod, [])
    disruption = condition(pod, "DisruptionTarget", "True")
    if trouble is None and disruption:
        trouble = _of_disruption(pod, disruption)
    if trouble is None:
        return Trouble("", "", (index_of(pod),))
    return Trouble(f"its last pod: {trouble.reason}", trouble.remedy, (index_of(pod),))
