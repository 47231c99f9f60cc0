"""Python values as JSON and arrays, and back: what a callback remembers, in a checkpoint. No pickle.

A value goes back into the object that stands in its place, where that is of the same type: a list that two objects share
stays shared, and an object of the user's gets its attributes again. What cannot be kept stays as it is, and is named.
"""

import collections
import hashlib
import queue
import socket
import threading
from collections.abc import Container, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.callbacks.codecs import CODECS, codec_of, importable, imported_object, original, storable
from trainer.task import Task

LARGE_BYTES = 1 << 16
"""Arrays of this size and more are left out while they are as the constructor made them."""
_NUMBERS_MIN = 64
"""Longer lists of numbers are kept as an array."""
_DEPTH_MAX = 20

_READ_ON = (Iterator, threading.Thread, queue.Queue, socket.socket)
"""These are not what they were, though they are the same objects: a file or a generator was read on."""
_LIBRARIES = ("builtins", "keras", "tensorflow", "numpy", "threading", "logging", "re")
_SKIPPED = {"_model", "params"}
"""Attributes of every callback that each start gives anew."""


class Encoder:
    """Encodes values; collects the arrays beside them, and the names of what cannot be kept."""

    def __init__(self, variables: Iterable[Any] = (), constructed: Mapping[str, Any] | None = None) -> None:
        """`variables` are kept elsewhere. `constructed`: the `originals` of an Encoder that saw what the constructors made."""
        self.arrays: list[np.ndarray] = []
        self.with_arrays: set[str] = set()
        """The names of what they belong to."""
        self.lost: dict[str, str] = {}
        """Type by name."""
        self.originals: dict[str, Any] = {}
        """By name: what is not kept, and digests of large arrays."""
        self._elsewhere = {
            id(known) for variable in variables for known in (variable, getattr(variable, "value", None))
        }
        self._constructed = {} if constructed is None else constructed
        self._within: list[int] = []

    def attributes(self, owner: Any, name: str, skipped: Container[str] = ()) -> dict[str, Any]:
        """The attributes of an object, each encoded. `name` is how a person is told of it."""
        kept = {key: value for key, value in vars(owner).items() if key not in _SKIPPED and key not in skipped}
        self._within.append(id(owner))
        try:
            return {key: self.encode(value, f"{name}.{key}") for key, value in kept.items()}
        finally:
            self._within.pop()

    def encode(self, value: Any, name: str) -> Any:
        """`value` as JSON: itself, a list, or an object of one kind and its content. {} stands for what is not kept."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if id(value) in self._within or len(self._within) > _DEPTH_MAX:
            return self._lose(value, name)
        self._within.append(id(value))
        try:
            return self._of_its_kind(value, name)
        finally:
            self._within.pop()

    def _of_its_kind(self, value: Any, name: str) -> Any:
        if isinstance(value, tf.Variable | keras.Variable):
            return (
                {}
                if id(value) in self._elsewhere
                else {"variable": self._store(keras.ops.convert_to_numpy(value), name)}
            )
        if isinstance(value, np.ndarray | np.generic) or _is_eager(value):
            return self._array(value, name)
        if isinstance(value, keras.Layer | keras.Optimizer | keras.Metric):
            own = [self.encode(variable, name) for variable in value.variables]
            return {"variables": own} if any(own) else {}
        if (codec := codec_of(value)) is not None:
            return {codec: self.encode(CODECS[codec].plain(value), name)}
        if isinstance(value, Mapping | Sequence | set | frozenset | collections.deque) and not isinstance(value, str):
            return self._container(value, name)
        if (place := importable(value)) is not None:
            return {"named": place}
        if isinstance(value, keras.callbacks.Callback) or _is_users(value):
            return {"object": self.attributes(value, name), "type": type_name(value)}
        return self._lose(value, name)

    def _array(self, value: Any, name: str) -> Any:
        kind = "tensor" if _is_eager(value) else "scalar" if isinstance(value, np.generic) else "array"
        array = np.asarray(value.numpy() if kind == "tensor" else value)
        if array.nbytes >= LARGE_BYTES and not array.dtype.hasobject:
            digest = hashlib.blake2b(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()
            self.originals[name] = digest
            if self._constructed.get(name) == digest:
                return {}
        stored, dtype = storable(array)
        if stored is None:
            items = [self.encode(item, name) for item in array.reshape(-1).tolist()]
            return {kind: items, "shape": list(array.shape), "dtype": "object"}
        return {kind: self._store(stored, name), "dtype": dtype}

    def _store(self, array: np.ndarray, name: str) -> int:
        self.with_arrays.add(name)
        self.arrays.append(np.array(array, order="C"))  # a copy: the state is that of now
        return len(self.arrays) - 1

    def _container(self, value: Any, name: str) -> Any:
        kind = type_name(value)
        if isinstance(value, Mapping):
            pairs = [
                [self.encode(key, f"{name} (a key)"), self.encode(item, f"{name}[{key!r}]")]
                for key, item in value.items()
            ]
            return {"dict": pairs, "type": kind}
        if isinstance(value, set | frozenset):
            return {"set": [self.encode(item, name) for item in sorted(value, key=repr)], "type": kind}
        if type(value) is list and len(value) >= _NUMBERS_MIN:
            if all(type(item) is float for item in value):
                return {"numbers": self._store(np.array(value, np.float64), name)}
            if all(type(item) is int and abs(item) < 1 << 62 for item in value):
                return {"numbers": self._store(np.array(value, np.int64), name)}
        items = [self.encode(item, f"{name}[{index}]") for index, item in enumerate(value)]
        if type(value) is list:
            return items
        base = next((base.__name__ for base in (tuple, collections.deque) if isinstance(value, base)), "list")
        return {base: items, "type": kind, "maxlen": getattr(value, "maxlen", None)}

    def _lose(self, value: Any, name: str) -> Any:
        """Nothing is lost where it is what the constructor made, and is not read on."""
        self.originals[name] = value
        known = isinstance(value, Task) or self._constructed.get(name) is value
        if not known or isinstance(value, _READ_ON):
            self.lost[name] = type(value).__name__
        return {}


class Decoder:
    """Puts encoded values back."""

    def __init__(self, stored: Sequence[np.ndarray]) -> None:
        """`stored`: the arrays of the Encoder."""
        self._stored = stored

    def attributes(self, owner: Any, encoded: Mapping[str, Any]) -> None:
        """Give an object its attributes again."""
        for key, node in encoded.items():
            if node != {}:
                vars(owner)[key] = self.decode(node, vars(owner).get(key))

    def decode(self, node: Any, existing: Any = None) -> Any:
        """The value. `existing`, what stands in its place now, where it took the state, or where nothing was kept."""
        if isinstance(node, list):
            return _refilled(existing if type(existing) is list else None, list, self._items(node, existing))
        if not isinstance(node, dict) or not node:
            return existing if node == {} else node
        kind, content = next(iter(node.items()))
        if kind in CODECS:
            return CODECS[kind].back(self.decode(content), existing)
        if kind in ("array", "scalar", "tensor"):
            return self._array(kind, node, existing)
        if kind in ("dict", "set", "tuple", "deque", "list"):
            return self._container(kind, node, existing)
        if kind == "numbers":
            return _refilled(existing if type(existing) is list else None, list, self._stored[content].tolist())
        if kind == "named":
            return existing if (value := imported_object(content)) is None else value
        if kind == "variable" and isinstance(existing, tf.Variable | keras.Variable):
            existing.assign(self._stored[content])
        elif kind == "variables" and len(variables := getattr(existing, "variables", ())) == len(content):
            for one, variable in zip(content, variables, strict=True):
                self.decode(one, variable)
        elif kind == "object" and type_name(existing) == node["type"]:
            self.attributes(existing, content)
        return existing

    def _items(self, nodes: Sequence[Any], existing: Any) -> list[Any]:
        before = list(existing) if isinstance(existing, list | tuple | collections.deque) else []
        before += [None] * (len(nodes) - len(before))
        return [self.decode(node, old) for node, old in zip(nodes, before, strict=False)]

    def _array(self, kind: str, node: Any, existing: Any) -> Any:
        if node["dtype"] == "object":
            array = np.empty(len(node[kind]), object)
            for index, item in enumerate(node[kind]):
                array[index] = self.decode(item)
            array = array.reshape(node["shape"])
        else:
            array = original(self._stored[node[kind]], node["dtype"])
        if kind == "tensor":
            return tf.constant(array)
        if kind == "scalar":
            return array[()]
        fits = isinstance(existing, np.ndarray) and existing.shape == array.shape and existing.dtype == array.dtype
        if fits and existing.flags.writeable:
            existing[...] = array
            return existing
        return array

    def _container(self, kind: str, node: Any, existing: Any) -> Any:
        same = existing if type_name(existing) == node["type"] else None
        if kind == "dict":
            before = dict(same) if same is not None else {}
            pairs = []
            for key, item in node["dict"]:
                known = self.decode(key)
                pairs.append((known, self.decode(item, before.get(known))))
            if not isinstance(same, MutableMapping):
                return dict(pairs)
            same.clear()
            for known, value in pairs:
                same[known] = value
            return same
        if kind == "set":
            items = [self.decode(item) for item in node["set"]]
            return frozenset(items) if node["type"].endswith("frozenset") else _refilled(same, set, items)
        items = self._items(node[kind], same)
        if kind == "tuple":
            return tuple(items) if same is None or type(same) is tuple else type(same)(*items)  # a named tuple
        if kind == "deque":
            return _refilled(same, lambda values: collections.deque(values, node["maxlen"]), items)
        return _refilled(same, list, items)


def type_name(value: Any) -> str:
    """Module and name of a value's type."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _refilled(existing: Any, made: Any, content: Any) -> Any:
    """`existing` with another content; without one, what `made` makes of it."""
    if existing is None:
        return made(content)
    existing.clear()
    getattr(existing, "update" if hasattr(existing, "update") else "extend")(content)
    return existing


def _is_eager(value: Any) -> bool:
    return isinstance(value, tf.Tensor) and hasattr(value, "numpy")


def _is_users(value: Any) -> bool:
    """Whether it is an object of a class of the user's, which is its attributes."""
    library = type(value).__module__.partition(".")[0] in _LIBRARIES
    return not library and hasattr(value, "__dict__") and not isinstance(value, (Task, type, *_READ_ON))
