"""YAML text -> values, with the line of every value, and nothing that YAML readers understand differently.

The scalars are those of the YAML 1.2 core schema. What YAML 1.1 readers take for something else (on, yes, 07, 1_000,
1:30) is an error that asks for quotes, and so are tags and keys given twice. Pure.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]
"""Where a value stands: ("secrets", 0, "name")."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEPTH_MAX = 50
_VALUES_MAX = 100_000

_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_WORDS_OF_1_1 = {"y": "true", "yes": "true", "on": "true", "n": "false", "no": "false", "off": "false"}
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_UNDERSCORES = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
_OTHER_BASES = re.compile(r"[-+]?0[bo][0-7_]+|[-+]0x[0-9a-fA-F_]+|0x[0-9a-fA-F]*_[0-9a-fA-F_]*")
_BASE_60 = re.compile(r"[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a text. `line` counts from 1."""

    line: int
    path: Path
    message: str


@dataclass
class Tree:
    """What a text holds. When `problems` is not empty, `value` is not to be used."""

    value: Any = None
    empty: bool = False
    """Nothing but blanks and comments."""
    lines: dict[Path, int] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)
    """Plain scalars as they stand in the text: 1e3, where the value is 1000.0."""
    problems: list[Problem] = field(default_factory=list)


class Ambiguous(ValueError):
    """A plain scalar that YAML readers understand differently."""


def scalar(text: str) -> bool | int | float | str | None:
    """The value of a plain (unquoted) scalar.

    Raises:
        Ambiguous: readers of YAML 1.1 and 1.2 disagree about it; says what to write instead.
    """
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text.lower() in _WORDS_OF_1_1:
        meaning = _WORDS_OF_1_1[text.lower()]
        raise Ambiguous(f'{text} is {meaning} to some YAML readers and text to others; write {meaning} or "{text}"')
    if _INT.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text):
        return int(text, 16)
    if _LEADING_ZERO.fullmatch(text):
        plain = text.replace("_", "").lstrip("+-0") or "0"
        raise Ambiguous(f'{text} is an octal number to some YAML readers; write {plain} or "{text}"')
    if _FLOAT.fullmatch(text):
        return float(text)
    if match := _NOT_FINITE.fullmatch(text):
        return float("nan") if match[3] else float(f"{match[1]}inf")
    if "_" in text and _UNDERSCORES.fullmatch(text):
        raise Ambiguous(
            f'{text} is a number to some YAML readers and text to others; write {text.replace("_", "")} or "{text}"'
        )
    if _OTHER_BASES.fullmatch(text) or _BASE_60.fullmatch(text):
        raise Ambiguous(f'{text} is a number to some YAML readers and text to others; put it in quotes: "{text}"')
    return text


