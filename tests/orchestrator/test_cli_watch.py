"""What a target of `orch status` and `orch logs` means, and what submit and delete say where there is no cluster."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from orchestrator.cli.main import run
from trainer.rundir.attempts import AttemptEnd, AttemptRecord, EndRecord, Launch, append_record
from trainer.rundir.open import open_store

JOB = """
name: digits
image: {ref: registry.example/trainer:1}
train: {command: [python, train.py], steps: 10}
run: {directory: gs://acme/digits}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ./runs/digits, and no cluster anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    launch = Launch(id="one", started=datetime(2026, 1, 1, tzinfo=UTC))
    store = open_store(str(tmp_path / "runs" / "digits"))
    facts = {"nonce": "n", "launch": launch, "created": launch.started}
    append_record(store, AttemptRecord(number=1, members=[], restore=None, world_size=1, **facts))
    end = {"number": 2, "state": "succeeded", "code": 0, "reason": "trained 10 steps", "step": 10, "attempts": 1}
    append_record(store, EndRecord.model_validate(facts | end))
    store.put("logs/worker-0/attempt-1/segment-000001.log", b"hello\nworld\n")
    store.put("logs/worker-1/attempt-1/segment-000001.log", b"other\n")
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def test_a_bare_name_is_the_run_of_that_name_here(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "digits", "-o", "json"]) == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines()[0].startswith("run directory runs/digits")
    assert json.loads(shown.out)["state"] == "succeeded"


