"""`orch delete` where the name is taken anew meanwhile. What it does to pods: tests/e2e/test_verbs.py."""

from pathlib import Path
from typing import Any

import pytest
from support_api import Answer, Script, api_server, listed, refused

from orchestrator.jobs.delete import delete
from orchestrator.kube.carrier import launch_of
from orchestrator.kube.client import Cluster
from orchestrator.kube.names import labels_of

NAME = "digits"
NONE = refused(404, "not found")


def job(uid: str) -> dict[str, Any]:
    metadata = {"name": NAME, "uid": uid, "labels": labels_of(NAME)}
    ended = {"conditions": [{"type": "Complete", "status": "True"}]}
    return {"kind": "Job", "apiVersion": "batch/v1", "metadata": metadata, "spec": {}, "status": ended}


def pod(launch: str) -> dict[str, Any]:
    labels = labels_of(NAME) | {"batch.kubernetes.io/controller-uid": launch}
    return {"metadata": {"name": f"pod-{launch}", "uid": f"pod-{launch}", "labels": labels}, "spec": {}, "status": {}}


def thing(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "labels": labels_of(NAME)}}


FOUND = [
    Answer(job("old")),
    NONE,
    listed("1", thing("policy")),
    listed("1", thing("service")),
    listed("1", thing("config")),
    refused(403, "cannot list secrets"),
    listed("1"),
    listed("1"),
]
"""The Job, no JobSet, what belongs to the job, its pods; that none of them runs."""


def removed(script: Script) -> list[tuple[str, str | None]]:
    """What was deleted, in order, each with the UID that it had to have."""
    pairs = zip(script.asked, script.sent, strict=True)
    deletes = [(asked["path"], sent or {}) for asked, sent in pairs if asked["method"] == "DELETE"]
    return [(path.split("/")[-1], sent.get("preconditions", {}).get("uid")) for path, sent in deletes]


def run(answers: list[Answer], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    with api_server(answers, folder) as (script, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        delete(Cluster(), NAME, say=lambda _: None, timeout_s=5)
    return script


def test_a_secret_that_may_not_be_seen_is_removed_while_the_job_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = [Answer(job("old")), NONE]
    # The name is taken as soon as it is free: the new job has a pod, and is there.
    after = [listed("2", pod("new")), listed("2"), Answer(job("new")), NONE]
    script = run([*FOUND, *again, *[Answer()] * 2, *after, *[Answer()] * 3], tmp_path, monkeypatch)
    assert removed(script) == [
        ("digits-token", None),
        ("digits", "old"),
        ("policy", "uid-policy"),
        ("service", "uid-service"),
        ("config", "uid-config"),
    ]


def test_the_secret_of_a_job_that_has_taken_the_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = [Answer(job("new")), NONE]
    after = [listed("2"), listed("2"), *again]
    script = run([*FOUND, *again, Answer(), *after, *[Answer()] * 3], tmp_path, monkeypatch)
    assert "digits-token" not in [name for name, _ in removed(script)]


def test_a_pod_belongs_to_the_jobset_rather_than_to_its_job() -> None:
    labels = {"batch.kubernetes.io/controller-uid": "job", "jobset.sigs.k8s.io/jobset-uid": "jobset"}
    assert launch_of({"metadata": {"labels": labels}}) == "jobset"
    assert launch_of({"metadata": {}}) == ""
