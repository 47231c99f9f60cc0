"""What happened to a job, in order of time: Kubernetes' events of it, its pods and its place in a queue, and its restarts. Pure.

Kubernetes forgets events after an hour; the restarts come from the coordinator or the run directory and stay.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from orchestrator.kube.carrier import REPLICATED_JOB
from orchestrator.kube.objects import Manifest, time_of
from trainer.rundir.history import Restart, lost_in_words


@dataclass(frozen=True)
class Happening:
    """One thing that happened."""

    time: str
    """RFC 3339, UTC; of something that happened several times, the last."""
    source: str
    """`Pod digits-0-abcde`, `Job digits`, or `training`."""
    reason: str
    """One word: FailedScheduling, Restart."""
    message: str
    count: int = 1
    warning: bool = False
    key: str = ""
    """What makes it the same one when it is seen again."""

    def to_json(self) -> dict[str, Any]:
        """The object of `-o json`."""
        names = ("time", "source", "reason", "message", "count", "warning")
        return {name: getattr(self, name) for name in names}


def concerns(event: Manifest, job: Manifest) -> bool:
    """Whether an event is about the job: about the Job or JobSet, its Jobs, its pods, those gone too, or its Workload."""
    about = event.get("involvedObject") or {}
    kind, name = str(about.get("kind", "")), str(about.get("name", ""))
    own = re.escape(job["metadata"]["name"])
    patterns = {
        "Job": rf"{own}(-{REPLICATED_JOB}-\d+)?",
        "JobSet": own,
        "Pod": rf"{own}(-{REPLICATED_JOB}-\d+)?-\d+-[a-z0-9]{{5}}",
        "Workload": rf"(job|jobset)-{own}-[0-9a-f]{{5}}",
    }
    return kind in patterns and re.fullmatch(patterns[kind], name) is not None


def of_events(events: Iterable[Manifest], job: Manifest) -> list[Happening]:
    """Those about the job, oldest first. Of an older job of the same name none: its events end before this one began."""
    began = str(job["metadata"].get("creationTimestamp", ""))
    found = [
        Happening(
            time=time_of(event)[:19] + "Z",
            source=f"{event['involvedObject'].get('kind', '')} {event['involvedObject'].get('name', '')}",
            reason=str(event.get("reason", "")),
            message=" ".join(str(event.get("message", "")).split()),
            count=int((event.get("series") or {}).get("count") or event.get("count") or 1),
            warning=event.get("type") == "Warning",
            key=str(event["metadata"].get("uid", "")),
        )
        for event in events
        if concerns(event, job) and time_of(event)[:19] >= began[:19]
    ]
    return sorted(found, key=lambda happening: happening.time)


def of_restarts(restarts: Sequence[Restart]) -> list[Happening]:
    """The restarts of training."""
    return [
        Happening(
            time=_stamp(restart.at),
            source="training",
            reason="Restart",
            message=f"attempt {restart.attempt}: {restart.reason}; {lost_in_words(restart)}",
            warning=True,
            key=f"attempt-{restart.attempt}",
        )
        for restart in restarts
    ]


def merged(*parts: Sequence[Happening]) -> list[Happening]:
    """All in order of time."""
    return sorted((happening for part in parts for happening in part), key=lambda happening: happening.time)


def line(happening: Happening) -> str:
    """For a person."""
    times = f" (x{happening.count})" if happening.count > 1 else ""
    return f"{happening.time}  {happening.source}  {happening.reason}: {happening.message}{times}"


def _stamp(at: datetime | None) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at is not None else ""
