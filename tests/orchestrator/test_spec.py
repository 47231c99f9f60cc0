"""JobSpec as the reference manual: every field is described, the schema agrees with what loads, the page is up to date."""

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.jobfile.explain import section_at
from orchestrator.jobfile.fields import NAME_LENGTH_MAX, memory_bytes, suggest_name
from orchestrator.jobfile.reference import json_schema, markdown
from orchestrator.jobfile.spec import JobSpec
from orchestrator.jobfile.starter import starter_text
from trainer.config import TASK_ONLY, WITH_SCRIPT, TrainSection, parse_duration

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "job-file.md"
LEAST: dict[str, Any] = {"name": "digits", "train": {"task": "task.py:Digits", "steps": 1}}


def with_value(path: str, value: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(LEAST))
    *sections, key = path.split(".")
    place = data
    for section in sections:
        place = place.setdefault(section, {})
    place[key] = value
    return data


def models(model: type[BaseModel] = JobSpec, path: tuple[str | int, ...] = ()) -> list[tuple[str, type[BaseModel]]]:
    found = [(".".join(map(str, path)) or "job", model)]
    for name in model.model_fields:
        for place in ((*path, name), (*path, name, 0)):
            section = section_at(place)
            if section is not None:
                found += models(section, place)
    return found


def test_every_field_is_described() -> None:
    for where, model in models():
        assert model.__doc__, where
        for name, info in model.model_fields.items():
            is_section = section_at((*where.split("."), name) if where != "job" else (name,)) is not None
            assert is_section or info.description, f"{where}.{name}"


def test_the_page_is_up_to_date() -> None:
    if os.environ.get("ORCH_REWRITE_GOLDEN"):
        PAGE.write_text(markdown())
    assert PAGE.read_text() == markdown(), "the job file changed: `make golden` writes docs/job-file.md anew"


def test_the_page_shows_a_job_file_that_is_valid() -> None:
    text = markdown()
    example = text[text.index("```yaml\n") + len("```yaml\n") :].split("```")[0]
    JobSpec.model_validate(yaml.safe_load(example), context={"job_file": True})


def test_the_page_names_every_field() -> None:
    text = markdown()
    for _, model in models():
        assert all(f"| `{name}` |" in text for name in model.model_fields)


@pytest.mark.parametrize("path", ["", *(str(path) for path in sorted(ROOT.glob("examples/**/job.yaml")))])
def test_editors_accept_what_orch_accepts(path: str) -> None:
    text = Path(path).read_text() if path else starter_text("job.yaml", "moons")
    jsonschema.Draft202012Validator.check_schema(json.loads(json_schema()))
    jsonschema.validate(yaml.safe_load(text), json.loads(json_schema()))


@pytest.mark.parametrize(
    "path, value",
    [
        ("train.steps", 0),
        ("train.stepz", 1),
        ("checkpoint.every", "5min"),
        ("checkpoint.keep", 1),
        ("resources.capacity", "spott"),
        ("restarts.start_timeout", 900),
        ("env", {"A": 1}),
        ("train.params", []),
    ],
)
def test_editors_refuse_what_orch_refuses(path: str, value: Any) -> None:
    data = with_value(path, value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json.loads(json_schema()))
    with pytest.raises(ValidationError):
        JobSpec.model_validate(data, context={"job_file": True})


@pytest.mark.parametrize("value", ["5m", "250ms", "1.5h", 7])
def test_editors_accept_steps_and_durations(value: Any) -> None:
    data = with_value("checkpoint.every", value)
    jsonschema.validate(data, json.loads(json_schema()))
    JobSpec.model_validate(data, context={"job_file": True})


INTEGERS = [
    "train.steps",
    "train.global_batch_size",
    "train.seed",
    "train.evaluate.every",
    "train.evaluate.batch_size",
    "checkpoint.every",
    "checkpoint.keep",
    "checkpoint.shard_size_mb",
    "resources.workers",
    "resources.slices",
    "resources.cpu",
    "restarts.max",
    "restarts.start_timeout",
    "restarts.hang_timeout",
    "preemption.grace",
]


@pytest.mark.parametrize("path", INTEGERS)
@pytest.mark.parametrize("value", [True, False, "3", None, [3], float("nan"), float("inf")])
def test_a_number_is_a_number(path: str, value: Any) -> None:
    if value is None and path in {"train.steps", "train.evaluate.every", "train.evaluate.batch_size"}:
        return
    if value is None and path in {"resources.workers", "resources.cpu"}:
        return
    with pytest.raises(ValidationError):
        JobSpec.model_validate(with_value(path, value), context={"job_file": True})


