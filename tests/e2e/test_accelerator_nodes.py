"""Scheduling onto nodes with accelerators: labels, taint and resource are patched into a node that has no such hardware.

That shows that the pods go where they should, and no more: what runs there finds no TPU and no GPU.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from support_cluster import Room
from support_cluster_faults import takes_pods

from orchestrator.accelerators import Accelerator, parse

pytestmark = pytest.mark.e2e

SMALL = {"cpu": 0.1, "memory": "256Mi"}
CHOICES = {"single": "v5litepod-8", "gpu": "nvidia-l4:2"}


@pytest.mark.parametrize("name", CHOICES)
def test_a_worker_goes_to_the_node_that_has_its_accelerator(room: Room, name: str) -> None:
    accelerator = CHOICES[name]
    with node_with(room, parse(accelerator)) as node:
        room.orch("submit", str(room.job_file(name, resources=SMALL | {"accelerator": accelerator})))
        room.wait_for("the pod on a node", lambda: _nodes(room, name) == [node])
        (limits,) = [pod.spec.containers[0].resources.limits for pod in room.pods(name).values()]
        hardware = parse(accelerator)
        assert limits[hardware.resource] == str(hardware.chips_per_host)
        room.orch("delete", name, "--no-wait")


def test_a_slice_of_another_shape_stays_pending_and_says_why(room: Room) -> None:
    with node_with(room, parse("v5litepod-8")):
        job = str(room.job_file("other", resources=SMALL | {"accelerator": "v5litepod-4"}))
        checked = room.orch("check", job)
        assert "cloud.google.com/gke-tpu-topology" in checked.stdout
        room.orch("submit", job)
        status = room.wait_for_status("other", lambda status: "no node for it" in status["reason"], timeout_s=60)
        assert status["state"] == "waiting"
        assert "resources.accelerator" in room.orch("status", "other").stdout
        room.orch("delete", "other")
        assert room.objects() == []


def _nodes(room: Room, name: str) -> list[Any]:
    return [pod.spec.node_name for pod in room.pods(name).values()]


@contextlib.contextmanager
def node_with(room: Room, accelerator: Accelerator) -> Iterator[str]:
    """A node that looks as if it had the accelerator, as GKE labels and taints it; without it again afterwards."""
    node = [item for item in room.api.list_node().items if takes_pods(item)][-1]
    name = node.metadata.name
    taint = {"key": accelerator.resource, "value": "present", "effect": "NoSchedule"}
    amount = str(accelerator.chips_per_host)
    _patch(room, name, dict(accelerator.node_selector), [taint], {accelerator.resource: amount})
    try:
        given = f"{accelerator.resource} of {name}"
        room.wait_for(
            given, lambda: (room.api.read_node(name).status.allocatable or {}).get(accelerator.resource) == amount
        )
        yield name
    finally:
        _patch(room, name, dict.fromkeys(accelerator.node_selector), [], {accelerator.resource: None})


def _patch(room: Room, name: str, labels: dict[str, Any], taints: list[Any], resources: dict[str, Any]) -> None:
    room.api.patch_node(name, {"metadata": {"labels": labels}})
    others = [taint for taint in room.api.read_node(name).spec.taints or [] if taint.key not in resources]
    room.api.patch_node(name, [{"op": "add", "path": "/spec/taints", "value": others + taints}])
    room.api.patch_node_status(name, {"status": {"capacity": resources, "allocatable": resources}})
