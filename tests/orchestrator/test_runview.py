"""What a status says of a run directory that cannot be read."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from support_gcs import FakeGcs, Proxy, always, healthy

from orchestrator.cli.main import run
from orchestrator.cli.watch import _watch
from orchestrator.runs.goodput import history_lines
from orchestrator.runs.lock import private_folder, run_lock, write_live
from orchestrator.status.run_directory import follow_run
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord, Launch, append_record
from trainer.rundir.history import Restart
from trainer.rundir.open import open_store
from trainer.wire.coordinator import AgentReport, JobState
from trainer.wire.process import Phase

LAUNCH = Launch(id="one", started=datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def proxy(gcs_server: FakeGcs, gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    facts: dict[str, Any] = {"nonce": "n", "launch": LAUNCH, "created": LAUNCH.started}
    append_record(open_store(gcs_url), AttemptRecord(number=1, members=[], restore=None, world_size=1, **facts))
    proxy = Proxy(gcs_server.url)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    yield proxy
    proxy.close()


@pytest.fixture
def held(gcs_url: str) -> Iterator[str]:
    """The run directory, held by an `orch run` whose coordinator tells that it trains."""
    report = AgentReport(
        launch=LAUNCH.id, index=0, uid="zero", address="127.0.0.1", port=1, state="running", attempt=1, step=450,
        phase=Phase.TRAIN, last_commit=CommitRef(step=400, attempt=1), save_error="503 of the bucket",
    )  # fmt: skip
    state = JobState(
        name="digits", launch=LAUNCH.id, state="running", reason="", attempt=1, restarts=0, budget_used=0,
        budget_max=20, step=450, total_steps=500, rate=10.0, metrics={"loss": 0.25}, workers=[report],
    )  # fmt: skip
    with run_lock(gcs_url, "digits"):
        folder = private_folder(gcs_url)
        folder.mkdir()
        write_live(folder, state)
        yield gcs_url
        (folder / "state.json").unlink()
        folder.rmdir()


def test_while_the_bucket_is_away_status_says_what_the_coordinator_does(
    proxy: Proxy, held: str, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.rule = always(403)
    assert run(["status", held, "-o", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["state"], facts["step"], facts["total_steps"], facts["attempts"]) == ("running", 450, 500, 1)
    assert "checkpoint at step 400 or later" in facts["reason"]
    assert (facts["workers"][0]["state"], facts["metrics"]) == ("train", {"loss": 0.25})
    assert run(["status", f"{held}/"]) == 0
    shown = capsys.readouterr().out
    assert f"the run directory cannot be read: cannot list {held}/attempts/: 403" in shown
    assert "saves fail: 503 of the bucket" in shown
    proxy.rule = healthy
    assert run(["status", held, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["unread"] == ""


def test_where_nobody_else_can_be_asked_the_trouble_is_the_answer(
    proxy: Proxy, gcs_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.rule = always(403)
    assert run(["status", gcs_url]) == 75
    assert "403" in capsys.readouterr().err


def test_a_watch_goes_on_through_an_outage(
    proxy: Proxy, gcs_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts: dict[str, Any] = {"nonce": "n", "launch": LAUNCH, "created": LAUNCH.started, "step": 500}
    end = EndRecord(number=2, state="failed", code=70, reason="it raised", **facts)
    # Its workers wrote lately: for all that is known, it runs.
    sign = {"time": datetime.now(UTC).timestamp(), "type": "block", "step": 400}
    open_store(gcs_url).put("metrics/attempt-1/segment-000001.jsonl", json.dumps(sign).encode())
    happens = iter(
        [
            lambda: setattr(proxy, "rule", always(403)),
            lambda: None,
            lambda: setattr(proxy, "rule", healthy),
            lambda: append_record(open_store(gcs_url), end),
        ]
    )
    monkeypatch.setattr("orchestrator.status.run_directory.time.sleep", lambda seconds: next(happens)())
    assert _watch(follow_run(gcs_url), gcs_url, as_json=True) == 70
    seen = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(facts["state"], bool(facts["unread"])) for facts in seen] == [
        ("running", False), ("running", True), ("running", False), ("failed", False)
    ]  # fmt: skip


def test_only_an_end_that_has_stacks_or_does_not_tell_leads_to_them() -> None:
    def told(**fields: Any) -> str:
        hang = {"attempt": 1, "at": None, "worker": 1, "reason": "worker 1 hung", "code": 76, "step": 7}
        record = {"resumed_step": 0, "steps_lost": 7}
        return history_lines([Restart.model_validate(hang | record | fields)], 1, "runs/digits")[0]

    assert told(stacks=True).endswith("; its stacks: orch logs runs/digits --worker 1")
    assert told() == told(stacks=True), "records of the version before do not tell"
    assert "stacks" not in told(stacks=False)
    assert "stacks" not in told(code=137)
