"""Turns what pydantic says about a job file into sentences: which field, what is allowed, what was probably meant.

Pure: a ValidationError and the data go in, (field, message) pairs come out. docs/job-file.md describes
fields in the same words.
"""

import difflib
import functools
import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo

from orchestrator.jobfile.fields import Words
from orchestrator.jobfile.spec import JobSpec

Path = tuple[str | int, ...]

_TEXTS = ("text", "a name")
_DURATION = "a duration such as 30s, 5m, 12h or 7d"


def explain(error: ValidationError, data: Any, written: Mapping[Path, str]) -> list[tuple[Path, str]]:
    """One sentence a field.

    Args:
        error: of JobSpec.
        data: what was validated.
        written: plain scalars as the file has them, where Python's value would look different.
    """
    found: dict[Path, str] = {}
    for item in error.errors(include_url=False):
        path = _path(item["loc"], data, item["type"])
        context = item.get("ctx", {})
        if item["type"] == "disagreements":
            for field, message in context["problems"]:
                found.setdefault(field, message)
        elif item["type"] == "misfit":
            found.setdefault((*path, context["field"]), context["message"])
        elif item["type"] == "extra_forbidden":
            found[path] = _unknown_key(path)
        elif item["type"] == "missing":
            found[path] = f"missing; {_purpose(path)}"
        elif item["type"] == "value_error" and not _is_union(path):
            found.setdefault(path, str(context["error"]))
        elif item["type"] == "string_pattern_mismatch":
            found.setdefault(path, f'"{item["input"]}" does not fit; {_purpose(path, whole=True)}')
        else:
            found.setdefault(path, _wrong_value(path, item["input"], written.get(path)))
    return list(found.items())


def dotted(path: Path) -> str:
    """secrets[0].env.KEY"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def describe(annotation: Any, constraints: Any = ()) -> str:
    """What a field takes, in words: `a whole number of at least 1, or a duration such as 30s, 5m, 12h or 7d`."""
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        constraints = [*constraints, *more]
    origin = get_origin(annotation)
    for item in constraints:
        if isinstance(item, Words):
            return item.text
        if isinstance(item, BeforeValidator):
            return _DURATION
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part) for part in get_args(annotation) if part is not type(None))
    if origin is Literal:
        words = [str(word) for word in get_args(annotation)]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    if origin is list:
        return f"a list ({describe(get_args(annotation)[0])} each)"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "a mapping (key: value)"
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        return ("a whole number" if annotation is int else "a number") + _range(annotation, _flatten(constraints))
    return "text" if annotation is str else "any value"


def takes_duration(annotation: Any, constraints: Any = ()) -> bool:
    """Whether a field takes a duration, among others or alone."""
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        constraints = [*constraints, *more]
    if any(isinstance(item, BeforeValidator) for item in constraints):
        return True
    return get_origin(annotation) in (Union, types.UnionType) and any(map(takes_duration, get_args(annotation)))


def field_of(path: Path) -> FieldInfo | None:
    """The field of JobSpec at a path; None inside free mappings (params, env) and for unknown keys."""
    info: FieldInfo | None = None
    annotation: Any = JobSpec
    for part in path:
        annotation = _plain(annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            info = annotation.model_fields.get(str(part))
            if info is None:
                return None
            annotation = info.annotation
        elif get_origin(annotation) in (list, dict):
            annotation = get_args(annotation)[-1]
            info = FieldInfo(annotation=annotation)
        else:
            return None
    return info


def section_at(path: Path) -> type[BaseModel] | None:
    """The model whose keys stand at a path."""
    info = field_of(path) if path else None
    annotation = _plain(info.annotation) if info else (JobSpec if not path else None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _plain(annotation: Any) -> Any:
    """Without Annotated and None."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return _plain(parts[0]) if len(parts) == 1 else annotation
    return annotation


def _path(loc: tuple[str | int, ...], data: Any, kind: str) -> Path:
    """The part of pydantic's location that is a place in the file: not the names of a union's members, nor [key]."""
    path: list[str | int] = []
    for part in loc:
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if not inside:
            if kind == "missing":
                path.append(part)
            break
        data = data[part]
        path.append(part)
    return tuple(path)


def _is_union(path: Path) -> bool:
    info = field_of(path)
    annotation = _plain(info.annotation) if info else None
    return get_origin(annotation) in (Union, types.UnionType)


