"""Reading YAML: the same values as other readers, the line of each, and refusal where readers disagree."""

import math
import re
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.jobfile.yaml_reader import Ambiguous, read, scalar
from orchestrator.manifests.yaml_writer import to_yaml

# The scalars of the YAML 1.1 type repository (bool, int, float, null), written down apart from the code under test.
YAML_1_1 = [
    re.compile(r"~|null|Null|NULL|"),
    re.compile(r"y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"),
    re.compile(
        r"[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+"
    ),
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*)?\.[0-9.]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
]
YAML_1_2 = [
    re.compile(r"null|Null|NULL|~|"),
    re.compile(r"true|True|TRUE|false|False|FALSE"),
    re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(min_size=1), children, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1), json_values, min_size=1))
@example({"\n\x85": "a\r\nb", "a": "\u2028\n"})
@settings(max_examples=100, deadline=None)
def test_what_orch_writes_it_reads_back_and_so_does_a_yaml_1_1_reader(value: dict[str, Any]) -> None:
    text = to_yaml([value])
    tree = read(text)
    assert tree.problems == []
    assert tree.value == value
    assert yaml.safe_load(text) == value


words = st.sampled_from(
    [
        "N",
        "y",
        "on",
        "Off",
        "1e3",
        "1E-3",
        "07",
        "0o17",
        "1_000",
        "12:30:45",
        "0x1F",
        "0b1",
        ".5",
        "1.",
        "~",
        ".inf",
        "null",
        "2024-01-01",
        "=",
        "<<",
        "+1",
        "-0",
        "1.5e+3",
    ]
)


@given(words | st.text("0123456789eE+-._:xobyYnN~", min_size=1, max_size=7))
@settings(max_examples=300, deadline=None)
def test_no_text_is_written_so_that_any_reader_takes_it_for_something_else(text: str) -> None:
    for event in yaml.parse(to_yaml([{"key": text, text: "value"}])):
        if isinstance(event, yaml.ScalarEvent) and event.value == text and event.implicit[0]:
            assert not any(kind.fullmatch(text) for kind in [*YAML_1_1, *YAML_1_2]), text


@given(words | st.text("0123456789eE+-._:xobyYnN~", min_size=1, max_size=7))
@example(".0_")
@example("-0x0")
@example("0x_1")
@settings(max_examples=300, deadline=None)
def test_a_plain_scalar_that_two_readers_take_differently_is_refused(text: str) -> None:
    try:
        value = scalar(text)
    except Ambiguous:
        return
    assert text.lower() not in ("y", "n"), "bools in YAML 1.1"
    is_text_1_2 = not any(kind.fullmatch(text) for kind in YAML_1_2)
    assert isinstance(value, str) == is_text_1_2
    try:
        theirs = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return
    # Two differences are wanted: 1e-3 is a number here (learning rates), and dates are text.
    if isinstance(theirs, int | float) and not isinstance(theirs, bool):
        assert value == theirs or (math.isnan(theirs) and isinstance(value, float) and math.isnan(value))


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        ("0x1F", 31),
        ("-0", 0),
        (".5", 0.5),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("TRUE", True),
    ],
)
def test_scalars_of_the_core_schema(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


@pytest.mark.parametrize("text", ["on", "N", "Yes", "07", "-012", "1_000", "1_0.5", "0b11", "0o17", "1:30"])
def test_ambiguous_scalars_say_what_to_write(text: str) -> None:
    with pytest.raises(Ambiguous, match=re.escape(f'"{text}"')):
        scalar(text)


def test_quoted_scalars_are_text() -> None:
    assert read("a: 'on'\nb: \"1e3\"\nc: |\n  07\n").value == {"a": "on", "b": "1e3", "c": "07\n"}


def test_lines_of_all_values() -> None:
    tree = read("a: 1\n\n# comment\nb:\n  - x\n  - c: 2\n    d: 3\n")
    assert tree.lines[("a",)] == 1
    assert tree.lines[("b",)] == 4 or tree.lines[("b",)] == 5
    assert tree.lines[("b", 1, "d")] == 7


def test_keys_are_text_even_when_they_look_like_a_bool() -> None:
    assert read("on: 1\nN: 2\n").value == {"on": 1, "N": 2}


@pytest.mark.parametrize("key", ["1", "1.5", "null", "~", "true", "07"])
def test_keys_that_are_no_text_are_refused(key: str) -> None:
    (problem,) = read(f"a: 1\n{key}: 2\n").problems
    assert problem.line == 2
    assert f'"{key}"' in problem.message


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object:os.system {}",
        "a: !!str 5",
        "a: !x 5",
        "a: ! 5",
        "!!map {a: 1}",
        "a: !!binary aGk=",
        "!k a: 1",
        "a: [!!set {}]",
    ],
)
def test_tags_are_refused(text: str) -> None:
    assert "tag" in read(text).problems[0].message


def test_anchors_aliases_and_merge_keys_work() -> None:
    tree = read("base: &b {x: 1, y1: 2}\na: *b\nc:\n  <<: *b\n  x: 3\nd:\n  <<: [*b, {z: 4}]\n")
    assert tree.problems == []
    assert tree.value["a"] == {"x": 1, "y1": 2}
    assert tree.value["c"] == {"x": 3, "y1": 2}
    assert tree.value["d"] == {"x": 1, "y1": 2, "z": 4}


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: *nothing",
        "a: 1\na: 2",
        "a: {b: 1, b: 2}",
        "a: b: c",
        "a:\n\t- x",
        "a: [1",
        "a: 'x",
        "a: 1\n---\nb: 2",
        "? [1, 2]\n: x",
        "? *x\n: x",
        "a: \x07",
        "[" * 100_000,
        "<<: 5",
        "%YAML 3.0\n---\na: 1",
        "a: @x",
    ],
)
def test_what_is_no_plain_yaml_is_one_problem_with_a_line(text: str) -> None:
    tree = read(text)
    assert tree.problems
    assert all(problem.line >= 1 and "\n" not in problem.message for problem in tree.problems)


def test_a_key_given_twice_names_both_lines() -> None:
    (problem,) = read("a: 1\nb: 2\na: 3\n").problems
    assert problem.line == 3
    assert "line 1" in problem.message


def test_aliases_of_aliases_do_not_blow_up() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "aliases" in read("\n".join(rows)).problems[0].message


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "---\n...\n", "\ufeff", "~"])
def test_empty_texts(text: str) -> None:
    tree = read(text)
    assert tree.empty or tree.value is None
