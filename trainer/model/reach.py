"""What training may change: every variable, metric and optimizer that can be reached from a task and its model.

Imports Keras. Followed are attributes of the task, of layers, models, losses, optimizers and plain objects of the user's own,
lists, tuples and dicts, what a function was made with, and the globals of the task's modules, in the order in which they were
set: the same in every process that runs the same code.
"""

import contextlib
import functools
import os
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainer.model.adapted import LAYERS

_DEPTH_MAX = 12


@dataclass
class Reached:
    """Each object once, in the order in which it was met, with the path of attributes that led to it."""

    variables: dict[str, Any] = field(default_factory=dict)
    """By path (`model.blocks[0].scale`): keras.Variable, tf.Variable."""
    metrics: list[keras.Metric] = field(default_factory=list)
    optimizers: list[keras.optimizers.Optimizer] = field(default_factory=list)
    adapted: dict[str, keras.Layer] = field(default_factory=dict)
    """Preprocessing layers that learn from data by adapt(), by path."""


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
        elif isinstance(value, LAYERS):
            found.adapted[path] = value
        for name, part in _parts(value):
            visit(f"{path}{name}", part, depth + 1)

    for name, root in roots.items():
        visit(name, root, 0)
    return found


def modules_of(task: Any, root: str | Path | None) -> dict[str, dict[str, Any]]:
    """The globals of the task's module, and of those imported from its folder or from `root`: by module."""
    return globals_of(sys.modules[type(task).__module__], root)


def globals_of(own: types.ModuleType, root: str | Path | None) -> dict[str, dict[str, Any]]:
    """Those of one module, and of those imported from its folder or from `root`: by module."""
    folders = [Path(root or ".").resolve()]
    if own.__file__:
        folders.append(Path(own.__file__).resolve().parent)
    # A job's folder may hold its virtual environment, and the working directory orch itself.
    within = tuple(f"{folder}{os.sep}" for folder in folders)
    without = (f"{Path(__file__).parents[1]}{os.sep}", f"{os.sep}site-packages{os.sep}")
    found = {own.__name__: own}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if file.startswith(within) and not any(place in file for place in without):
            found[name] = module
    return {
        name: {key: value for key, value in vars(module).items() if not isinstance(value, type | types.ModuleType)}
        for name, module in found.items()
    }


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds. Nothing of what is neither Keras', a container, nor an object of the user's own."""
    if isinstance(value, dict) or (isinstance(value, Mapping) and _root(value) in _MAPPINGS):
        for key, part in list(value.items()):
            yield f"[{key!r}]", part
    elif isinstance(value, list | tuple | set | frozenset):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif isinstance(value, tf.random.Generator):
        yield ".state", value.state
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a name that has no value yet
                yield f".{name}", cell.cell_contents
    elif isinstance(value, types.MethodType):
        yield "", value.__self__
    elif isinstance(value, functools.partial):
        yield "", [value.func, value.args, value.keywords]
    elif isinstance(value, tf.types.experimental.PolymorphicFunction):
        yield "", value.python_function
    elif isinstance(value, keras.Layer):
        for variable in value.variables:
            yield f".{variable.path}", variable
        if isinstance(value, keras.Model):
            yield ".loss", getattr(value, "loss", None)
        yield from _attributes(value, _own_attributes(keras.Model if isinstance(value, keras.Model) else keras.Layer))
    elif isinstance(value, keras.Metric | keras.optimizers.Optimizer):
        for variable in value.variables:
            yield f".{variable.path}", variable
        if type(value).__module__.partition(".")[0] != "keras":
            yield from _attributes(value, frozenset())
    elif isinstance(value, keras.random.SeedGenerator):
        yield ".state", value.state
    elif isinstance(value, tf.Module | keras.Loss) or _is_users(value):
        yield from _attributes(value, frozenset())


def _attributes(value: Any, without: frozenset[str]) -> Iterator[tuple[str, Any]]:
    for name, part in list(getattr(value, "__dict__", {}).items()):
        if name not in without:
            yield f".{name}", part
    for kind in type(value).__mro__:
        if kind.__module__.partition(".")[0] not in _LIBRARIES:
            for name, part in vars(kind).items():
                if isinstance(part, _OF_A_CLASS):
                    yield f".{name}", part


_MAPPINGS = ("builtins", "collections", "types", "tensorflow", "keras")
"""Whose mappings are followed. Others may be files (NumPy's, h5py's), which are read by looking, or closed."""


def _root(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


_OF_A_CLASS = (
    tf.Variable,
    keras.Variable,
    keras.Layer,
    keras.Metric,
    keras.optimizers.Optimizer,
    keras.random.SeedGenerator,
    tf.random.Generator,
)
"""What is looked for among the attributes of a class, which all its objects share."""


def _is_users(value: Any) -> bool:
    """Whether an object is of a class of the user's own, whose attributes may hold anything."""
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return False
    own = type(value).__module__.partition(".")[0] not in _LIBRARIES
    return own or isinstance(value, keras.callbacks.Callback)


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


def _own_attributes(kind: type) -> frozenset[str]:
    """The attributes that Keras itself gives every object of a kind, whose variables it lists; cached by the class."""
    if kind not in _KNOWN:
        _KNOWN[kind] = frozenset(vars(kind())) | {"_functional", "_layers", "_operations", "_nodes", "_inbound_nodes"}
    return _KNOWN[kind]


_KNOWN: dict[type, frozenset[str]] = {}