def _flatten(constraints: Any) -> Iterator[Any]:
    for constraint in constraints:
        yield from constraint.metadata if isinstance(constraint, FieldInfo) else [constraint]


def _range(kind: type, constraints: Iterator[Any]) -> str:
    low: str | None = None
    high: str | None = None
    above = False
    for constraint in constraints:
        if isinstance(constraint, annotated_types.Ge):
            low = f"{constraint.ge}"
        elif isinstance(constraint, annotated_types.Gt):
            above = kind is not int
            low = f"above {constraint.gt}" if above else f"{constraint.gt + 1}"  # type: ignore[operator]
        elif isinstance(constraint, annotated_types.Le):
            high = f"{constraint.le}"
        elif isinstance(constraint, annotated_types.Lt):
            high = f"{constraint.lt - 1}" if kind is int else f"below {constraint.lt}"  # type: ignore[operator]
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" {low}" if above else f" of at least {low}"
    return f" of at most {high}" if high is not None else ""


def _unknown_key(path: Path) -> str:
    *parent, key = path
    section = section_at(tuple(parent))
    allowed = list(section.model_fields) if section else []
    wanted = _snake(str(key))
    near = difflib.get_close_matches(wanted, allowed, n=1, cutoff=0.75)
    if not near and wanted in _places():
        near = [_places()[wanted]]
    near = near or difflib.get_close_matches(wanted, allowed, n=1, cutoff=0.5)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    return f"unknown key{hint or ';'} allowed: {', '.join(allowed)}"


def _snake(key: str) -> str:
    """globalBatchSize and global-batch-size as this file's keys are written."""
    return "".join(
        f"_{letter.lower()}" if letter.isupper() and key.lower() != key and i else letter.lower()
        for i, letter in enumerate(key)
    ).replace("-", "_")


@functools.cache
def _places() -> dict[str, str]:
    """Key -> where it belongs, for keys that only one section has."""
    places: dict[str, list[str]] = {}

    def visit(model: type[BaseModel], prefix: Path) -> None:
        for name in model.model_fields:
            places.setdefault(name, []).append(dotted((*prefix, name)))
            section = section_at((*prefix, name))
            if section:
                visit(section, (*prefix, name))

    visit(JobSpec, ())
    return {name: paths[0] for name, paths in places.items() if len(paths) == 1}


def _purpose(path: Path, *, whole: bool = False) -> str:
    """What a field is for, as its description says it: the first sentence, or all."""
    info = field_of(path)
    section = section_at(path)
    text = (info.description if info else None) or (section.__doc__ if section else None) or "it must be given"
    sentence = " ".join(text.split() if whole else text.partition(". ")[0].split()).rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def _wrong_value(path: Path, value: Any, written: str | None) -> str:
    info = field_of(path)
    allowed = describe(info.annotation, info.metadata) if info else "a mapping (key: value)"
    shown = _value_in_words(value, written)
    if value is None:
        return f"is empty; it must be {allowed}" + ("" if info and info.is_required() else ", or be left out")
    if allowed in _TEXTS and isinstance(value, bool | int | float):
        return f'must be {allowed}, not {shown}; put it in quotes: "{written if written is not None else value}"'
    if allowed == "text" and value == "":
        return "must not be empty"
    if allowed == "true or false" and isinstance(value, str):
        return f"must be true or false, without quotes, not {shown}"
    near = difflib.get_close_matches(value, _words(info), n=1) if isinstance(value, str) and info else []
    hint = f'; did you mean "{near[0]}"?' if near else ""
    if path == ("resources", "cpu") and isinstance(value, str) and re.fullmatch(r"[1-9]\d*m", value):
        hint = f"; did you mean {int(value[:-1]) / 1000:g}?"
    return f"must be {allowed}, not {shown}{hint}"


def _words(info: FieldInfo) -> list[str]:
    def literals(annotation: Any) -> Iterator[str]:
        if get_origin(annotation) is Literal:
            yield from (str(word) for word in get_args(annotation))
        for part in get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ():
            yield from literals(part)

    return list(literals(info.annotation))


def _value_in_words(value: Any, written: str | None) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if written is not None and not isinstance(value, str):
        return written[:60]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value[:60]}{"..." if len(value) > 60 else ""}"'
    return str(value)