@pytest.mark.parametrize("target", ["runs/digits", "./runs/digits"])
def test_a_target_with_a_slash_is_a_run_directory(here: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    assert run(["status", target]) == 0
    assert "digits: succeeded" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "digits", "-n", "research"],
        ["logs", "digits", "--context", "x"],
        ["status", "other"],
        ["goodput", "x"],
    ],
)
def test_all_else_is_a_job_of_the_cluster(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(arguments) == 78
    shown = capsys.readouterr().err
    assert "no Kubernetes cluster is configured" in shown
    assert "orch run" in shown


RESTARTS = 13


@pytest.fixture
def restless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """./runs/restless: restarted thirteen times, ten seconds an attempt, and its last save failed."""
    monkeypatch.chdir(tmp_path)
    launch = Launch(id="one", started=datetime(2026, 1, 1, tzinfo=UTC))
    store = open_store(str(tmp_path / "runs" / "restless"))
    for number in range(1, RESTARTS + 2):
        created = launch.started + timedelta(seconds=10 * (number - 1))
        why = AttemptEnd(
            attempt=number - 1, code=137, reason="worker 1: killed (SIGKILL)", worker=1, step=7, at=created, blocks=True
        )
        record = AttemptRecord(
            number=number, nonce="n", launch=launch, created=created, members=[], restore=None, world_size=2,
            restarts=number - 1, previous=why if number > 1 else None,
        )  # fmt: skip
        append_record(store, record)
        lines = [
            {"time": created.timestamp() + 1, "type": "phase", "phase": "train", "step": 0},
            {"time": created.timestamp() + 8, "type": "block", "step": 7, "seconds": 7.0, "metrics": {"loss": 0.5}},
            {"time": created.timestamp() + 9, "type": "save_failed", "step": 7, "error": "no space left"},
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        store.put(f"metrics/attempt-{number}/segment-000001.jsonl", text.encode())
    return tmp_path


def test_status_tells_the_last_ten_restarts_the_goodput_and_saves_that_fail(
    restless: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["status", "restless"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    first = lines.index("restarts of this launch:") + 1
    assert lines[first] == "... and 3 earlier restarts"
    assert lines[first + 1].startswith("00:00:40 UTC attempt 4: ")
    assert lines[first + 10] == (
        "00:02:10 UTC attempt 13: worker 1: killed (SIGKILL); went on from the start, 7 steps lost"
    )
    assert lines[first + 11] == (
        "saves met trouble 14 times, 14 were given up; the last time at 00:02:19 UTC, step 7: no space left"
    )
    assert lines[first + 12] == "goodput 0.0 %, 98 steps lost (orch goodput restless shows where the time went)"
    assert "saves fail: no space left" in lines
    assert any(line.startswith("what to do: training goes on") for line in lines)


def test_status_as_json_has_all_restarts(restless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "restless", "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["history"]) == shown["restarts"] == RESTARTS
    assert shown["history"][0] == {
        "attempt": 1,
        "at": "2026-01-01T00:00:10Z",
        "worker": 1,
        "reason": "worker 1: killed (SIGKILL)",
        "code": 137,
        "step": 7,
        "resumed_step": 0,
        "steps_lost": 7,
    }
    assert (shown["goodput"], shown["steps_lost"], shown["save_error"]) == (0.0, 98, "no space left")


def test_goodput_prints_rows_that_sum_to_the_total(restless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["goodput", "restless", "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert sum(shown["seconds"].values()) == pytest.approx(shown["total_s"]) == pytest.approx(139.0)
    assert shown["seconds"]["steps lost"] == pytest.approx(RESTARTS * 8.0 + 8.0)
    assert (shown["steps_lost"], shown["restarts"], shown["attempts"]) == (98, RESTARTS, RESTARTS + 1)
    assert run(["goodput", "./runs/restless"]) == 0
    text = capsys.readouterr().out
    assert "restless: goodput 0.0 %: 0.0 s of steps kept in 2 min 19 s" in text
    assert "total 139.00 100.0 %" in " ".join(text.split())
    assert "steps: 0 kept, 98 lost; attempts 14, restarts 13" in text


def test_goodput_of_a_folder_without_a_run_says_so(restless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["goodput", "./elsewhere"]) == 78
    assert "./elsewhere holds no run" in capsys.readouterr().err


def test_logs_have_the_worker_before_each_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "digits"]) == 0
    assert capsys.readouterr().out == "[0] hello\n[0] world\n[1] other\n"
    assert run(["logs", "digits", "--worker", "1"]) == 0
    assert capsys.readouterr().out == "[1] other\n"
    assert run(["logs", "digits", "--worker", "one"]) == 2
    assert "write 0,3 or 0-3" in capsys.readouterr().err


def test_a_client_dry_run_asks_no_cluster_and_shows_no_token(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", "job.yaml", "--dry-run=client", "-n", "research", "--set", "resources.workers=2"]) == 0
    objects = {item["kind"]: item for item in yaml.safe_load_all(capsys.readouterr().out)}
    assert objects["Secret"]["stringData"]["token"] == "drawn-at-submit"
    assert objects["Job"]["spec"]["completions"] == 2
    assert {item["metadata"]["namespace"] for item in objects.values()} == {"research"}
    assert run(["submit", "job.yaml", "--dry-run=client", "-o", "json"]) == 0
    assert [item["kind"] for item in json.loads(capsys.readouterr().out)["objects"]] == list(objects)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--dry-run=client", "--wait"], "creates nothing that --wait could wait for"),
        (["--dry-run=server", "-f"], "creates nothing that --follow could wait for"),
        (["--namespace", ""], "it is empty"),
        (["--context", ""], "it is empty"),
        (["--namespace", "My_Team"], "can be no namespace"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert run(["submit", "job.yaml", *options]) == 2
    assert says in capsys.readouterr().err


def test_a_client_dry_run_makes_no_image(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = JOB.replace("{ref: registry.example/trainer:1}", "{repository: 127.0.0.1:1/digits, build: .}")
    (here / "job.yaml").write_text(text)
    assert run(["submit", "job.yaml", "--dry-run=client", "-n", "research"]) == 0
    shown = capsys.readouterr()
    assert "127.0.0.1:1/digits:packaged-at-submit" in shown.out
    assert "a dry run shows a placeholder" in shown.err


def test_submit_and_delete_without_a_cluster_say_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["submit", "job.yaml"], ["delete", "digits"]):
        assert run(arguments) == 78
        assert "no Kubernetes cluster is configured" in capsys.readouterr().err
