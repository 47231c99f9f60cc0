"""The kinds of capacity that GKE offers -> what the pods, and the queue, must be told. Pure.

Labels and taints are those of GKE's documentation (Spot VMs, flex-start, consuming reservations) and of its autoscaler, which
is open source (cloudprovider/gke/labels).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

CapacityName = Literal["on-demand", "spot", "flex-start", "reservation"]

FLEX_START_MAX_S = 7 * 24 * 3600.0
"""A VM of flex-start lives seven days at most."""
FLEX_START_TPUS = ("v5litepod", "v5p", "v6e")
"""The generations that flex-start has."""
MAX_RUN_DURATION = "provreq.kueue.x-k8s.io/maxRunDurationSeconds"
"""The annotation from which Kueue takes how long queued provisioning is to keep the VMs."""

_NOTHING: Mapping[str, str] = MappingProxyType({})
_RESERVATION = re.compile(
    r"(?:projects/(?P<project>[a-z][a-z0-9:.-]{4,61}[a-z0-9])/reservations/)?"
    r"(?P<name>[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?)"
    r"(?:/reservationBlocks/(?P<block>[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?))?"
)


@dataclass(frozen=True)
class Capacity:
    """What a kind of capacity asks of a job."""

    node_selector: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    tolerations: tuple[Mapping[str, str], ...] = ()
    annotations: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """Of the Job or JobSet, for Kueue."""


def reservation_labels(reservation: str) -> dict[str, str] | None:
    """The labels of a reservation's nodes: NAME, or projects/PROJECT/reservations/NAME for a shared one, either with
    /reservationBlocks/BLOCK. None where the text is neither."""
    match = _RESERVATION.fullmatch(reservation)
    if match is None:
        return None
    labels = {"cloud.google.com/reservation-name": match["name"], "cloud.google.com/reservation-affinity": "specific"}
    if match["project"]:
        labels["cloud.google.com/reservation-project"] = match["project"]
    if match["block"]:
        labels["cloud.google.com/reservation-blocks"] = match["block"]
    return labels


def capacity_of(name: CapacityName, *, reservation: str | None, queued: bool, max_runtime_s: float | None) -> Capacity:
    """What a job of this capacity is given.

    Args:
        name: as resources.capacity has it.
        reservation: as resources.reservation has it; it has been validated.
        queued: whether the job goes through a queue of Kueue.
        max_runtime_s: the limit of the job's running time, where it has one.
    """
    if name == "spot":
        return Capacity({"cloud.google.com/gke-spot": "true"}, (_taint("cloud.google.com/gke-spot"),))
    if name == "flex-start":
        # With queued provisioning Kueue asks for all nodes at once, and other pods are kept off them by a taint.
        tolerations = (
            _taint("cloud.google.com/gke-flex-start"),
            *((_taint("cloud.google.com/gke-queued"),) if queued else ()),
        )
        limited = queued and max_runtime_s is not None
        annotations = {MAX_RUN_DURATION: str(round(max_runtime_s or 0))} if limited else {}
        return Capacity({"cloud.google.com/gke-flex-start": "true"}, tolerations, annotations)
    if name == "reservation":
        return Capacity(reservation_labels(reservation or "") or {})
    return Capacity()


def _taint(key: str) -> dict[str, str]:
    return {"key": key, "operator": "Equal", "value": "true", "effect": "NoSchedule"}
