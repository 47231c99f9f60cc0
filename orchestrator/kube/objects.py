"""What the API server's objects say: one reader for each fact, so that every command sees the same. Pure.

Whether a pod's node is silent stands in silent_node.py, what a JobSet has in common with a Job in carrier.py.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from orchestrator.kube.names import (
    COMPLETION_INDEX,
    CONTAINER,
    GROUP_LABEL,
    GROUP_WORKERS,
    JOB_LABEL,
    MANAGED_BY_LABEL,
    RUN_DIRECTORY,
)

if TYPE_CHECKING:
    from trainer.wire.termination import LastWords

Manifest = dict[str, Any]
"""An object of Kubernetes as its API has it: YAML or JSON, nothing added."""


# --- any object


def labels(item: Manifest) -> dict[str, str]:
    """The labels of an object."""
    return item["metadata"].get("labels") or {}


def annotations(item: Manifest) -> dict[str, str]:
    """The annotations of an object."""
    return item["metadata"].get("annotations") or {}


def is_ours(item: Manifest) -> bool:
    """Whether orch made an object."""
    return labels(item).get(MANAGED_BY_LABEL) == "orch"


def conditions(item: Manifest) -> list[Manifest]:
    """All conditions of an object, whatever their status."""
    return item.get("status", {}).get("conditions") or []


def condition(item: Manifest, kind: str, status: str = "") -> Manifest:
    """A condition of an object, whatever its status or only where it has this one (True, False, Unknown); else empty."""
    for entry in conditions(item):
        if entry["type"] == kind and status in ("", entry["status"]):
            return dict(entry)
    return {}


# --- a Job or a JobSet


def is_over(carrier: Manifest) -> bool:
    """Whether a Job or JobSet has ended, well or badly."""
    return any(condition(carrier, kind, "True") for kind in ("Complete", "Completed", "Failed"))


def failure(carrier: Manifest) -> Manifest:
    """The condition by which a Job or JobSet has failed, or will have once its pods have ended; else empty."""
    return condition(carrier, "Failed", "True") or condition(carrier, "FailureTarget", "True")


def workers_of(job: Manifest) -> int:
    """How many workers a Job wants, or a JobSet in the shape of one; suspended or not."""
    return int(job["spec"].get("parallelism", 1))


def has_pods(job: Manifest) -> bool:
    """Whether pods of a Job wait or run, as far as its controller has counted them."""
    return bool(job.get("status", {}).get("active"))


def run_directory_of(carrier: Manifest) -> str:
    """The run directory of a Job or JobSet as it is on the cluster; empty where nothing says it."""
    return str(annotations(carrier).get(RUN_DIRECTORY, ""))


# --- a pod


def pod_is_over(pod: Manifest) -> bool:
    """Whether all containers of a pod have ended, as far as the API server knows."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def index_of(pod: Manifest) -> int:
    """The worker that a pod is: its completion index, counted on from those of the groups before its own in a JobSet; -1 for
    a pod that has none."""
    given = (labels(pod) | annotations(pod)).get(COMPLETION_INDEX)
    if given is None:
        return -1
    return int(labels(pod).get(GROUP_LABEL, 0)) * int(annotations(pod).get(GROUP_WORKERS, 0)) + int(given)


def job_of(pod: Manifest) -> str:
    """The name of the job that a pod belongs to."""
    return str(labels(pod).get(JOB_LABEL, "JOB"))


def newest_pods(pods: Iterable[Manifest]) -> dict[int, Manifest]:
    """Worker -> the pod that counts: one that is not being ended before one that is, then the newest."""

    def rank(pod: Manifest) -> tuple[bool, str]:
        return not pod["metadata"].get("deletionTimestamp"), pod["metadata"].get("creationTimestamp", "")

    chosen: dict[int, Manifest] = {}
    for pod in pods:
        index = index_of(pod)
        if index >= 0 and (index not in chosen or rank(pod) > rank(chosen[index])):
            chosen[index] = pod
    return dict(sorted(chosen.items()))


def container_status(pod: Manifest, name: str = CONTAINER) -> Manifest:
    """The status of a pod's container; empty before it has one."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status["name"] == name:
            return dict(status)
    return {}


def running(pod: Manifest) -> bool:
    """Whether its container runs, as far as the API server knows."""
    return "running" in container_status(pod).get("state", {})


def last_words(pod: Manifest) -> "LastWords | None":
    """A pod's termination message, where its agent wrote one."""
    message = str(container_status(pod).get("state", {}).get("terminated", {}).get("message") or "")
    if not message.startswith("{"):
        return None
    from trainer.wire.termination import LastWords  # as costly as all else in this room; a render needs none

    try:
        return LastWords.model_validate_json(message)
    except ValueError:
        return None


# --- others


def time_of(event: Manifest) -> str:
    """When an event happened last. RFC 3339 in UTC sorts as text."""
    series = event.get("series") or {}
    return str(
        event.get("lastTimestamp")
        or series.get("lastObservedTime")
        or event.get("eventTime")
        or event.get("metadata", {}).get("creationTimestamp")
        or ""
    )


def takes_pods(node: Manifest) -> bool:
    """Whether a node takes pods: Ready, and not cordoned."""
    return bool(condition(node, "Ready", "True")) and not (node.get("spec") or {}).get("unschedulable")


def allocatable(node: Manifest) -> dict[str, str]:
    """Resource -> how much of it a node has for pods, as the API writes it."""
    return (node.get("status") or {}).get("allocatable") or {}


def access_modes(claim: Manifest) -> list[str]:
    """What a PersistentVolumeClaim may be used for. What a bound one really got may be more than it asked for."""
    return claim.get("status", {}).get("accessModes") or claim["spec"].get("accessModes") or []


def answers(endpoint: Manifest) -> bool:
    """Whether an endpoint of an EndpointSlice is ready. A condition that is not told counts as ready, as Kubernetes has it."""
    return (endpoint.get("conditions") or {}).get("ready") is not False


_QUANTITY = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:([eE][+-]?[0-9]+)|([A-Za-z]+))?")
_FACTORS = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "k": Decimal(1000)} | {
    f"{letter}{binary}": Decimal(base) ** power
    for power, letter in enumerate("KMGTPE", 1)
    for binary, base in (("i", 1024), ("", 1000))
    if letter + binary != "K"
}


def quantity(value: object) -> Decimal:
    """A quantity as a number: 1500m is 1.5, 2Gi is 2 * 2**30, 1e3 is 1000.

    Raises:
        ValueError: it is none.
    """
    text = str(value).strip()
    match = _QUANTITY.fullmatch(text)
    if match is None or (match[3] and match[3] not in _FACTORS):
        raise ValueError(f'"{text}" is no quantity of Kubernetes')
    return Decimal(match[1] + (match[2] or "")) * _FACTORS.get(match[3] or "", Decimal(1))
