"""What training may change: every variable, metric and optimizer that can be reached from a task and its model.

Imports Keras. Followed are attributes of the task, of layers, models, optimizers and plain objects of the user's own, lists,
tuples and dicts, in the order in which they were set: the same in every process that runs the same code.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

_DEPTH_MAX = 12


@dataclass
class Reached:
    """Each object once, in the order in which it was met, with the path of attributes that led to it."""

    variables: dict[str, Any] = field(default_factory=dict)
    """By path (`model.blocks[0].scale`): keras.Variable, tf.Variable."""
    metrics: list[keras.Metric] = field(default_factory=list)
    optimizers: list[keras.optimizers.Optimizer] = field(default_factory=list)


def reach(roots: Mapping[str, Any]) -> Reached:
    """Everything that can be reached from `roots`, objects by name."""
    found = Reached()
    seen: set[int] = set()
    kept: list[Any] = []  # what was seen stays alive, so that no id is used twice

    def visit(path: str, value: Any, depth: int) -> None:
        if value is None or isinstance(value, str | bytes | int | float | bool) or depth > _DEPTH_MAX:
            return
        key = id(value._value if isinstance(value, keras.Variable) and value._value is not None else value)
        if key in seen:
            return
        seen.add(key)
        kept.append(value)
        if isinstance(value, tf.Variable | keras.Variable):
            found.variables[path] = value
            return
        if isinstance(value, keras.Metric):
            found.metrics.append(value)
        elif isinstance(value, keras.optimizers.Optimizer):
            found.optimizers.append(value)
        for name, part in _parts(value):
            visit(f"{path}{name}", part, depth + 1)

    for name, root in roots.items():
        visit(name, root, 0)
    return found


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds. Nothing of what is neither Keras', a container, nor an object of the user's own."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield f"[{key!r}]", part
    elif isinstance(value, list | tuple | set | frozenset):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif isinstance(value, tf.random.Generator):
        yield ".state", value.state
    elif isinstance(value, keras.Layer):
        for variable in value.variables:
            yield f".{variable.path}", variable
        yield from _attributes(value, _known(keras.Model if isinstance(value, keras.Model) else keras.Layer))
    elif isinstance(value, keras.Metric | keras.optimizers.Optimizer):
        for variable in value.variables:
            yield f".{variable.path}", variable
        if type(value).__module__.partition(".")[0] != "keras":
            yield from _attributes(value, frozenset())
    elif isinstance(value, keras.random.SeedGenerator):
        yield ".state", value.state
    elif isinstance(value, tf.Module) or _is_users(value):
        yield from _attributes(value, frozenset())


def _attributes(value: Any, without: frozenset[str]) -> Iterator[tuple[str, Any]]:
    for name, part in list(getattr(value, "__dict__", {}).items()):
        if name not in without:
            yield f".{name}", part


def _is_users(value: Any) -> bool:
    """Whether an object is of a class of the user's own, whose attributes may hold anything."""
    if isinstance(value, type) or callable(value) or not hasattr(value, "__dict__"):
        return isinstance(value, keras.callbacks.Callback)
    top = type(value).__module__.partition(".")[0]
    return top not in _LIBRARIES


_LIBRARIES = frozenset(
    {
        "builtins",
        "keras",
        "tensorflow",
        "numpy",
        "pandas",
        "scipy",
        "collections",
        "threading",
        "logging",
        "pathlib",
        "io",
    }
)


def _known(kind: type) -> frozenset[str]:
    """The attributes that Keras itself gives every object of a kind, whose variables it lists; cached by the class."""
    if kind not in _KNOWN:
        _KNOWN[kind] = frozenset(vars(kind())) | {"_functional", "_layers", "_operations", "_nodes", "_inbound_nodes"}
    return _KNOWN[kind]


_KNOWN: dict[type, frozenset[str]] = {}
