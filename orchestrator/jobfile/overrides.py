"""--set a.b=c: values from the command line put into what a job file holds. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.jobfile import yaml_reader
from trainer.errors import ConfigError

_INSTEAD_OF: dict[tuple[str, ...], tuple[str, ...]] = {
    ("train", "steps"): ("epochs",),
    ("train", "epochs"): ("steps",),
    ("train", "task"): ("script", "args", "command"),
    ("train", "script"): ("task", "args", "command"),
    ("train", "command"): ("task", "script", "args"),
}
"""Fields of which a job has one: giving one on the command line replaces what the file has instead, in the same section."""


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    text: str
    """For a person: `job.yaml:12`, or `--set train.steps=5`."""
    line: int = 0
    """Of the job file, from 1; 0 on the command line."""
    key: str = ""
    """What --set named; empty in the job file."""


def apply_overrides(
    data: dict[str, Any],
    overrides: Sequence[str],
    origins: dict[yaml_reader.Path, Origin],
    written: dict[yaml_reader.Path, str],
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
    for parts, tree, label in parsed:
        origin = Origin(label, key=".".join(parts))
        section = data.get(parts[0])
        if parts in _INSTEAD_OF and isinstance(section, dict):
            others = {other for other in _INSTEAD_OF[parts] if (parts[0], other) not in given}
            data = {**data, parts[0]: {key: value for key, value in section.items() if key not in others}}
        data = _put(data, parts, tree.value, label)
        path = _place(data, parts)
        for known in [place for place in origins if place[: len(path)] == path]:
            del origins[known]
            written.pop(known, None)
        for depth in range(1, len(path)):
            origins.setdefault(path[:depth], origin)
        origins |= {(*path, *place): origin for place in tree.lines}
        written |= {(*path, *place): text for place, text in tree.written.items()}
    return data


def _parse(override: str) -> tuple[tuple[str, ...], yaml_reader.Tree, str]:
    label = f"--set {override}"
    key, equals, text = override.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise ConfigError(f"{label}: write --set KEY=VALUE, such as --set train.steps=100")
    tree = yaml_reader.read(text)
    if tree.problems:
        raise ConfigError(f"{label}: {tree.problems[0].message}")
    tree.lines.setdefault((), 1)
    return parts, tree, label


def _put(data: Any, parts: tuple[str, ...], value: Any, label: str, depth: int = 0) -> Any:
    """A copy of `data` with `value` at `parts`; what is not on the way is shared."""
    if depth == len(parts):
        return value
    part, above = parts[depth], ".".join(parts[:depth])
    if isinstance(data, list):
        index = int(part) if part.isascii() and part.isdigit() else len(data)
        if index >= len(data):
            raise ConfigError(
                f"{label}: {above} is a list of {len(data)}; {part} is no place in it (they count from 0)"
            )
        return [*data[:index], _put(data[index], parts, value, label, depth + 1), *data[index + 1 :]]
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{label}: {above} is a single value, there is nothing inside it to set")
    return {**data, part: _put(data.get(part), parts, value, label, depth + 1)}


def _place(data: Any, parts: tuple[str, ...]) -> yaml_reader.Path:
    """The place that `parts` name in `data`: numbers where it has lists."""
    place: list[str | int] = []
    for part in parts:
        key: str | int = int(part) if isinstance(data, list) else part
        place.append(key)
        data = data[key]
    return tuple(place)
