"""`orch resume` of a job that is made anew. That it goes on with the same weights: tests/e2e/test_verbs.py."""

from pathlib import Path
from typing import Any

import pytest
from support_api import Answer, api_server

from orchestrator.cli.main import run
from orchestrator.jobfile.resolve import resolve_for_cluster
from orchestrator.jobfile.spec import JobSpec
from orchestrator.jobs import submit as submitting
from orchestrator.kube.client import Cluster
from orchestrator.manifests.render import render

SPEC = JobSpec.model_validate(
    {
        "name": "digits",
        "image": {"ref": "registry.example/trainer:1"},
        "train": {"task": "trainer.tasks.digits:Digits", "steps": 10},
        "run": {"directory": "gs://nobody-from-here/digits"},
        "resources": {"workers": 2},
    }
)


def test_the_checks_that_a_job_was_submitted_without_can_be_left_out_at_its_resumption_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, config_map, *_, job = render(SPEC, resolve_for_cluster(SPEC), namespace="here", token="")
    failed = job | {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    given: dict[str, Any] = {}

    def submit(cluster: Cluster, spec: JobSpec, config: object, **more: Any) -> submitting.Submitted:
        given.update(more, workers=spec.resources.workers)
        return submitting.Submitted(spec.name, cluster.namespace, cluster.context, "uid", 4, "gs://b/digits", False)

    monkeypatch.setattr(submitting, "submit", submit)
    monkeypatch.chdir(tmp_path)
    with api_server([Answer(failed), Answer(config_map)], tmp_path) as (_, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        assert run(["resume", "digits", "--workers", "4", "--skip", "bucket", "--skip", "image"]) == 0
    assert (given["skip"], given["replace"], given["workers"]) == (("bucket", "image"), True, 4)
