"""What `orch submit` does first. That it is whole or nothing: tests/e2e/test_checked_submits.py."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from support_api import Answer, api_server

from orchestrator.cli.main import run
from orchestrator.image import package as packaging
from orchestrator.jobfile.resolve import resolve_for_cluster
from orchestrator.jobfile.spec import JobSpec
from orchestrator.jobs import submit as submitting
from orchestrator.kube.client import Cluster
from orchestrator.manifests.render import render as render_objects
from orchestrator.preflight.check import Check, Level
from orchestrator.preflight.names import dry_run
from orchestrator.preflight.subject import JOB_CHECKS, CheckedJob

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
    monkeypatch.setattr(packaging, "package", lambda *_, **__: done.append("image"))
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "task.py").write_text("class Mine: pass\n")
    with api_server([], tmp_path) as (_, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        assert run(["submit", str(tmp_path / "job.yaml"), "--skip", "quota"]) == 78
    assert "the name mine is taken" in capsys.readouterr().err
    assert done == ["permissions", "name", "run-directory", "program"]


def test_what_is_created_is_what_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = JobSpec.model_validate(yaml.safe_load(JOB) | {"image": {"ref": "registry.example/mine:1"}})
    rendered: list[str] = []

    def render(*about: Any, **more: Any) -> list[Any]:
        rendered.append(more["token"])
        return render_objects(*about, **more)

    def preflight(cluster: Cluster, job: CheckedJob, *, skip: set[str]) -> list[Check]:
        tried = dry_run(cluster, job.objects, [], job.spec.name)
        return [Check("dry-run", tried.level, tried.text)]

    monkeypatch.setattr(submitting, "render", render)
    monkeypatch.setattr(submitting, "preflight", preflight)
    created = Answer({"metadata": {"name": "mine", "uid": "uid-1", "labels": {}}})
    said: list[str] = []
    with api_server([created] * 11, tmp_path) as (script, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        submitting.submit(Cluster(), spec, resolve_for_cluster(spec), token="drawn", say=said.append)
    assert rendered == ["drawn"], "once, with the token that the job gets"
    assert said == ["checked: 1 of 1 checks are ok", "submitted: job mine, 1 worker"]
    checked, sent = script.sent[:5], script.sent[5:10]
    assert [asked.get("dryRun") for asked in script.asked] == ["All"] * 5 + [None] * 6
    owned = [{**item, "metadata": {**item["metadata"]}} for item in sent if item is not None]
    carrier, *dependents = owned
    for item in dependents:
        [owner] = item["metadata"].pop("ownerReferences")
        assert owner["uid"] == "uid-1"
    assert carrier["metadata"]["annotations"].pop(submitting.SUBMISSION)
    assert carrier["spec"].pop("suspend") is True
    assert [*dependents, carrier] == checked
