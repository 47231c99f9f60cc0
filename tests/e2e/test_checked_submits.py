"""`orch check`, `orch doctor`, and a submit that is whole or nothing, before a real API server, registry and bucket."""

import os
import secrets
import signal
from typing import Any

import pytest
from support_cluster import Room, absent_tag, place_of

from orchestrator.jobfile.load import load
from orchestrator.jobfile.resolve import resolve_for_cluster
from orchestrator.jobs import submit as submitting
from orchestrator.kube.client import Cluster
from orchestrator.kube.errors import ClusterUnreachable
from orchestrator.manifests.render import render
from orchestrator.preflight.subject import JOB_CHECKS

pytestmark = pytest.mark.e2e


def levels(checks: list[dict[str, Any]]) -> dict[str, str]:
    return {check["name"]: check["level"] for check in checks}


def test_a_good_job_passes_every_check_and_nothing_is_created(room: Room) -> None:
    job = room.job_file("good")
    told = room.orch("check", str(job), "-o", "json").json()
    assert told["ok"]
    assert list(levels(told["checks"])) == ["cluster", "namespace", *JOB_CHECKS.skippable()]
    texts = {check["name"]: check["text"] for check in told["checks"]}
    assert f"system:serviceaccount:{room.namespace}:submitter" in texts["cluster"]
    assert "Pod Security: restricted" in texts["pod"]
    # An engine for NetworkPolicies may not be there to be seen; all else is in order, under the roles of k8s/setup alone.
    may_warn = {"network-policy", "bucket"}
    if place_of(room.image):
        assert "MB for linux/" in texts["image"]
    else:  # loaded into the nodes: no registry knows it
        may_warn.add("image")
    assert {name for name, level in levels(told["checks"]).items() if level != "ok"} <= may_warn
    assert room.objects() == []

    shown = room.orch("check", str(job), "--skip", "image").stdout
    assert "ok       quota" in shown
    assert " image " not in shown
    dry = room.orch("submit", str(job), "--dry-run=server")
    assert "nothing was created" in dry.stderr
    assert room.objects() == []


def test_all_that_is_wrong_is_told_at_once_with_remedies_and_stops_the_submit(room: Room) -> None:
    quota = {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "1"}}}
    room.api.create_namespaced_resource_quota(room.namespace, quota)
    rule = {"type": "Container", "max": {"memory": "1Gi"}}
    room.api.create_namespaced_limit_range(room.namespace, {"metadata": {"name": "small"}, "spec": {"limits": [rule]}})
    room.wait_for("the quota's status", lambda: bool(_quota_status(room)))
    job = room.job_file(
        "wrong",
        image={"ref": absent_tag(room.image)},
        volumes=[{"name": "data", "mount": "/data", "claim": "absent"}],
        env={"HF_TOKEN": "hf_of_nobody"},
        scheduling={"node_selector": {"no-such-label": "x"}},
        kubernetes={"pod": {"spec": {"hostNetwork": True}}},
        run={"directory": "gs://no-such-bucket-of-orch/wrong"},
    )
    told = room.orch("check", str(job), "-o", "json", check=False)
    assert told.code == 78
    found = levels(told.json()["checks"])
    wrong = {name for name, level in found.items() if level == "error"}
    assert wrong - {"image"} == {"quota", "limits", "references", "bucket", "pod"}
    # Docker Hub, where a name without a registry is looked for, asks for a login instead of saying that there is none.
    assert "image" in wrong or (found["image"] == "warning" and not place_of(room.image))
    assert {found["nodes"], found["secrets"]} == {"warning"}
    assert all(check["remedy"] for check in told.json()["checks"] if check["level"] == "error")
    refused = room.orch("submit", str(job), check=False)
    assert refused.code == 78
    for text in (
        f"{len(wrong)} problems",
        "quota team allows 1",
        "at most 1Gi",
        "PersistentVolumeClaim absent",
        "violates PodSecurity",
    ):
        assert text in refused.stderr
    assert "hf_of_nobody" not in told.stdout + refused.stdout + refused.stderr
    assert room.objects() == []


def _quota_status(room: Room) -> Any:
    return room.api.read_namespaced_resource_quota("team", room.namespace).status.hard


