"""What `orch submit` does first. That it is whole or nothing: tests/e2e/test_checked_submits.py."""

from pathlib import Path
from typing import Any

import pytest
from support_api import api_server

from orchestrator import image
from orchestrator import submit as submitting
from orchestrator.cli.main import run
from orchestrator.preflight.check import Check, Level
from orchestrator.preflight.subject import JOB_CHECKS

JOB = """
name: mine
image: {repository: registry.example/mine, build: .}
train: {task: "task.py:Mine", steps: 10}
run: {directory: gs://bucket/mine}
"""


def test_no_image_is_made_for_a_job_whose_name_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def preflight(*_: Any, skip: set[str]) -> list[Any]:
        done.extend(name for name in JOB_CHECKS.skippable() if name not in skip)
        return [Check("name", Level.ERROR, "the name mine is taken")]

    monkeypatch.setattr(submitting, "preflight", preflight)
    monkeypatch.setattr(image, "package", lambda *_, **__: done.append("image"))
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "task.py").write_text("class Mine: pass\n")
    with api_server([], tmp_path) as (_, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        assert run(["submit", str(tmp_path / "job.yaml"), "--skip", "quota"]) == 78
    assert "the name mine is taken" in capsys.readouterr().err
    assert done == ["permissions", "name", "run-directory"]
