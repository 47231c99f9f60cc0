"""--set a.b=c: values from the command line put into what a job file holds. Pure."""

from collections.abc import Sequence
from typing import Any

from orchestrator import yamltree
from trainer.errors import ConfigError

_INSTEAD_OF: dict[yamltree.Path, tuple[str, str]] = {
    ("train", "steps"): ("train", "epochs"),
    ("train", "epochs"): ("train", "steps"),
    ("train", "task"): ("train", "command"),
    ("train", "command"): ("train", "task"),
}
"""Fields of which a job has one: giving one on the command line replaces the file's other."""


def apply_overrides(
    data: dict[str, Any],
    overrides: Sequence[str],
    origins: dict[yamltree.Path, str],
    written: dict[yamltree.Path, str],
) -> dict[str, Any]:
    """`data` with each override in turn; the argument itself is left as it is.

    Args:
        data: what the job file holds.
        overrides: `a.b=value` or `a.0.b=value`, value in YAML: 5, text, [1, 2], {a: b}.
        origins: place -> where it was written; entries for the overrides are added.
        written: place -> plain scalar as written; likewise.

    Raises:
        ConfigError: names the override.
    """
    parsed = [_parse(override) for override in overrides]
    given = {path for path, _, _ in parsed}
    for path, tree, label in parsed:
        other = _INSTEAD_OF.get(path)
        if other is not None and other not in given and isinstance(data.get(other[0]), dict):
            data = {**data, other[0]: {key: value for key, value in data[other[0]].items() if key != other[1]}}
        data = _put(data, path, tree.value, label)
        for known in [place for place in origins if place[: len(path)] == path]:
            del origins[known]
            written.pop(known, None)
        for depth in range(1, len(path)):
            origins.setdefault(path[:depth], label)
        origins |= {(*path, *place): label for place in tree.lines}
        written |= {(*path, *place): text for place, text in tree.written.items()}
    return data


def _parse(override: str) -> tuple[yamltree.Path, yamltree.Tree, str]:
    label = f"--set {override}"
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{label}: write --set KEY=VALUE, such as --set train.steps=100")
    tree = yamltree.read(text)
    if tree.problems:
        raise ConfigError(f"{label}: {tree.problems[0].message}")
    tree.lines.setdefault((), 1)
    return tuple(int(part) if part.isdigit() else part for part in parts), tree, label


def _put(data: Any, path: yamltree.Path, value: Any, label: str, depth: int = 0) -> Any:
    """A copy of `data` with `value` at `path`; what is not on the way is shared."""
    if depth == len(path):
        return value
    part = path[depth]
    if isinstance(data, list):
        if not isinstance(part, int) or part >= len(data):
            raise ConfigError(
                f"{label}: {_name(path, depth)} is a list of {len(data)}; {part} is no place in it (they count from 0)"
            )
        return [*data[:part], _put(data[part], path, value, label, depth + 1), *data[part + 1 :]]
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{label}: {_name(path, depth)} is a single value, there is nothing inside it to set")
    key = str(part)
    return {**data, key: _put(data.get(key), path, value, label, depth + 1)}


def _name(path: yamltree.Path, depth: int) -> str:
    return ".".join(str(part) for part in path[:depth])
