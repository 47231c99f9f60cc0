"""Numbers, times and tables as a person reads them, and that nobody puts them another way."""

import re
from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator import text
from trainer.rundir.bucket import is_bucket

ROOT = Path(text.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
OF_THE_TRAINER = sorted((ROOT.parent / "trainer").rglob("*.py"))


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [(0, "0 B"), (812, "812 B"), (4200, "4.2 kB"), (262.3e6, "262.3 MB"), (1.25e9, "1.2 GB"), (3e12, "3000.0 GB")],
)
def test_what_is_stored_is_told_in_decimal_units(size_bytes: float, said: str) -> None:
    assert text.size(size_bytes) == said


def test_what_a_process_has_is_told_in_the_units_of_limits() -> None:
    assert text.memory_size(300 * 2**20) == "300 MiB"
    assert text.memory_size(1.5 * 2**30) == "1.5 GiB"
    assert text.megabytes(1.2344e9) == "1234 MB"


@pytest.mark.parametrize(
    ("value", "resource", "said"),
    [
        ("4294967296", "memory", "4Gi"),
        ("1610612736", "requests.memory", "1.5Gi"),
        ("536870912", "ephemeral-storage", "512Mi"),
        ("2097152", "hugepages-2Mi", "2Mi"),
        ("1", "memory", "1"),
        ("0.5", "cpu", "0.5"),
        ("64", "cpu", "64"),
        ("110", "pods", "110"),
    ],
)
def test_an_amount_is_told_as_one_would_write_it(value: str, resource: str, said: str) -> None:
    assert text.amount_text(Decimal(value), resource) == said


@pytest.mark.parametrize(
    ("seconds", "said", "short"),
    [
        (0, "0 s", "0.0 s"),
        (12.42, "12 s", "12.4 s"),
        (185, "3 min 5 s", "3 min 5 s"),
        (7800, "2 h 10 min", "2 h 10 min"),
    ],
)
def test_a_duration_is_told_in_its_two_largest_units(seconds: float, said: str, short: str) -> None:
    assert text.duration(seconds) == said
    assert text.short_duration(seconds) == short


def test_columns_are_as_wide_as_what_they_hold() -> None:
    assert text.columns([("name", "state"), ("digits", "")], "  ") == ["  name    state", "  digits"]
    assert text.columns([]) == []


def test_of_a_message_with_several_lines_or_none_the_first_is_told() -> None:
    assert text.first_line("no such bucket\ntry again") == "no such bucket"
    assert text.first_line("") == ""
    assert text.first_line(ValueError("away\nstill")) == "away"


def test_a_bucket_is_told_by_its_scheme() -> None:
    assert is_bucket("gs://bucket/prefix")
    assert not is_bucket("/mnt/runs")
    assert not is_bucket("runs/gs://digits")


@pytest.mark.parametrize(
    "by_hand",
    [
        pytest.param(r"1e6:|/ 2\*\*30:|1e9:", id="sizes"),
        pytest.param(r"// 60\}|% 3600", id="durations"),
        pytest.param(r"cell\.ljust", id="columns"),
        pytest.param(r"splitlines\(\)\[0\]|partition\(.\\n.\)\[0\]", id="first lines"),
    ],
)
def test_no_module_puts_by_hand_what_has_a_function(by_hand: str) -> None:
    found = [path for path in SOURCES if re.search(by_hand, path.read_text(encoding="utf-8"))]
    assert {str(path.relative_to(ROOT)) for path in found} <= {"text.py"}


@pytest.mark.parametrize(
    ("by_hand", "its_place"),
    [
        pytest.param(r"startswith\(.gs://", "trainer/rundir/bucket.py", id="buckets"),
        pytest.param(
            r"class \w*Backoff|\* 2 \*\* min\(|_s \*= 2\b|_s = min\(\w*_s \* 2", "trainer/retry.py", id="pauses"
        ),
        pytest.param(r"line\([\w.]+, list_commits\(", "trainer/rundir/commits.py", id="a run's line of commits"),
    ],
)
def test_what_both_packages_need_stands_once(by_hand: str, its_place: str) -> None:
    found = [path for path in [*SOURCES, *OF_THE_TRAINER] if re.search(by_hand, path.read_text(encoding="utf-8"))]
    assert {str(path.relative_to(ROOT.parent)) for path in found} <= {its_place}
