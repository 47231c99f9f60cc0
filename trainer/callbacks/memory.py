"""What the callbacks of a job remember: their attributes as parts of a checkpoint, and back."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.callbacks.stock import Adapter
from trainer.callbacks.values import Decoder, Encoder, type_name

log = logging.getLogger(__name__)

Stored = dict[str, Any]
"""Of one callback: its type, its attributes, and what its adapter knows of files; all of it as an Encoder writes it."""


Told = tuple[dict[str, Any], Decoder]
"""The document of a checkpoint's blobs, and what reads the values in it."""
_NAME = "callbacks"


class Memory:
    """Made when the callbacks are as their constructors made them: what they were is left out while it stays so."""

    def __init__(self, adapters: Sequence[Adapter], elsewhere: Callable[[], Iterable[Any]]) -> None:
        """`elsewhere` gives the variables that a checkpoint holds anyway."""
        self._adapters, self._elsewhere = adapters, elsewhere
        self._names = _names([adapter.callback for adapter in adapters])
        self._told: set[str] = set()
        encoder = Encoder(elsewhere())
        self._unchanged = self._texts(encoder, self._attributes(encoder))
        self._constructed = encoder.originals

    def learn(self) -> dict[str, str]:
        """See what on_train_begin made, as each start does. Types by name of what no checkpoint can keep."""
        encoder = self.encoder()
        now = self._texts(encoder, self._attributes(encoder))
        self._unchanged = [
            {name: text for name, text in before.items() if after.get(name) == text}
            for before, after in zip(self._unchanged, now, strict=True)
        ]
        # Digests are the constructors' alone: an array may have been given back already.
        self._constructed |= {name: value for name, value in encoder.originals.items() if not isinstance(value, bytes)}
        return encoder.lost

    def encoder(self) -> Encoder:
        """For a state of now."""
        return Encoder(self._elsewhere(), self._constructed)

    def stored(self, encoder: Encoder) -> list[Stored]:
        """What a checkpoint must hold of each callback."""
        attributes = self._attributes(encoder)
        texts = self._texts(encoder, attributes)
        return [
            {
                "type": type_name(adapter.callback),
                # Without what has been as the constructor made it all the time: there the task's word counts.
                "attributes": {
                    name: node
                    for name, node in own.items()
                    if node != {} and (name not in now or before.get(name) != now[name])
                },
                "files": encoder.encode(adapter.files(), "files"),
            }
            for adapter, own, now, before in zip(self._adapters, attributes, texts, self._unchanged, strict=True)
        ]

    def matched(self, stored: Sequence[Stored]) -> Iterator[tuple[Adapter, Stored | None]]:
        """Each callback, and what was stored of the one in its place among those of its type."""
        left = list(stored)
        for adapter in self._adapters:
            found = next((one for one in left if one["type"] == type_name(adapter.callback)), None)
            if found is not None:
                left.remove(found)
            yield adapter, found

    def put_back(self, stored: Sequence[Stored], decoder: Decoder) -> None:
        """Give the callbacks their attributes again."""
        for adapter, found in self.matched(stored):
            if found is not None:
                decoder.attributes(adapter.callback, found["attributes"])

    @contextlib.contextmanager
    def beginning(self, stored: Sequence[Stored], decoder: Decoder, *, tell: bool) -> Iterator[None]:
        """Around on_train_begin: callbacks and their files are as they were `stored`, and what is lost is said with `tell`."""
        self.put_back(stored, decoder)
        for adapter, found in self.matched(stored):
            adapter.start(decoder.decode(found["files"]) if found else None)
        yield
        lost = self.learn()
        if tell:
            self.warn(lost)
        # Once more: on_train_begin makes many of them forget. Before it, since some look at what they remember.
        self.put_back(stored, decoder)
        for adapter in self._adapters:
            adapter.begun()

    def blobs(self, about: Callable[[Encoder], dict[str, Any]] = lambda encoder: {}) -> dict[str, np.ndarray]:
        """What a checkpoint must hold, by name: JSON as uint8, and the arrays that it speaks of. `about` gives what it is to
        hold beside the callbacks."""
        encoder = self.encoder()
        document = about(encoder) | {"callbacks": self.stored(encoder)}
        self.warn(encoder.lost)
        text = np.frombuffer(json.dumps(document).encode(), np.uint8)
        return {_NAME: text} | {f"{_NAME}/{index}": array for index, array in enumerate(encoder.arrays)}

    def warn(self, lost: Mapping[str, str]) -> None:
        """Tell what no checkpoint can keep, each once."""
        new = {name: kind for name, kind in lost.items() if name not in self._told}
        self._told |= new.keys()
        if new:
            log.warning(
                "callbacks hold what no checkpoint can keep; after a restart it is as on_train_begin leaves it: %s",
                ", ".join(f"{name} ({kind})" for name, kind in new.items()),
            )

    def _attributes(self, encoder: Encoder) -> list[dict[str, Any]]:
        return [
            encoder.attributes(adapter.callback, name, adapter.passing)
            for adapter, name in zip(self._adapters, self._names, strict=True)
        ]

    def _texts(self, encoder: Encoder, attributes: list[dict[str, Any]]) -> list[dict[str, str]]:
        """What can be compared from one state to the next: attributes without arrays."""
        arrays = tuple(encoder.with_arrays)
        return [
            {
                key: json.dumps(node)
                for key, node in own.items()
                if not any(array.startswith(f"{name}.{key}") for array in arrays)
            }
            for name, own in zip(self._names, attributes, strict=True)
        ]


def told_of(blobs: Mapping[str, np.ndarray]) -> Told | None:
    """What `Memory.blobs` wrote; None of a checkpoint that knows of no callbacks."""
    if _NAME not in blobs:
        return None
    count = sum(name.startswith(f"{_NAME}/") for name in blobs)
    return json.loads(blobs[_NAME].tobytes()), Decoder([blobs[f"{_NAME}/{index}"] for index in range(count)])


def _names(callbacks: list[Any]) -> list[str]:
    """For a person: the types, numbered where there are several of one."""
    types = [type(callback).__name__ for callback in callbacks]
    return [
        f"{name} {types[: index + 1].count(name)}" if types.count(name) > 1 else name
        for index, name in enumerate(types)
    ]
