"""The last lines of `orch run`, for runs that are over already."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import run
from orchestrator.local.run import LocalRun
from orchestrator.status.model import JobStatus
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, Launch, append_record
from trainer.rundir.open import open_store
from trainer.rundir.store import Store

START = datetime(2026, 1, 1, tzinfo=UTC)
JOB = """
name: digits
train: {task: "trainer.tasks.digits:Digits", steps: 500}
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """./runs/digits, whose launch `own` has succeeded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    return open_store(str(tmp_path / "runs/digits"))


@pytest.fixture
def last_lines(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    result = JobStatus("digits", "succeeded", 0, "trained 500 steps", 500, 1, 0, store.url, {}, None)
    monkeypatch.setattr(LocalRun, "run", lambda _self: result)

    def lines() -> str:
        assert run(["run", "job.yaml"]) == 0
        return capsys.readouterr().out

    return lines


def append(store: Store, *launches: str, end: str = "own") -> None:
    """An attempt of each of these launches, ten seconds apart, and the end of one."""
    facts: dict[str, Any] = {"nonce": "n", "launch": Launch(id=end, started=START), "created": START}
    for number, name in enumerate(launches, 1):
        given = facts | {"launch": Launch(id=name, started=START), "created": START + timedelta(seconds=10 * number)}
        restore = CommitRef(step=400, attempt=number - 1) if number > 1 else None
        append_record(store, AttemptRecord(number=number, members=[], restore=restore, world_size=1, **given))
    told = {"state": "succeeded", "code": 0, "reason": "trained 500 steps", "step": 500}
    append_record(store, EndRecord.model_validate(facts | told | {"number": len(launches) + 1}))


def tell(store: Store, attempt: int, *signs: dict[str, Any]) -> None:
    lines = [{"time": START.timestamp() + 10 * attempt + number, **sign} for number, sign in enumerate(signs)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    store.put(f"metrics/attempt-{attempt}/segment-000001.jsonl", text.encode())


def test_nothing_is_said_of_a_run_in_which_nothing_happened(store: Store, last_lines: Callable[[], str]) -> None:
    append(store, "own")
    tell(store, 1, {"type": "block", "step": 500}, {"type": "ended", "step": 500})
    assert last_lines() == "digits: succeeded at step 500: trained 500 steps\nrun directory: runs/digits\n"


def test_saves_in_trouble_are_told_also_where_nothing_was_restarted(
    store: Store, last_lines: Callable[[], str]
) -> None:
    append(store, "own")
    trouble = {"type": "save_trouble", "step": 300, "error": "No space left on device"}
    tell(store, 1, {"type": "block", "step": 300}, trouble, {"type": "ended", "step": 500})
    shown = last_lines()
    assert "saves met trouble once; the last time at 00:00:11 UTC, step 300: No space left on device\ngoodput " in shown


def test_a_launch_before_it_that_was_killed_is_told(store: Store, last_lines: Callable[[], str]) -> None:
    append(store, "killed", "own")
    tell(store, 1, {"type": "phase", "phase": "train"}, {"type": "block", "step": 450})
    tell(store, 2, {"type": "block", "step": 500}, {"type": "ended", "step": 500})
    line = (
        "an earlier launch ended without a word: attempt 1, last heard of at 2026-01-01 00:00:11 UTC, step 450; "
        "the next one went on from step 400, 50 steps lost\n"
    )
    assert f"run directory: runs/digits\n{line}goodput " in last_lines()


def test_status_tells_of_launches_that_were_killed(
    store: Store, last_lines: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    append(store, "killed", "killed too", "own")
    tell(store, 2, {"type": "block", "step": 450})
    assert run(["status", "digits"]) == 0
    assert "  2 earlier launches ended without a word: the last of them in attempt 2, " in capsys.readouterr().out
    assert run(["status", "digits", "-o", "json"]) == 0
    assert [launch["steps_lost"] for launch in json.loads(capsys.readouterr().out)["broken_off"]] == [None, 50]


def test_what_cannot_be_read_at_the_end_is_said(store: Store, last_lines: Callable[[], str]) -> None:
    store.put("attempts/1.json", b"torn")
    assert "the run directory cannot be read: attempts/1.json in " in last_lines()
