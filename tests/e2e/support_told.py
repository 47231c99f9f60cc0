"""How long after the cluster itself knew of a trouble `orch status` named it. Told at the end of a run, never asserted.

The cluster's sign is the time stamp of an event or a condition, which counts whole seconds; where several workers are meant, the
last of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kubernetes import client
from support_cluster import Room

TOLD = "told"
"""The name under which a test keeps its line of the table."""
Sign = Callable[[Room], datetime]


@dataclass(frozen=True)
class Told:
    """One line of the table."""

    what: str
    sign: str
    seconds: float


@dataclass(frozen=True)
class Clock:
    """Keeps lines with the test that runs."""

    room: Room
    record_property: Callable[[str, object], None]

    def told(self, what: str, sign: str, at: Sign) -> None:
        """`orch status` has just named it."""
        now = datetime.now(UTC)
        self.record_property(TOLD, Told(what, sign, (now - at(self.room)).total_seconds()))


def event(reason: str) -> Sign:
    """The first event of that reason, of each object that has one."""

    def at(room: Room) -> datetime:
        first: dict[str, datetime] = {}
        for item in room.api.list_namespaced_event(room.namespace).items:
            time = item.event_time or item.first_timestamp
            if item.reason == reason and time is not None:
                uid = item.involved_object.uid
                first[uid] = min(first.get(uid, time), time)
        return max(first.values())

    return at


def unscheduled(room: Room) -> datetime:
    """The condition PodScheduled of the pods."""
    pods = room.api.list_namespaced_pod(room.namespace).items
    return max(_since(item, "PodScheduled", "False") for item in pods)


def silent(node: str) -> Sign:
    """The condition Ready of a Node."""
    return lambda room: _since(room.api.read_node(node), "Ready", "Unknown")


def not_admitted(room: Room) -> datetime:
    """The condition QuotaReserved of Kueue's Workload."""
    api = client.CustomObjectsApi()
    (workload,) = api.list_namespaced_custom_object("kueue.x-k8s.io", "v1beta2", room.namespace, "workloads")["items"]
    (condition,) = [item for item in workload["status"]["conditions"] if item["type"] == "QuotaReserved"]
    return datetime.fromisoformat(condition["lastTransitionTime"])


def _since(item: Any, kind: str, status: str) -> datetime:
    (condition,) = [item for item in item.status.conditions if (item.type, item.status) == (kind, status)]
    time: datetime = condition.last_transition_time
    return time


def told_table(lines: Sequence[Told]) -> str:
    """The lines as a table in Markdown."""
    rows = [f"| {line.what} | {line.sign} | {line.seconds:.1f} s |" for line in lines]
    return "\n".join(["| what | the cluster's own sign | sign -> status |", "|---|---|---|", *rows])