@pytest.mark.parametrize("kind", ["Job", "ConfigMap", "NetworkPolicy", "Secret"])
def test_a_name_that_a_stranger_has_is_told_and_not_even_replace_touches_it(room: Room, kind: str) -> None:
    job = room.job_file("taken")
    spec = load(job).spec
    objects = render(spec, resolve_for_cluster(spec), namespace=room.namespace, token="")
    meta = {"metadata": {"name": next(item["metadata"]["name"] for item in objects if item["kind"] == kind)}}
    container = {"name": "c", "image": room.image, "command": ["true"]}
    match kind:
        case "Job":
            pod = {"spec": {"containers": [container], "restartPolicy": "Never"}}
            room.batch.create_namespaced_job(room.namespace, meta | {"spec": {"suspend": True, "template": pod}})
        case "ConfigMap":
            room.api.create_namespaced_config_map(room.namespace, meta)
        case "NetworkPolicy":
            room.network.create_namespaced_network_policy(room.namespace, meta | {"spec": {"podSelector": {}}})
        case "Secret":
            room.api.create_namespaced_secret(room.namespace, meta)
    before = room.objects()
    for more in ([], ["--replace"]):
        refused = room.orch("submit", str(job), *more, check=False)
        assert refused.code == 78
        assert f"{kind} {meta['metadata']['name']} exists already in namespace {room.namespace}" in refused.stderr
    assert room.objects() == before


def test_replace_stops_the_job_with_a_checkpoint_and_the_new_one_goes_on_from_there(room: Room) -> None:
    long = {"task": "trainer.tasks.digits:Digits", "steps": 1_000_000}
    job = room.job_file("again", train=long, checkpoint={"every": "10m"})
    room.orch("submit", str(job))
    first = room.wait_for_status("again", lambda status: status["state"] == "running" and status["step"] > 0)
    taken = room.orch("submit", str(job), check=False)
    assert taken.code == 78
    assert "the name again is taken" in taken.stderr
    assert "--replace" in taken.stderr
    done = room.orch("submit", str(job), "--replace", timeout_s=180)
    assert "replacing job again, which is stopped with a checkpoint first" in done.stderr
    assert "the new job goes on from there" in done.stderr
    second = room.wait_for_status("again", lambda status: status["attempts"] == 2 and status["step"] > first["step"])
    assert second["restarts"] == 0
    # What the first life left lets preflight say how large checkpoints are and how long saves take.
    texts = {
        item["name"]: item["text"] for item in room.orch("check", str(job), "--replace", "-o", "json").json()["checks"]
    }
    assert "from which the job goes on" in texts["checkpoints"]
    assert "a worker needs at least" in texts["memory"]
    room.orch("delete", "again")
    assert room.objects() == []


@pytest.mark.parametrize("how", ["SIGTERM", "lost answer", "refusal"])
def test_a_submit_that_breaks_off_in_the_middle_leaves_nothing(
    room: Room, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(room.kubeconfig))
    spec = load(room.job_file("half")).spec
    cluster = Cluster(namespace=room.namespace)
    create = cluster.create
    created: list[str] = []

    def breaking(item: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        if dry_run:
            return create(item, dry_run=True)
        if how == "refusal" and item["kind"] == "NetworkPolicy":
            item = item | {"spec": {"podSelector": "no such thing"}}
        answer = create(item)
        created.append(item["kind"])
        if how == "SIGTERM" and item["kind"] == "Secret":
            os.kill(os.getpid(), signal.SIGTERM)
        if how == "lost answer":
            raise ClusterUnreachable("the API server does not answer")
        return answer

    monkeypatch.setattr(cluster, "create", breaking)
    said: list[str] = []
    with pytest.raises(BaseException) as ended:
        submitting.submit(cluster, spec, resolve_for_cluster(spec), token=secrets.token_hex(8), say=said.append)
    assert created[0] == "Job", "it did break off in the middle"
    assert isinstance(ended.value, SystemExit) is (how == "SIGTERM")
    assert said[-1] == "nothing was submitted: what had been created is removed again"
    room.wait_for("the removal of what was created", lambda: room.objects() == [])


def test_the_doctor_finds_the_cluster_fit_as_the_submitter(room: Room) -> None:
    done = room.orch("doctor", "-o", "json")
    report = done.json()
    found = levels(report["checks"])
    assert report["ok"]
    assert {found[name] for name in ("cluster", "permissions", "pod", "job", "account", "webhooks")} == {"ok"}
    assert sum(group["nodes"] for group in report["nodes"]) >= 1
    shown = room.orch("doctor").stdout
    assert "Pod Security: restricted" in shown
    assert shown.splitlines()[-1 - len(report["nodes"])].startswith("nodes  ready  accelerator")
    elsewhere = room.orch("doctor", "-n", "default", cluster=False, check=False)
    assert elsewhere.code == 1, "the submitter may do nothing there"
    assert "error    permissions" in elsewhere.stdout
