"""Reading a job file: YAML and --set overrides in, a JobSpec out, or one ConfigError that names file, line and field.

What workers get of it is in resolve.py.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.jobfile import yaml_reader
from orchestrator.jobfile.explain import dotted, explain
from orchestrator.jobfile.overrides import Origin, apply_overrides
from orchestrator.jobfile.script_source import script_problem
from orchestrator.jobfile.spec import JobSpec
from orchestrator.jobfile.task_source import task_problem
from trainer.errors import ConfigError

SIZE_MAX_BYTES = 1 << 20
PROBLEMS_SHOWN = 5


@dataclass(frozen=True)
class LoadedJob:
    """A job file that holds together."""

    spec: JobSpec
    path: Path
    origins: Mapping[yaml_reader.Path, Origin]
    """Where each value comes from."""

    @property
    def folder(self) -> Path:
        """What paths in the file are relative to."""
        return self.path.parent

    def where(self, field: str) -> str:
        """The origin of a field such as `resources.workers`, or of the nearest section above it."""
        place = tuple(int(part) if part.isdigit() else part for part in field.split("."))
        return _origin(place, self.origins).text


def load(path: str | Path, overrides: Sequence[str] = ()) -> LoadedJob:
    """Read, override, validate, and look at the task or the script.

    Args:
        path: the job file.
        overrides: `a.b=value` each, as given to --set; the value is YAML.

    Raises:
        ConfigError: at most six lines, each with file, line and field.
    """
    path = Path(path)
    tree = yaml_reader.read(_text(path))
    if tree.problems:
        raise _error([(_in_file(path, problem.line), problem.path, problem.message) for problem in tree.problems])
    if tree.empty:
        raise ConfigError(f"{path}: the file is empty", remedy="`orch init` writes one to begin with.")
    if not isinstance(tree.value, dict):
        kind = "a list" if isinstance(tree.value, list) else "a single value"
        raise ConfigError(
            f"{path}:{tree.lines[()]}: a job file is a mapping (key: value), this is {kind}",
            remedy="`orch init` writes one to begin with.",
        )
    origins = {place: _in_file(path, line) for place, line in tree.lines.items()}
    written = dict(tree.written)
    data = _with_arguments_as_written(apply_overrides(tree.value, overrides, origins, written), written)
    try:
        spec = JobSpec.model_validate(data, context={"job_file": True})
    except ValidationError as error:
        problems = [(_origin(place, origins), place, message) for place, message in explain(error, data, written)]
        raise _error(sorted(problems, key=_by_line)) from None
    field, problem = _source_problem(spec, path.parent)
    if problem:
        place = ("train", field)
        raise _error([(_origin(place, origins), place, problem)])
    return LoadedJob(spec, path, origins)


def _source_problem(spec: JobSpec, folder: Path) -> tuple[str, str | None]:
    """What is wrong with the user's code, and which field of `train` names it."""
    if spec.train.task is not None:
        return "task", task_problem(spec.train.task, folder, only_in_image=spec.image.ref is not None)
    if spec.train.script is not None:
        return "script", script_problem(spec.train.script, folder)
    return "command", None


def _with_arguments_as_written(data: Mapping[str, Any], written: Mapping[yaml_reader.Path, str]) -> Mapping[str, Any]:
    """Numbers among train.args are text: 1e-3 stays 1e-3."""
    train = data.get("train")
    if not isinstance(train, dict) or not isinstance(train.get("args"), list):
        return data
    texts = [
        written.get(("train", "args", place), str(value)) if type(value) in (int, float) else value
        for place, value in enumerate(train["args"])
    ]
    return {**data, "train": {**train, "args": texts}}


def _text(path: Path) -> str:
    """The file's text. Raises ConfigError for all that is no UTF-8 text file of a sensible size."""
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file{_near_file(path)}", remedy="`orch init` writes a job.yaml to begin with."
        ) from None
    except IsADirectoryError:
        raise ConfigError(
            f"{path} is a folder, not a job file", remedy=f"Name the file in it: {path / 'job.yaml'}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > SIZE_MAX_BYTES:
        raise ConfigError(f"{path} is larger than 1 MiB; is this a job file?")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:64]:
        raise ConfigError(f"{path}:1: the file is not UTF-8 (it looks like UTF-16)", remedy="Save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: the file is not UTF-8 (byte 0x{content[error.start]:02x})", remedy="Save it as UTF-8."
        ) from None


def _near_file(path: Path) -> str:
    try:
        files = [item.name for item in path.parent.iterdir() if item.suffix in (".yaml", ".yml")]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, files, n=1)
    return f'; did you mean "{path.with_name(near[0])}"?' if near else ""


def _in_file(path: Path, line: int) -> Origin:
    return Origin(f"{path}:{line}", line)


def _origin(place: yaml_reader.Path, origins: Mapping[yaml_reader.Path, Origin]) -> Origin:
    while place and place not in origins:
        place = place[:-1]
    return origins[place]


_Problem = tuple[Origin, yaml_reader.Path, str]


def _by_line(problem: _Problem) -> tuple[bool, int]:
    """What was written on the command line comes last."""
    origin = problem[0]
    return not origin.line, origin.line


def _line(origin: Origin, field: str, message: str) -> str:
    named_already = field in ("", origin.key)
    return f"{origin.text}: {message}" if named_already else f"{origin.text}: {field}: {message}"


def _error(problems: list[_Problem]) -> ConfigError:
    lines = [_line(origin, dotted(place), message) for origin, place, message in problems]
    if len(lines) <= PROBLEMS_SHOWN:
        return ConfigError("\n".join(lines))
    shown = [*lines[:PROBLEMS_SHOWN], f"... and {len(lines) - PROBLEMS_SHOWN} more"]
    return ConfigError("\n".join(shown), cut=True)
