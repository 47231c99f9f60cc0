"""What a trouble is, and how Kubernetes' objects are read: what all modules of this package need."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from orchestrator.carrier import GROUP_LABEL, GROUP_WORKERS
from trainer.agent.last_words import LastWords

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


def gathered(troubles: Iterable[Trouble]) -> list[Trouble]:
    """Troubles of single workers, those with the same cause as one."""
    found: dict[tuple[str, str], list[int]] = {}
    for trouble in troubles:
        found.setdefault((trouble.reason, trouble.remedy), []).extend(trouble.workers)
    return [Trouble(reason, remedy, tuple(sorted(set(workers)))) for (reason, remedy), workers in found.items()]


def index_of(pod: Manifest) -> int:
    """The worker that a pod is: its completion index, counted on from those of the groups before its own in a JobSet; -1 for
    a pod that has none."""
    labels = pod["metadata"].get("labels") or {}
    annotations = pod["metadata"].get("annotations") or {}
    given = (labels | annotations).get("batch.kubernetes.io/job-completion-index")
    if given is None:
        return -1
    return int(labels.get(GROUP_LABEL, 0)) * int(annotations.get(GROUP_WORKERS, 0)) + int(given)


def job_of(pod: Manifest) -> str:
    """The name of the job that a pod belongs to."""
    return str((pod["metadata"].get("labels") or {}).get("app.kubernetes.io/instance", "JOB"))


def container_status(pod: Manifest, name: str = "trainer") -> Manifest:
    """The status of a pod's container; empty before it has one."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status["name"] == name:
            return dict(status)
    return {}


def running(pod: Manifest) -> bool:
    """Whether its container runs, as far as the API server knows."""
    return "running" in container_status(pod).get("state", {})


def condition(item: Manifest, kind: str) -> Manifest:
    """A condition of an object that is True; empty when it is not."""
    for entry in item.get("status", {}).get("conditions") or []:
        if entry["type"] == kind and entry["status"] == "True":
            return dict(entry)
    return {}


def last_words(pod: Manifest) -> LastWords | None:
    """A pod's termination message, where its agent wrote one."""
    message = str(container_status(pod).get("state", {}).get("terminated", {}).get("message") or "")
    if not message.startswith("{"):
        return None
    try:
        return LastWords.model_validate_json(message)
    except ValidationError:
        return None


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


def clock(stamp: str) -> str:
    """`2026-01-01T12:30:05Z` as `12:30:05 UTC`: what a person compares with a clock."""
    return f"{stamp[11:19]} UTC" if len(stamp) >= 19 else stamp or "some time"


def size(count: float) -> str:
    """Bytes for a person: `1.5 GiB`, `300 MiB`."""
    gib = count / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{count / 2**20:.0f} MiB"


def after(text: str, mark: str) -> str:
    """What stands behind a mark; all of it where the mark is not there."""
    return text.split(mark, 1)[1] if mark in text else text
