"""The objects of one view (a kind and a selector) as far as they are known: a list, then changes. Pure: watch.py does the I/O.

What a list and a watch of the API server say goes in, and each object is kept once, trimmed to what somebody reads.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.kube.objects import Manifest


@dataclass(frozen=True)
class Change:
    """One line of a watch. A BOOKMARK's item holds nothing but the resource version to go on from."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    item: Manifest


@dataclass
class Known:
    """The objects of a view, by UID, and from where a watch goes on."""

    keep: Callable[[Manifest], bool] = lambda _item: True
    """Of what the server sends, what is of interest; the rest is not stored."""
    most: int | None = None
    """So many at most, the newest by their last change: for Events, of which there is no end."""
    version: str = ""
    """The resource version of the newest thing seen; empty when a list is needed."""
    items: dict[str, Manifest] = field(default_factory=dict)
    """UID -> object, in the order of their last change."""

    def replace(self, items: Iterable[Manifest], version: str) -> bool:
        """A list: what is not in it is gone. Whether anything is other than before."""
        before = {uid: _version_of(item) for uid, item in self.items.items()}
        self.items = {item["metadata"]["uid"]: item for item in items if self.keep(item)}
        self.version = version
        self._bound()
        return before != {uid: _version_of(item) for uid, item in self.items.items()}

    def apply(self, change: Change) -> bool:
        """A change: whether any object is other than before."""
        self.version = _version_of(change.item) or self.version
        if change.type == "BOOKMARK":
            return False
        before = self.items.pop(change.item["metadata"]["uid"], None)
        if change.type == "DELETED":
            return before is not None
        if not self.keep(change.item):
            return before is not None
        self.items[change.item["metadata"]["uid"]] = change.item
        self._bound()
        return True

    def too_old(self) -> None:
        """The server does not know our version any more (410): the next thing is a list. What is known stays until then."""
        self.version = ""

    def _bound(self) -> None:
        while self.most is not None and len(self.items) > self.most:
            del self.items[next(iter(self.items))]


def trim(item: Manifest) -> Manifest:
    """The object without what nobody here reads, so that a thousand of them stay small. Of `get` one has it whole."""
    metadata = {key: value for key, value in item.get("metadata", {}).items() if key not in _METADATA}
    annotations = metadata.get("annotations")
    if annotations and _LAST_APPLIED in annotations:
        metadata["annotations"] = {key: value for key, value in annotations.items() if key != _LAST_APPLIED}
    trimmed = item | {"metadata": metadata}
    if item.get("kind") == "Pod" and "spec" in item:
        spec = {key: value for key, value in item["spec"].items() if key not in _POD_SPEC}
        spec["containers"] = [
            {key: value for key, value in container.items() if key in _CONTAINER}
            for container in item["spec"].get("containers") or []
        ]
        trimmed["spec"] = spec
    return trimmed


_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_METADATA = {"managedFields", "generateName", "selfLink"}
_POD_SPEC = {"volumes", "tolerations", "initContainers", "affinity", "securityContext", "readinessGates"}
_CONTAINER = {"name", "image", "resources"}


def _version_of(item: Manifest) -> str:
    return str(item["metadata"].get("resourceVersion", ""))
