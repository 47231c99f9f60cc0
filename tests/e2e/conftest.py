"""Fixtures of the tests on a cluster."""

import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support_cluster import Room, close_room, open_room, orch, what_is_missing
from support_cluster_faults import Faults, why_no_faults
from support_recovery import NOTE, ROW, Row, table
from support_told import TOLD, Clock, Told, told_table
from support_training import CHECKPOINT, STEPS, TRAIN

from orchestrator.manifests.yaml_writer import to_yaml


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """A namespace for one test."""
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    opened = open_room(tmp_path)
    yield opened
    close_room(opened)


@pytest.fixture
def clock(room: Room, record_property: Callable[[str, object], None]) -> Clock:
    """Keeps how long `orch status` took to name what the cluster knew."""
    return Clock(room, record_property)


@pytest.fixture
def nodes(room: Room) -> Iterator[Faults]:
    """Two nodes at least, and what the API can do to them; all that a test leaves is undone after it."""
    given = Faults(room.api)
    if len(given.nodes) < 2:
        pytest.skip(f"two nodes that take pods are needed, there is {len(given.nodes)}")
    yield given
    given.restore()


@pytest.fixture
def faults(nodes: Faults) -> Faults:
    """The same, and a program that can take away nodes, the network, the API server and the bucket."""
    missing = why_no_faults()
    if missing:
        pytest.skip(missing)
    return nodes


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the jobs of support_training.py end with: two workers as processes of this machine, which nothing disturbs."""
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("undisturbed")
    job = folder / "job.yaml"
    job.write_text(to_yaml([{"name": "undisturbed", "train": TRAIN, "checkpoint": CHECKPOINT}]))
    done = orch(folder, os.environ, "run", str(job), "--workers", "2", "-o", "json", timeout_s=300)
    assert done.code == 0, done.stderr
    result: dict[str, Any] = done.json()
    assert (result["state"], result["step"], result["restarts"]) == ("succeeded", STEPS, 0)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A failed test shows what the cluster had to say."""
    report = yield
    opened = getattr(item, "funcargs", {}).get("room")
    if report.failed and call.when == "call" and isinstance(opened, Room):
        report.sections.append(("cluster", opened.report()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long jobs took to come back, and what else tests have to tell."""
    passed = [report for report in terminalreporter.stats.get("passed", []) if report.when == "call"]
    told = [(name, value) for report in passed for name, value in report.user_properties]
    rows = [value for name, value in told if name == ROW and isinstance(value, Row)]
    if rows:
        terminalreporter.section(f"from a loss to the next step, on a machine with {os.cpu_count()} cores")
        terminalreporter.write_line(table(rows))
    lines = [value for name, value in told if name == TOLD and isinstance(value, Told)]
    if lines:
        terminalreporter.section("from what the cluster knows to `orch status`")
        terminalreporter.write_line(told_table(lines))
    for name, value in told:
        if name == NOTE:
            terminalreporter.write_line(str(value))
