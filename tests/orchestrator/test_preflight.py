"""What preflight says of a cluster's facts: quotas, limits, nodes, engines, secrets, memory and time."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from support_api import Answer, api_server, listed, refused

from orchestrator.image.model import LABEL_TRAINER
from orchestrator.image.registry import ImageInfo, ImageNotFound, RegistryDenied, RegistryUnreachable
from orchestrator.jobfile.spec import JobSpec
from orchestrator.jobs.interrupts import held_back
from orchestrator.kube.client import Cluster
from orchestrator.kube.kinds import KINDS
from orchestrator.kube.names import JOBSET_LABEL
from orchestrator.manifests.render import render
from orchestrator.preflight import access, addons, capacity, exposure, names, pod, storage
from orchestrator.preflight import image as images
from orchestrator.preflight.capacity import Demand
from orchestrator.preflight.check import Check, Finding, Level, lines
from orchestrator.preflight.facts import Facts, Unknown, jobset_schema
from orchestrator.preflight.subject import JOB_CHECKS
from trainer.config import TrainConfig
from trainer.rundir.commits import Commit, Shard

Manifest = dict[str, Any]
UNKNOWN = Unknown("you may not")


def worker(cpu: str = "2", memory: str = "4Gi", workers: int = 4, **spec: Any) -> Demand:
    resources = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}
    container = {"name": "trainer", "resources": resources}
    return Demand(workers, {"spec": {"containers": [container]} | spec}, {"jobs.batch": 1, "services": 1})


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> Manifest:
    return {"metadata": {"name": "team"}, "spec": {"hard": hard} | spec, "status": {"hard": hard, "used": used or {}}}


def node(
    name: str = "n", labels: dict[str, str] | None = None, taints: list[Manifest] | None = None, **has: str
) -> Manifest:
    allocatable = {"cpu": "4", "memory": "16Gi", "pods": "110"} | has
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/arch": "amd64"} | (labels or {})},
        "spec": {"taints": taints or []},
        "status": {"allocatable": allocatable},
    }


def facts(**changes: Any) -> Facts:
    whole: dict[str, Any] = {
        "context": "c",
        "namespace": "ns",
        "server": "https://c",
        "version": (1, 34),
        "user": "me",
        "namespace_object": {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
        "groups": {},
        "nodes": [],
        "daemon_sets": [],
        "quotas": [],
        "limit_ranges": [],
    }
    return Facts(**whole | changes)


def job(**changes: Any) -> JobSpec:
    base: Manifest = {
        "name": "digits",
        "image": {"ref": "registry.example/trainer:1"},
        "train": {"task": "trainer.tasks.digits:Digits", "steps": 10},
        "run": {"directory": "gs://acme/digits"},
    }
    return JobSpec.model_validate(base | changes, context={"job_file": True})


def config(**changes: Any) -> TrainConfig:
    base: Manifest = {
        "name": "digits",
        "train": {"task": "a:B", "steps": 10},
        "run_directory": "gs://acme/digits",
        "workers": 2,
        "grace_s": 60.0,
    }
    return TrainConfig.model_validate(base | changes)


# --- quota


def test_a_quota_that_can_never_hold_all_workers_is_an_error_with_both_figures() -> None:
    check = capacity.quota([quota({"requests.memory": "8Gi", "pods": "10"})], worker())
    assert check.level is Level.ERROR
    assert check.text == "requests.memory: the job needs 16Gi, quota team allows 8Gi"


def test_a_quota_that_others_use_is_a_warning() -> None:
    check = capacity.quota([quota({"pods": "5"}, {"pods": "3"})], worker())
    assert check.level is Level.WARNING
    assert "the job needs 4, quota team allows 5, of which 3 are in use" in check.text


@pytest.mark.parametrize(
    ("hard", "fits"),
    [
        ({"cpu": "8"}, True),
        ({"cpu": "7999m"}, False),
        ({"limits.cpu": "8"}, True),
        ({"count/jobs.batch": "0"}, False),
        ({"services": "0"}, False),
        ({"count/services": "1"}, True),
        ({"requests.nvidia.com/gpu": "0"}, True),
    ],
)
def test_quotas_count_requests_limits_pods_and_objects(hard: dict[str, str], fits: bool) -> None:
    assert (capacity.quota([quota(hard)], worker()).level is Level.OK) is fits


HIGH = {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}


@pytest.mark.parametrize(
    ("scope", "priority", "counts"),
    [
        ({"scopes": ["BestEffort"]}, "", False),
        ({"scopes": ["NotBestEffort", "NotTerminating"]}, "", True),
        ({"scopes": ["Terminating"]}, "", False),
        ({"scopeSelector": HIGH}, "high", True),
        ({"scopeSelector": HIGH}, "low", False),
    ],
)
def test_a_quota_with_scopes_counts_the_pods_that_are_in_them(scope: Manifest, priority: str, counts: bool) -> None:
    wanted = worker(priorityClassName=priority) if priority else worker()
    check = capacity.quota([quota({"pods": "1"}, **scope)], wanted)
    assert (check.level is Level.ERROR) is counts


def test_what_may_not_be_looked_at_is_a_warning_and_not_an_error() -> None:
    checks = [
        capacity.quota(UNKNOWN, worker()),
        capacity.limit_range(UNKNOWN, worker()),
        capacity.nodes(UNKNOWN, worker()),
    ]
    assert [check.level for check in checks] == [Level.WARNING] * 3
    assert all("may not" in check.text for check in checks)


# --- limits


def limit_range(**rule: Any) -> Manifest:
    return {"metadata": {"name": "small"}, "spec": {"limits": [{"type": "Container"} | rule]}}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"max": {"memory": "1Gi"}}, "a container has at most 1Gi of memory, not 4Gi"),
        ({"min": {"cpu": "3"}}, "a container asks for at least 3 of cpu, not 2"),
        ({"type": "Pod", "max": {"cpu": "1"}}, "a pod has at most 1 of cpu, not 2"),
        ({"max": {"ephemeral-storage": "1Gi"}}, "a container must have a limit of ephemeral-storage, at most 1Gi"),
    ],
)
def test_a_worker_outside_a_limit_range_is_told_with_both_figures(rule: Manifest, says: str) -> None:
    check = capacity.limit_range([limit_range(**rule)], worker())
    assert check.level is Level.ERROR
    assert says in check.text


def test_what_a_limit_range_fills_in_counts_as_given() -> None:
    bare = Demand(1, {"spec": {"containers": [{"name": "trainer", "resources": {"requests": {"cpu": "1"}}}]}}, {})
    rule = limit_range(max={"memory": "2Gi"}, default={"memory": "1Gi"}, defaultRequest={"memory": "1Gi"})
    assert capacity.limit_range([rule], bare).level is Level.OK


# --- nodes


def test_nodes_that_can_hold_all_workers_when_empty() -> None:
    check = capacity.nodes([node("a"), node("b")], worker())
    assert check.level is Level.OK
    assert "4 of them in all" in check.text


@pytest.mark.parametrize(
    ("found", "wanted", "says"),
    [
        ([], worker(), "the cluster has no nodes"),
        ([node()], worker(nodeSelector={"gpu": "l4"}), "none of 1 nodes has the labels gpu=l4"),
        ([node(cpu="1")], worker(), "cpu: a worker asks for 2, the largest node has 1"),
        ([node()], worker(workers=5), "room for 2 of 5 workers on 1 nodes"),
        ([node(taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])], worker(), "taint gpu=yes:NoSchedule"),
        ([node(taints=[{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}])], worker(), "cordoned"),
    ],
)
def test_nodes_that_cannot_take_the_workers_are_a_warning_with_the_reason(
    found: list[Manifest], wanted: Demand, says: str
) -> None:
    check = capacity.nodes(found, wanted)
    assert check.level is Level.WARNING
    assert says in check.text


def test_a_tolerated_taint_and_an_extended_resource() -> None:
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    wanted = worker(workers=1, tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}])
    wanted.pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "2"
    assert capacity.nodes([node(taints=[taint], **{"nvidia.com/gpu": "2"})], wanted).level is Level.OK
    assert "nvidia.com/gpu: a worker asks for 2" in capacity.nodes([node(taints=[taint])], wanted).text


# --- add-ons


@pytest.mark.parametrize("name", ["anetd", "cilium", "calico-node", "kube-router", "antrea-agent"])
def test_engines_are_known_by_their_daemon_sets(name: str) -> None:
    daemon_set = {"metadata": {"name": name}, "spec": {"template": {"spec": {"containers": []}}}}
    assert addons.network_policy(facts(daemon_sets=[daemon_set])).level is Level.OK


@pytest.mark.parametrize(("flag", "level"), [("true", Level.OK), ("false", Level.WARNING)])
def test_an_engine_that_can_be_switched_off_is_looked_at(flag: str, level: Level) -> None:
    containers = [{"args": [f"--enable-network-policy={flag}"]}]
    daemon_set = {"metadata": {"name": "aws-node"}, "spec": {"template": {"spec": {"containers": containers}}}}
    assert addons.network_policy(facts(daemon_sets=[daemon_set])).level is level


def test_without_an_engine_everybody_reaches_the_workers_and_that_is_said() -> None:
    check = addons.network_policy(facts())
    assert check.level is Level.WARNING
    assert "any pod of the cluster reaches" in check.text
    assert addons.network_policy(facts(daemon_sets=UNKNOWN, groups={"cilium.io": ["v2"]})).level is Level.OK


def test_add_ons_that_a_job_uses_must_be_there_in_a_known_version() -> None:
    none = facts()
    assert addons.addons(none, jobset=False, queue=None).level is Level.OK
    assert "JobSet is not installed" in addons.addons(none, jobset=True, queue=None).text
    assert "Kueue is not installed" in addons.addons(none, jobset=False, queue="team").text
    other = facts(groups={addons.JOBSET: ["v1"]})
    assert "orch speaks v1alpha2" in addons.addons(other, jobset=True, queue=None).text
    both = facts(groups={addons.JOBSET: ["v1alpha2"], addons.KUEUE: ["v1beta1"]})
    assert addons.addons(both, jobset=True, queue="team").text == "JobSet v1alpha2 and Kueue v1beta1: there"


def test_a_jobset_that_lacks_a_field_of_ours_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"action": {}, "onJobFailureReasons": {}}
    bodies = [{"rules": {"properties": known}} for known in (rule, rule | {"onJobFailureMessagePatterns": {}})]
    with api_server([*(Answer(body) for body in bodies), refused(404, "none"), refused(403, "no")], tmp_path) as (
        script,
        kubeconfig,
    ):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        cluster = Cluster()
        schemas = [jobset_schema(cluster) for _ in script.answers]
    assert {query["path"] for query in script.asked} == {"/openapi/v3/apis/jobset.x-k8s.io/v1alpha2"}
    there = facts(groups={addons.JOBSET: ["v1alpha2"]})
    old, *others = [addons.addons(there, jobset=True, queue=None, schema=schema) for schema in schemas]
    assert (old.level, old.text) == (Level.ERROR, "JobSet is too old: orch needs 0.10.1 or newer")
    assert [check.level for check in others] == [Level.OK] * 3
    # What is looked for is what is sent.
    (jobset,) = yaml.safe_load_all((SETUP.parent / "jobset.yaml").read_text())
    assert addons.addons(there, jobset=True, queue=None, schema=jobset).level is Level.OK


# --- access, names


def test_an_old_kubernetes_and_a_namespace_that_is_not_there_are_errors() -> None:
    assert access.cluster(facts()).level is Level.OK
    assert "needs 1.31 or newer" in access.cluster(facts(version=(1, 30))).text
    assert "no namespace ns" in access.namespace(facts(namespace_object=None)).text
    gone = {"metadata": {}, "status": {"phase": "Terminating"}}
    assert "being deleted" in access.namespace(facts(namespace_object=gone)).text
    assert access.namespace(facts(namespace_object=UNKNOWN)).level is Level.OK


def taken(kind: str, job: str, *, over: bool = False) -> names.Taken:
    return names.Taken(kind, "digits", job, over)


@pytest.mark.parametrize(
    ("found", "replace", "level", "says"),
    [
        ([], False, Level.OK, "is free"),
        ([taken("Job", "digits")], False, Level.ERROR, "a job of that name is still there"),
        ([taken("Job", "digits", over=True)], False, Level.ERROR, "has ended"),
        ([taken("Job", "digits"), taken("Service", "digits")], True, Level.OK, "will be replaced"),
        ([taken("Job", "")], True, Level.ERROR, "orch did not make it"),
        ([taken("JobSet", "")], False, Level.ERROR, "the name digits is taken: JobSet digits exists already"),
        ([taken("Job", "digits"), taken("Service", "")], True, Level.ERROR, "Service digits exists already"),
        ([taken("Service", "other")], True, Level.ERROR, "belongs to job other"),
        ([taken("Service", "digits")], False, Level.ERROR, "left behind by a job of this name"),
    ],
)
def test_a_taken_name_is_told_by_whom_and_only_a_job_of_orch_is_replaced(
    found: list[names.Taken], replace: bool, level: Level, says: str
) -> None:
    check = names.name_free(found, "digits", "ns", replace=replace)
    assert check.level is level
    assert says in check.text


def test_the_jobs_that_a_jobset_will_make_must_be_free_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def there(name: str, **labels: str) -> Manifest:
        return {"metadata": {"name": name, "labels": labels}}

    spec = job(kubernetes={"groups": 2}, resources={"workers": 2})
    objects = render(spec, config(), namespace="here", token="")
    strangers = [there("digits-worker-1"), there("digits-worker-2"), there("other-worker-0")]
    own = there("digits-worker-0", **{JOBSET_LABEL: "digits"})
    free = [refused(404, "none") for _ in range(len(objects) + 1)]
    with api_server([*free, listed("1", own, *strangers)], tmp_path) as (_, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        found = names.taken(Cluster(), objects)
    assert found == [names.Taken("Job", "digits-worker-0", "digits"), names.Taken("Job", "digits-worker-1", "")]
    check = names.name_free(found, "digits", "here", replace=True)
    assert check.text.startswith("the name digits is taken: Job digits-worker-1 exists already in namespace here")


@pytest.mark.parametrize(
    ("modes", "workers", "fits"),
    [
        (["ReadWriteMany"], 2, True),
        (["ReadWriteOnce"], 2, False),
        (["ReadWriteOnce"], 1, True),
        (["ReadOnlyMany"], 2, True),
    ],
)
def test_a_claim_with_data_for_several_workers_must_be_shared(modes: list[str], workers: int, fits: bool) -> None:
    claim = {"metadata": {"name": "data"}, "spec": {"accessModes": modes}}
    assert (names.unshared_claim(claim, workers) == "") is fits


# --- secrets


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "DB_PASSWORD", "awsSecretAccessKey", "client-secret"])
def test_names_of_secrets_are_known(name: str) -> None:
    assert exposure.looks_secret(name)


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "KEY", "MONKEY", "MAX_TOKENS", "LOG_LEVEL", "KEYBOARD"])
def test_other_names_are_left_alone(name: str) -> None:
    assert not exposure.looks_secret(name)


def test_secrets_written_out_in_the_job_file_are_a_warning_that_does_not_show_them() -> None:
    spec = job(
        env={"HF_TOKEN": "hf_abc", "GOOGLE_APPLICATION_CREDENTIALS": "/etc/key.json", "USE_TOKEN": "true"},
        train={"task": "a:B", "steps": 1, "params": {"store": {"password": "hunter2"}, "max_tokens": 5}},
    )
    check = exposure.secrets_by_reference(spec)
    assert check.level is Level.WARNING
    assert check.text.startswith("env.HF_TOKEN, train.params.store.password: ")
    assert "hf_abc" not in check.text + check.remedy
    command = job(train={"command": ["python", "t.py", "--api-key", "abc", "--token=xyz", "--tokens", "9"]})
    assert exposure.secrets_by_reference(command).text.startswith("train.command --api-key, train.command --token: ")
    script = job(train={"script": "train.py", "args": ["--wandb-api-key", "abc"]})
    assert exposure.secrets_by_reference(script).text.startswith("train.args --wandb-api-key: ")
    assert exposure.secrets_by_reference(job()).level is Level.OK


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("postgres://me:hunter2@db:5432/runs", True),
        ("--db=redis://:12345@cache", True),
        ("postgres://me:$(DB_PASSWORD)@db", False),
        ("https://user:<password>@host", False),
        ("https://host:8080/a@b", False),
        ("git@host:a/b", False),
    ],
)
def test_a_password_in_a_url_is_known(text: str, has: bool) -> None:
    assert exposure.has_password(text) is has
    assert (exposure.secrets_by_reference(job(env={"DB": text})).level is Level.WARNING) is has
    assert (exposure.secrets_by_reference(job(train={"command": ["run", text]})).level is Level.WARNING) is has


def test_patches_are_looked_through_for_secrets_and_may_name_them() -> None:
    key = {"secretKeyRef": {"name": "wandb", "key": "token"}}
    container = {
        "name": "trainer",
        "args": ["--api-key", "abc"],
        "env": [{"name": "HF_TOKEN", "value": "hf_abc"}, {"name": "WANDB_API_KEY", "valueFrom": key}],
    }
    volumes = [{"name": "a-secret", "secret": {"secretName": "a-token"}}]
    pod = {"spec": {"containers": [container], "volumes": volumes, "imagePullSecrets": [{"name": "pull-secret"}]}}
    annotated = {"metadata": {"annotations": {"db": "postgres://me:hunter2@db"}}}
    spec = job(kubernetes={"kind": "JobSet", "pod": pod, "job": annotated, "jobset": annotated})
    check = exposure.secrets_by_reference(spec)
    assert check.level is Level.WARNING
    assert check.text.partition(": ")[0].split(", ") == [
        "kubernetes.pod.spec.containers[0].args --api-key",
        "kubernetes.pod.spec.containers[0].env[0] (HF_TOKEN)",
        "kubernetes.job.metadata.annotations.db",
        "kubernetes.jobset.metadata.annotations.db",
    ]
    assert not any(secret in check.text for secret in ("abc", "hunter2"))


# --- image


def described(*platforms: str, **labels: str) -> Any:
    info = ImageInfo("sha256:" + "0" * 64, platforms, 445_000_000, labels)
    return lambda ref, *, platform: info


def refusing(problem: Exception) -> Any:
    def describe(ref: str, *, platform: str) -> ImageInfo:
        raise problem

    return describe


def image_check(describe: Any, spec: JobSpec | None = None, nodes: Any = UNKNOWN) -> Finding:
    return images.image(spec or job(), nodes, {}, "0.1.0", describe=describe)


def test_an_image_is_told_with_size_and_platform() -> None:
    check = image_check(described("linux/amd64"))
    assert check.level is Level.OK
    assert "445 MB for linux/amd64" in check.text


def test_an_image_for_another_architecture_is_an_error() -> None:
    check = image_check(described("linux/arm64/v8"), nodes=[node()])
    assert check.level is Level.ERROR
    assert "is for linux/arm64/v8, the nodes are amd64" in check.text
    mixed = image_check(described("linux/amd64"), nodes=[node(), node(labels={"kubernetes.io/arch": "arm64"})])
    assert mixed.level is Level.WARNING


def test_only_a_registry_that_knows_no_such_image_stops_a_submit() -> None:
    assert image_check(refusing(ImageNotFound("no such image"))).level is Level.ERROR
    assert image_check(refusing(RegistryDenied("log in"))).level is Level.WARNING
    assert image_check(refusing(RegistryUnreachable("no answer"))).level is Level.WARNING
    loaded = node() | {"status": {"images": [{"names": ["registry.example/trainer:1"]}]}}
    assert image_check(refusing(ImageNotFound("no such image")), nodes=[loaded]).level is Level.OK


def test_an_image_of_another_orch_is_a_warning() -> None:
    old = image_check(described("linux/amd64", **{LABEL_TRAINER: "0.0.9"}))
    assert (old.level, "built with orch 0.0.9, this is 0.1.0" in old.text) == (Level.WARNING, True)
    assert "orch 0.1.0" in image_check(described("linux/amd64", **{LABEL_TRAINER: "0.1.0"})).text


# --- checkpoints, memory, time


def commit(size_bytes: int) -> Commit:
    facts: Manifest = {
        "step": 900,
        "attempt": 1,
        "nonce": "n",
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "epoch": 0,
        "examples_seen": 0,
        "seed": 0,
        "global_batch_size": 1,
        "world_size": 1,
        "replicas": 1,
        "shards": [Shard(name="s", generation=1, size_bytes=size_bytes, crc32c="")],
        "tensors": [],
    }
    return Commit.model_validate(facts)


def test_the_memory_limit_is_compared_with_what_a_worker_needs_at_least() -> None:
    run = storage.EarlierRun(commit(1_000_000_000))
    least = 2 * 1_000_000_000 + 128_000_000 + storage.TENSORFLOW_BYTES
    assert storage.memory(config(memory_limit_bytes=least - 1), run).level is Level.ERROR
    assert storage.memory(config(memory_limit_bytes=least), run).level is Level.OK
    assert "not known before" in storage.memory(config(memory_limit_bytes=least), storage.EarlierRun()).text
    assert storage.memory(config(memory_limit_bytes=500_000_000), storage.EarlierRun()).level is Level.WARNING
    assert storage.memory(config(), run).level is Level.OK


def test_a_grace_period_shorter_than_a_measured_save_is_a_warning() -> None:
    run = storage.EarlierRun(commit(10), save_s=14.0, block_s=1.5)
    spot = job(resources={"capacity": "spot"})
    assert storage.grace(spot, config(grace_s=15.0), run).level is Level.WARNING
    assert storage.grace(job(), config(grace_s=60.0), run).level is Level.OK
    assert "not known before" in storage.grace(job(), config(), storage.EarlierRun()).text
    assert "15 s, whatever" in storage.grace(spot, config(grace_s=60.0), run).text


def test_the_size_of_checkpoints_is_that_of_the_one_the_job_goes_on_from() -> None:
    check = storage.checkpoints(config(), storage.EarlierRun(commit(38_400_000)))
    assert "38.4 MB each (step-900.attempt-1" in check.text
    assert "153.6 MB at most" in check.text


# --- pod, lines, signals


def test_the_pod_that_is_tried_is_the_template_with_a_name() -> None:
    template = {"metadata": {"labels": {"app.kubernetes.io/instance": "digits"}}, "spec": {"restartPolicy": "Never"}}
    tried = pod.worker_pod(template, "digits", "ns")
    assert tried["metadata"]["namespace"] == "ns"
    assert tried["spec"] == template["spec"]
    assert tried["metadata"]["annotations"] == {"batch.kubernetes.io/job-completion-index": "0"}


def test_lines_stand_in_columns_with_the_remedy_below() -> None:
    assert lines([Check("a", Level.OK, "fine"), Check("long", Level.WARNING, "look", "do this")]) == [
        "ok       a     fine",
        "warning  long  look",
        "               -> do this",
    ]
    assert lines([Check("a", Level.OK, "fine")], paint=lambda level: f"<{level}>") == ["<ok>       a  fine"]
    assert all(" " not in name for name in JOB_CHECKS.skippable())


@pytest.mark.parametrize(("number", "raises"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signals_wait_until_they_are_asked_for(number: int, raises: type[BaseException]) -> None:
    before = signal.getsignal(number)
    done = []
    with pytest.raises(raises), held_back() as raise_if_any:  # noqa: PT012
        raise_if_any()
        os.kill(os.getpid(), number)
        done.append("whole")
        raise_if_any()
    assert done == ["whole"]
    assert signal.getsignal(number) is before


def test_a_signal_that_nobody_asked_for_is_delivered_at_the_end() -> None:
    with pytest.raises(KeyboardInterrupt), held_back():
        os.kill(os.getpid(), signal.SIGINT)


# --- k8s/setup

SETUP = Path(__file__).parents[2] / "k8s" / "setup"


def granted(role: str) -> set[tuple[str, str, str]]:
    """(API group, resource, verb) of each thing that a role allows."""
    rules = yaml.safe_load((SETUP / role).read_text())["rules"]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_submitters_role_grants_what_preflight_asks_for_and_nothing_else() -> None:
    asked = {*access.needed("Job"), *access.needed("JobSet"), *access.wanted(queue=True)}
    wanted = {
        (kind.group, kind.plural + (f"/{item.subresource}" if item.subresource else ""), item.verb)
        for item in asked
        for kind in (KINDS[item.kind],)
    }
    # What `kubectl describe quota` and `kubectl describe limitrange` ask for, to which status sends people.
    by_hand = {("", "resourcequotas", "get"), ("", "limitranges", "get")}
    assert granted("role-submitter.yaml") == wanted | by_hand


@pytest.mark.parametrize(
    "verb_and_kind",
    [
        "watch Job",
        "get Job",
        "watch Event",
        "get ConfigMap",
        "list Service",
        "list NetworkPolicy",
        "get Pod/exec",
        "list Workload",
        "patch Workload",
        "get LocalQueueView/pendingworkloads",
    ],
)
def test_a_verb_that_a_command_uses_is_asked_for_once(verb_and_kind: str) -> None:
    for carrier in ("Job", "JobSet"):
        asked = [item.text for item in (*access.needed(carrier), *access.wanted(queue=True))]
        assert asked.count(verb_and_kind) == 1 or (carrier, verb_and_kind) == ("JobSet", "watch Job")
        assert len(asked) == len(set(asked))
    assert not any("Workload" in item.text or "Queue" in item.text for item in access.wanted(queue=False))


def test_the_roles_read_no_secret_and_write_nothing_outside_the_namespace() -> None:
    submitter, reader = granted("role-submitter.yaml"), granted("role-reader.yaml")
    assert {verb for _, resource, verb in submitter if resource == "secrets"} == {"create", "delete"}
    assert not any("*" in part for rule in submitter | reader for part in rule)
    assert {verb for _, _, verb in reader} <= {"get", "list", "watch"}
    assert not any(resource == "secrets" for _, resource, _ in reader)
