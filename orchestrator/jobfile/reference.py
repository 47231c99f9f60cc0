"""The reference of the job file, made from JobSpec: JSON Schema for editors, docs/job-file.md for people."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator.jobfile.explain import describe, dotted, section_at, takes_duration
from orchestrator.jobfile.spec import JobSpec
from trainer.config import TASK_ONLY, WITH_SCRIPT, TrainSection

_HEAD = """\
# The job file

Made from the code by `orch schema --format markdown > docs/job-file.md` (`make golden` does it too); do not
edit it here.

A job file is one YAML mapping. Unknown keys are errors that name the line and the nearest known key.
Everything but `name`, what is trained (`train.task`, `train.script` or `train.command`) and the length of a
task's training has a default. `--set train.steps=100` overrides a field for one command; the value is YAML, and
setting `train.steps` replaces the file's `train.epochs` and the other way round, as `train.script` replaces
`train.task`. `orch init` writes a commented file to begin with; `orch schema` prints the JSON Schema, with which
editors complete and check job files.

Values are read as YAML 1.2 reads them: `1e-3` is a number, a date is text. What readers of YAML 1.1 and 1.2
understand differently must be written plainly or in quotes, else it is an error: `on`, `off`, `yes`, `no`,
`y`, `n`, `07`, `1_000`, `0b1`, `0o7`, `1:30`. Anchors, aliases and `<<` work; tags do not, nor does a key
given twice. Durations are a number and a unit: `250ms`, `90s`, `5m`, `12h`, `7d`; sizes are Kubernetes
quantities: `512Mi`, `4Gi`.

```yaml
name: digits
image: {ref: registry.example/train/digits:1}
train:
  task: task.py:Digits
  params: {hidden: [32, 32], learning_rate: 0.001}
  steps: 2000
  global_batch_size: 128
  evaluate: {every: 500}
  stop_when: {metric: val_loss, patience: 5}
  seed: 17
run: {directory: gs://acme-train/digits}
checkpoint: {every: 200, keep: 3}
resources: {workers: 4, cpu: 8, memory: 32Gi, accelerator: nvidia-l4:2, capacity: spot}
```
"""


def json_schema() -> str:
    """JSON Schema (draft 2020-12) of a job file, as JSON text."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **JobSpec.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


def markdown() -> str:
    """The page docs/job-file.md."""
    parts = [_HEAD, _section(JobSpec, (), "Top level")]
    parts += _sections(JobSpec, ())
    return "\n".join(parts)


def _sections(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    parts = []
    for name in model.model_fields:
        place, section = _section_of((*path, name))
        if section is not None:
            parts.append(_section(section, place, f"`{dotted(place).replace('[0]', '[]')}`"))
            parts += _sections(section, place)
    return parts


def _section_of(path: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], type[BaseModel] | None]:
    """The section at a field, or of the items of a list there."""
    section = section_at(path)
    return (path, section) if section is not None else ((*path, 0), section_at((*path, 0)))


def _section(model: type[BaseModel], path: tuple[str | int, ...], title: str) -> str:
    lines = [
        f"## {title}",
        "",
        _one_line(model.__doc__ or ""),
        "",
        "| key | value | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, info in model.model_fields.items():
        place, section = _section_of((*path, name))
        meaning = _one_line(info.description or (section.__doc__ if section else "") or "")
        if section is not None:
            meaning += f" See `{dotted(place).replace('[0]', '[]')}`."
        lines.append(
            f"| `{name}` | {_cell(describe(info.annotation, info.metadata))} | {_default(info)} | {_cell(meaning)} |"
        )
    if model is TrainSection:
        lines += ["", _with_a_script(), "", _with_a_command()]
    return "\n".join(lines) + "\n"


def _with_a_script() -> str:
    """What the fields of `train` are to a job of a script. A field that is new is told of by itself."""
    given = ("task", "script", "args", "command", *WITH_SCRIPT)
    refused = [name for name in TrainSection.model_fields if name not in given]
    return (
        f"With `script`, {_names(WITH_SCRIPT)} count as with a task, and {_names(refused)} are errors: the script has them, as "
        "arguments of `fit` and `compile`."
    )


def _with_a_command() -> str:
    """What the fields of `train` are to a job that has neither. A field that is new is told of by itself."""
    read = [name for name in TrainSection.model_fields if name not in ("task", "script", "args", "command", *TASK_ONLY)]
    refused = ("args", *TASK_ONLY)
    return (
        f"With `command`, {_names(refused)} are errors. Of {_names(read)} the program may make what it wants: it finds "
        "their values in the JSON file that the environment variable `ORCH_CONFIG` names."
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:-1]) + f" and `{names[-1]}`"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value: Any = info.default
    if value is None or value is PydanticUndefined or isinstance(value, BaseModel) or value in ({}, []):
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float) and takes_duration(info.annotation, info.metadata):
        return f"`{_duration(value)}`"
    return f"`{value}`"


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:g}s"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
