"""Nodes that look as if they had an accelerator: GKE's labels, its taint and the resource, patched in."""

import contextlib
from collections.abc import Iterator
from typing import Any

from support_cluster import Room
from support_cluster_faults import takes_pods

from orchestrator.jobfile.accelerators import Accelerator


@contextlib.contextmanager
def node_with(room: Room, accelerator: Accelerator) -> Iterator[str]:
    """One such node; without it again afterwards."""
    with nodes_with(room, accelerator, 1) as (name,):
        yield name


@contextlib.contextmanager
def nodes_with(
    room: Room, accelerator: Accelerator, count: int, labels: dict[str, str] | None = None
) -> Iterator[list[str]]:
    """So many of them, with more labels; without all of it again afterwards."""
    names = [item.metadata.name for item in room.api.list_node().items if takes_pods(item)][-count:]
    given = dict(accelerator.node_selector) | (labels or {})
    taint = {"key": accelerator.resource, "value": "present", "effect": "NoSchedule"}
    amount = str(accelerator.chips_per_host)
    try:
        for name in names:
            _patch(room, name, given, [taint], {accelerator.resource: amount})
        for name in names:
            room.wait_for(
                f"{accelerator.resource} of {name}",
                lambda name=name: (  # type: ignore[misc]
                    (room.api.read_node(name).status.allocatable or {}).get(accelerator.resource) == amount
                ),
            )
        yield names
    finally:
        for name in names:
            _patch(room, name, dict.fromkeys(given), [], {accelerator.resource: None})


def _patch(room: Room, name: str, labels: dict[str, Any], taints: list[Any], resources: dict[str, Any]) -> None:
    room.api.patch_node(name, {"metadata": {"labels": labels}})
    others = [taint for taint in room.api.read_node(name).spec.taints or [] if taint.key not in resources]
    room.api.patch_node(name, [{"op": "add", "path": "/spec/taints", "value": others + taints}])
    room.api.patch_node_status(name, {"status": {"capacity": resources, "allocatable": resources}})