def read(text: str) -> Tree:
    """All values of one YAML document."""
    builder = _Builder()
    try:
        builder.read(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        builder.problem(line, (), "a character that YAML does not allow in text; is this a job file?")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        builder.problem(line, (), _syntax(error, text.split("\n", line)[:line][-1]))
    return builder.tree


def _syntax(error: yaml.MarkedYAMLError, line: str) -> str:
    problem = error.problem or error.context or "cannot be read"
    if "\t" in line[: len(line) - len(line.lstrip())]:
        problem = "the line is indented with a tab; use spaces"
    elif "expected key" in problem or "expected <block end>" in problem:
        problem += "; is the line indented like its neighbours, and every bracket closed?"
    elif "mapping values are not allowed" in problem:
        problem += '; indent keys of one mapping alike, and quote text that holds ": "'
    elif "undefined alias" in problem:
        problem += "; define it before with &NAME"
    return f"not YAML: {problem}"


def _short(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


class _Builder:
    """Walks the parser's events once. Values that an alias repeats are shared, never copied."""

    def __init__(self) -> None:
        self.tree = Tree()
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0

    def problem(self, line: int, path: Path, message: str) -> None:
        self.tree.problems.append(Problem(line, path, message))

    def read(self, text: str) -> None:
        events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        next(events)
        if isinstance(next(events), yaml.StreamEndEvent):
            self.tree.empty = True
            return
        first = next(events)
        if isinstance(first, yaml.ScalarEvent) and first.implicit[0] and first.value == "" and first.tag is None:
            self.tree.empty = True
        self.tree.value = self._value(first, events, ())
        next(events)
        following: Any = next(events)
        if isinstance(following, yaml.DocumentStartEvent):
            second: Any = following.start_mark
            self.problem(second.line + 1, (), "a second document begins here; a job file holds one job")

    def _value(self, event: Any, events: Iterator[Any], path: Path) -> Any:
        mark: Any = event.start_mark
        line = mark.line + 1
        self.tree.lines.setdefault(path, line)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise yaml.MarkedYAMLError(problem=f"undefined alias *{event.anchor}", problem_mark=mark)
            value, size = self._anchors[event.anchor]
            self._count(size, event)
            return value
        if event.tag is not None:
            self.problem(line, path, f"the tag {_short(event.tag)} is not allowed; write the plain value")
        before = self._values
        self._count(1, event)
        if len(path) > _DEPTH_MAX:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {_DEPTH_MAX} levels", problem_mark=event.start_mark)
        if isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(events, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(events, path)
        else:
            value = self._scalar(event, path)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._values - before)
        return value

    def _count(self, values: int, event: Any) -> None:
        # A few lines of aliases of aliases can stand for billions of values.
        self._values += values
        if self._values > _VALUES_MAX:
            problem = f"holds more than {_VALUES_MAX:,} values once aliases are followed"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)

    def _scalar(self, event: Any, path: Path) -> Any:
        if not event.implicit[0]:
            return event.value
        self.tree.written[path] = event.value
        try:
            return scalar(event.value)
        except Ambiguous as error:
            self.problem(event.start_mark.line + 1, path, str(error))
            return event.value

    def _sequence(self, events: Iterator[Any], path: Path) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            values.append(self._value(event, events, (*path, len(values))))
        return values

    def _mapping(self, events: Iterator[Any], path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            key = self._key(event, events, path)
            if key == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
                merged |= self._merged(next(events), events, path)
                continue
            if key in first_lines:
                self.problem(line, (*path, key), f"given twice, first in line {first_lines[key]}; keep one of them")
            first_lines.setdefault(key, line)
            self.tree.lines[(*path, key)] = line
            values[key] = self._value(next(events), events, (*path, key))
        return merged | values

    def _merged(self, event: Any, events: Iterator[Any], path: Path) -> dict[str, Any]:
        line = event.start_mark.line + 1
        value = self._value(event, events, (*path, "<<"))
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            self.problem(line, path, '"<<" takes in a mapping, such as *NAME, or a list of mappings')
            return {}
        merged: dict[str, Any] = {}
        for source in reversed(sources):
            merged |= source
        for key in merged:
            self.tree.lines.setdefault((*path, key), line)
        return merged

    def _key(self, event: Any, events: Iterator[Any], path: Path) -> str:
        line = event.start_mark.line + 1
        if not isinstance(event, yaml.ScalarEvent):
            self._value(event, events, (*path, "?"))
            self.problem(line, path, "a key must be text, not a list, a mapping or an alias")
            return f"?{line}"
        if event.tag is not None:
            self.problem(line, path, f"the tag {_short(event.tag)} is not allowed; write the plain key")
        key: str = event.value
        if event.implicit[0]:
            # Words such as on or N are fine as keys: keys are always text here. Numbers and null hint at a slip.
            try:
                is_text = isinstance(scalar(key), str)
            except Ambiguous:
                is_text = key.lower() in _WORDS_OF_1_1
            if not is_text:
                self.problem(line, path, f'the key {key or "(empty)"} is no text; put it in quotes: "{key}"')
        return key
