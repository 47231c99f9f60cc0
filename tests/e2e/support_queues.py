"""A queue of Kueue for one test: small, with names of its own, and gone afterwards."""

import contextlib
from collections.abc import Iterator
from typing import Any

from kubernetes import client
from support_cluster import Room

QUEUE = "small"
_GROUP = "kueue.x-k8s.io"
_VERSION = "v1beta2"


@contextlib.contextmanager
def small_queue(room: Room, *, cpu: int, memory: str, priorities: dict[str, int]) -> Iterator[dict[str, str]]:
    """The LocalQueue QUEUE with so much in all, and priorities.

    Yields:
        What a job file calls each priority: classes are the cluster's, so each is named for the room.
    """
    api, name = client.CustomObjectsApi(), room.namespace
    flavors = [
        {
            "name": name,
            "resources": [{"name": "cpu", "nominalQuota": cpu}, {"name": "memory", "nominalQuota": memory}],
        }
    ]
    spec = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": room.namespace}},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [{"coveredResources": ["cpu", "memory"], "flavors": flavors}],
    }
    classes = {word: f"{name}-{word}" for word in priorities}
    objects: list[tuple[str, dict[str, Any]]] = [
        ("resourceflavors", {"kind": "ResourceFlavor", "metadata": {"name": name}}),
        ("clusterqueues", {"kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec}),
        *(
            (
                "workloadpriorityclasses",
                {"kind": "WorkloadPriorityClass", "metadata": {"name": classes[word]}, "value": value},
            )
            for word, value in priorities.items()
        ),
    ]
    with contextlib.ExitStack() as stack:
        for plural, item in objects:
            api.create_cluster_custom_object(_GROUP, _VERSION, plural, {"apiVersion": f"{_GROUP}/{_VERSION}"} | item)
            stack.callback(api.delete_cluster_custom_object, _GROUP, _VERSION, plural, item["metadata"]["name"])
        local = {
            "apiVersion": f"{_GROUP}/{_VERSION}",
            "kind": "LocalQueue",
            "metadata": {"name": QUEUE},
            "spec": {"clusterQueue": name},
        }
        api.create_namespaced_custom_object(_GROUP, _VERSION, room.namespace, "localqueues", local)
        stack.callback(api.delete_namespaced_custom_object, _GROUP, _VERSION, room.namespace, "localqueues", QUEUE)
        yield classes


def reserved(room: Room) -> int:
    """How many jobs hold quota of the room's queue."""
    queue = client.CustomObjectsApi().get_cluster_custom_object(_GROUP, _VERSION, "clusterqueues", room.namespace)
    return int(queue.get("status", {}).get("reservingWorkloads", 0))
