"""Scheduling onto nodes with accelerators: labels, taint and resource are patched into a node that has no such hardware.

That shows that the pods go where they should, and no more: what runs there finds no TPU and no GPU.
"""

from typing import Any

import pytest
from support_cluster import Room
from support_hardware import node_with

from orchestrator.jobfile.accelerators import parse

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