@pytest.mark.parametrize("name", ["a", "digits", "a-1", "a" * NAME_LENGTH_MAX])
def test_names_that_kubernetes_takes_with_every_suffix(name: str) -> None:
    JobSpec.model_validate(with_value("name", name))
    for suffix in ("-config-0123456789", "-token", "-w-0-9999-abcde", "-9999-abcde"):
        assert len(name + suffix) <= 63


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a-", "a_b", "a.b", "a b", "é", "a" * 41, "a\n", "٣a"])
def test_names_that_it_refuses(name: str) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(with_value("name", name))


@pytest.mark.parametrize(
    "text, name",
    [
        ("My Job (2)", "my-job-2"),
        ("2024-01-run", "job-2024-01-run"),
        ("123", "job-123"),
        ("---", "job"),
        ("", "job"),
        ("日本", "job"),
        ("x" * 80, "x" * 40),
        ("a" * 39 + "-b", "a" * 39),
        ("tmp.Xy_9", "tmp-xy-9"),
    ],
)
def test_any_folder_gives_a_valid_name(text: str, name: str) -> None:
    assert suggest_name(text) == name
    JobSpec.model_validate(with_value("name", suggest_name(text)))


@pytest.mark.parametrize(
    "text, size",
    [("4Gi", 4 * 2**30), ("512M", 512 * 10**6), ("1.5Ki", 1536), ("1000", 1000), ("2k", 2000), ("1Ti", 2**40)],
)
def test_sizes_are_those_of_kubernetes(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["", "4GB", "4 Gi", "-1Gi", "0", "0Gi", "1e9", "500m", "Gi", "4gi", "٤Gi", "4Gi\n"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError):
        memory_bytes(text)


@pytest.mark.parametrize("text, seconds", [("90s", 90), ("1.5m", 90), ("12h", 43200), ("7d", 604800), ("250ms", 0.25)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "directory",
    [
        "gs://b",
        "gs://",
        "gs:///x",
        "gs://bucket/",
        "gs://bucket//x",
        "gs://bucket/a/../b",
        "s3://a/b",
        "GS://a/b",
        "~/x",
        ".",
        "",
        "/",
    ],
)
def test_run_directories_that_are_refused(directory: str) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(with_value("run.directory", directory))


@pytest.mark.parametrize(
    "directory, kept",
    [
        ("gs://bucket/x/", "gs://bucket/x"),
        ("gs://my-bucket.example/a/b", None),
        ("/data/x/", "/data/x"),
        ("file:///data/x", "/data/x"),
    ],
)
def test_run_directories_that_are_taken(directory: str, kept: str | None) -> None:
    assert JobSpec.model_validate(with_value("run.directory", directory)).run.directory == (kept or directory)


def test_a_toleration_is_one_that_kubernetes_takes() -> None:
    for wrong in (
        {},
        {"value": "x"},
        {"key": "a", "operator": "Exists", "value": "b"},
        {"key": "a", "toleration_seconds": 5},
    ):
        with pytest.raises(ValidationError):
            JobSpec.model_validate(with_value("scheduling.tolerations", [wrong]))
    JobSpec.model_validate(with_value("scheduling.tolerations", [{"operator": "Exists"}, {"key": "a", "value": "b"}]))


FIELDS = [name for name in TrainSection.model_fields if name not in ("task", "script", "args", "command")]


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_train_counts_or_is_refused_beside_a_script(field: str) -> None:
    (told,) = re.findall(r"(?m)^With `script`, (.*) count as with a task, and (.*) are errors", markdown())
    assert f"`{field}`" in told[0 if field in WITH_SCRIPT else 1]
    value = json.loads(JobSpec.model_validate(LEAST).model_dump_json())["train"][field]
    data = {"name": "script", "train": {"script": "train.py", field: value}}
    if field in WITH_SCRIPT:
        JobSpec.model_validate(data, context={"job_file": True})
    else:
        with pytest.raises(ValidationError, match=f"train.{field} is for a task"):
            JobSpec.model_validate(data, context={"job_file": True})


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_train_is_refused_or_documented_beside_a_command(field: str) -> None:
    given = {"params": {"hidden": 3}, "stop_when": {"metric": "val_loss"}, "class_weight": {0: 1.0, 1: 2.0}}
    assert set(given) == set(TASK_ONLY)
    (told,) = re.findall(r"(?m)^With `command`, (.*) are errors\. Of (.*) the program may", markdown())
    assert f"`{field}`" in told[0 if field in TASK_ONLY else 1]
    if field in TASK_ONLY:
        train = {"command": ["python", "train.py"], field: given[field]}
        with pytest.raises(ValidationError, match=f"train.{field} is for a task"):
            JobSpec.model_validate({"name": "script", "train": train}, context={"job_file": True})
