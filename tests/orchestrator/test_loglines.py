"""Which lines of a log are new, which attempt they belong to, and which are shown."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.logs.lines import Attempts, Cursor, Line, Stamped, Wanted, last_of_each, parse, stamp, workers_of

SECOND = 10**9


def test_a_stamp_is_read_in_any_time_zone_and_to_the_nanosecond() -> None:
    assert parse("1970-01-01T00:00:01.000000002Z a b") == Stamped(SECOND + 2, "a b")
    assert parse("1970-01-01T02:00:01.5+02:00 ") == Stamped(SECOND + SECOND // 2, "")
    assert parse("1970-01-01T00:00:01Z  indented") == Stamped(SECOND, " indented")
    assert parse("unable to retrieve container logs") == Stamped(0, "unable to retrieve container logs")
    assert stamp(SECOND + 999_999_999) == "1970-01-01T00:00:01Z"


# Several lines a stamp, also equal ones; several stamps a second.
LOGS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from("ab")), max_size=14).map(
    lambda items: [Stamped(SECOND * (second + 1) + ns, text) for second, ns, text in sorted(items, key=lambda i: i[:2])]
)


@given(LOGS, st.lists(st.integers(0, 20), max_size=6))
@settings(deadline=None)
def test_whatever_breaks_the_connection_each_line_comes_once(log: list[Stamped], cuts: list[int]) -> None:
    cursor, got = Cursor(), []
    for cut in [*cuts, len(log)]:
        # The API goes by whole seconds.
        answer = [line for line in log if not cursor.since or line.time_ns >= parse(cursor.since).time_ns]
        got += cursor.follow(answer[:cut])
    got += cursor.follow([line for line in log if not cursor.since or line.time_ns >= parse(cursor.since).time_ns])
    assert got == log


def test_a_clock_that_is_set_back_loses_no_line_of_a_connection_that_holds() -> None:
    log = [Stamped(5 * SECOND, "a"), Stamped(3 * SECOND, "b"), Stamped(4 * SECOND, "c")]
    assert list(Cursor().follow(log)) == log


def test_of_a_rotated_log_lines_with_the_last_stamp_are_not_mistaken_for_those_seen() -> None:
    cursor = Cursor()
    assert len(list(cursor.follow([Stamped(SECOND, "a"), Stamped(SECOND, "b")]))) == 2
    assert list(cursor.follow([Stamped(SECOND, "c"), Stamped(2 * SECOND, "a")])) == [
        Stamped(SECOND, "c"),
        Stamped(2 * SECOND, "a"),
    ]


def test_lines_between_the_agents_marks_belong_to_the_attempt() -> None:
    attempts = Attempts()
    told = {
        "worker=1 INFO agent started name=digits": None,
        "worker=1 INFO attempt 3 starts restore=nothing port=20000": 3,
        "Epoch 1": 3,
        "user says: attempt 9 starts restore=nothing": 3,
        "worker=1 WARNING training process ended attempt=3 code=75 (lost)": 3,
        "worker=1 INFO waiting: for worker 0": None,
        "worker=1 INFO attempt 5 starts restore=x": 5,
        "worker=1 INFO and it goes port=1 event=attempt-starts attempt=6": 6,
        "user says: event=attempt-starts attempt=9": 6,
        "worker=1 WARNING over: why? event=process-ended attempt=6": 6,
        "worker=1 INFO event=of-a-later-version attempt=7": None,
    }
    assert [attempts.of(text) for text in told] == list(told.values())


def test_a_line_is_shown_when_all_that_was_asked_for_holds() -> None:
    line = Line(3, "loss=0.5", time_ns=10, attempt=2)
    assert Wanted().shows(line)
    for wanted, shown in (
        (Wanted(workers=frozenset({3})), True),
        (Wanted(workers=frozenset({1})), False),
        (Wanted(attempt=2), True),
        (Wanted(attempt=1), False),
        (Wanted(since_ns=10), True),
        (Wanted(since_ns=11), False),
        (Wanted(pattern=re.compile("s+=0")), True),
        (Wanted(pattern=re.compile("^0.5")), False),
    ):
        assert wanted.shows(line) is shown, wanted


def test_the_last_lines_are_those_of_each_worker_in_their_order() -> None:
    lines = [Line(number % 2, str(number)) for number in range(7)] + [Line(5, "only")]
    assert [line.text for line in last_of_each(lines, 2)] == ["3", "4", "5", "6", "only"]
    assert list(last_of_each(lines, None)) == lines
    assert list(last_of_each(lines, 0)) == []


@pytest.mark.parametrize(
    ("text", "workers"), [("0", {0}), ("0,3", {0, 3}), (" 1 - 3, 9", {1, 2, 3, 9}), ("2-2", {2}), ("999", {999})]
)
def test_workers_are_a_list_of_numbers_and_ranges(text: str, workers: set[int]) -> None:
    assert workers_of(text) == workers


@pytest.mark.parametrize("text", ["", "one", "3-1", "1,", "-1", "1-2-3", "0x3", "999999"])
def test_all_else_is_no_list_of_workers(text: str) -> None:
    with pytest.raises(ValueError, match="write 0,3 or 0-3"):
        workers_of(text)
