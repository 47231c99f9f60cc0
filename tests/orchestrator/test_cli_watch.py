"""What a target of `orch status` and `orch logs` means, and what submit and delete say where there is no cluster."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from orchestrator.cli.main import run
from trainer.rundir.attempts import AttemptRecord, EndRecord, Launch, append_record
from trainer.rundir.store import open_store

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
    "arguments", [["status", "digits", "-n", "research"], ["logs", "digits", "--context", "x"], ["status", "other"]]
)
def test_all_else_is_a_job_of_the_cluster(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(arguments) == 78
    shown = capsys.readouterr().err
    assert "no Kubernetes cluster is configured" in shown
    assert "orch run" in shown


def test_logs_have_the_worker_before_each_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "digits"]) == 0
    assert capsys.readouterr().out == "[0] hello\n[0] world\n[1] other\n"
    assert run(["logs", "digits", "--worker", "1"]) == 0
    assert capsys.readouterr().out == "[1] other\n"
    assert run(["logs", "digits", "--worker", "one"]) == 2
    assert "write --worker 0,1" in capsys.readouterr().err


def test_a_client_dry_run_asks_no_cluster_and_shows_no_token(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", "job.yaml", "--dry-run=client", "-n", "research", "--set", "resources.workers=2"]) == 0
    objects = {item["kind"]: item for item in yaml.safe_load_all(capsys.readouterr().out)}
    assert objects["Secret"]["stringData"]["token"] == "drawn-at-submit"
    assert objects["Job"]["spec"]["completions"] == 2
    assert {item["metadata"]["namespace"] for item in objects.values()} == {"research"}


def test_an_image_that_is_to_be_built_says_how_to_build_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "job.yaml").write_text(
        JOB.replace("{ref: registry.example/trainer:1}", "{repository: acme/digits, build: .}")
    )
    assert run(["submit", "job.yaml"]) == 78
    shown = capsys.readouterr().err
    assert "image.build is not built by orch yet" in shown
    assert "docker build -t acme/digits ." in shown


def test_submit_and_delete_without_a_cluster_say_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["submit", "job.yaml"], ["delete", "digits"]):
        assert run(arguments) == 78
        assert "no Kubernetes cluster is configured" in capsys.readouterr().err
