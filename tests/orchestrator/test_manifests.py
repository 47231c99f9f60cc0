"""From a job file to whole Kubernetes objects. Golden files are written anew by `make golden`."""

import json
import os
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from orchestrator.jobfile.accelerators import Accelerator, every, from_labels
from orchestrator.jobfile.fields import NAME_LENGTH_MAX
from orchestrator.jobfile.rules import kind_of
from orchestrator.jobfile.spec import JobSpec
from orchestrator.kube.names import selector_of
from orchestrator.manifests.patches import merge_patch
from orchestrator.manifests.render import EXCLUSIVE_TOPOLOGY, JOB_FILE, TOKEN_PLACEHOLDER, render
from orchestrator.manifests.yaml_writer import to_yaml
from trainer.config import TrainConfig
from trainer.errors import ConfigError

GOLDEN = Path(__file__).parent / "golden"

MINIMAL = """
name: digits
image: {ref: registry.example/trainer@sha256:0000}
train: {task: "trainer.tasks.digits:Digits", steps: 600}
run: {directory: gs://acme-train/digits}
resources: {workers: 2}
"""
GPU_QUEUED = """
name: vision
image: {ref: registry.example/trainer:gpu, pull_secrets: [registry], pull_policy: Always}
train: {task: "task.py:Vision", epochs: 10, global_batch_size: 512, params: {switch: "on", rate: "1e3"}}
run: {directory: gs://acme-train/vision}
resources: {workers: 4, cpu: 7.5, memory: 30Gi, ephemeral_storage: 50Gi, accelerator: "nvidia-l4:2", capacity: spot}
scheduling: {queue: team-a, priority: high, service_account: trainer, max_runtime: 12h, ttl_after_finish: 7d}
env: {LOG_LEVEL: info, "N": "on"}
"""
TPU = """
name: slice
image: {ref: registry.example/trainer:tpu}
train: {task: "task.py:Big", steps: 10000}
run: {directory: gs://acme-train/slice}
resources: {accelerator: v5litepod-8}
scheduling: {priority: research}
"""
EVERYTHING = """
name: all
image: {ref: registry.example/trainer:1}
train: {command: [python, train.py]}
run: {directory: /mnt/runs/all}
resources: {workers: 3, cpu: 2, memory: 4Gi}
restarts: {max: 500}
preemption: {grace: 90.5s}
scheduling:
  node_selector: {pool: training}
  tolerations:
    - {key: training, operator: Exists, effect: NoSchedule}
    - {key: soon, operator: Equal, value: "true", effect: NoExecute, toleration_seconds: 60}
secrets:
  - {name: wandb, env: {WANDB_API_KEY: key}}
  - {name: data-key, mount: /etc/data-key}
volumes:
  - {name: runs, mount: /mnt/runs, claim: shared}
  - {name: settings, mount: /etc/settings, config_map: settings, read_only: true}
  - {name: scratch, mount: /scratch, empty_dir: 10Gi}
  - {name: images, mount: /images, gcs_bucket: acme-images, read_only: true}
kubernetes:
  pod:
    metadata: {annotations: {team: vision}}
    spec: {hostIPC: false, schedulerName: gang, terminationGracePeriodSeconds: 120}
  job:
    metadata: {labels: {cost-centre: "42"}}
"""
GROUPS = """
name: groups
image: {ref: registry.example/trainer:1}
train: {task: "task.py:Wide", steps: 1000, global_batch_size: 120}
run: {directory: gs://acme-train/groups}
resources: {workers: 6, cpu: 4, memory: 8Gi}
scheduling: {queue: team-a, priority: high, max_runtime: 12h, ttl_after_finish: 7d}
kubernetes:
  groups: 2
  exclusive_topology: rack
  job: {spec: {backoffLimitPerIndex: 7}}
  jobset: {metadata: {labels: {cost-centre: "42"}}}
"""
TPU_SLICE = """
name: slice
image: {ref: registry.example/trainer:tpu}
train: {task: "task.py:Big", steps: 10000}
run: {directory: gs://acme-train/slice}
resources: {accelerator: v5litepod-16}
restarts: {max: 5}
"""
FLEX_START = """
name: flex
image: {ref: registry.example/trainer:gpu}
train: {task: "task.py:Vision", steps: 1000}
run: {directory: gs://acme-train/flex}
resources: {workers: 2, accelerator: "nvidia-h100-80gb:8", capacity: flex-start}
scheduling: {queue: dws, max_runtime: 2d}
"""
RESERVATION = """
name: reserved
image: {ref: registry.example/trainer:tpu}
train: {task: "task.py:Big", steps: 1000}
run: {directory: gs://acme-train/reserved}
resources:
  accelerator: v6e-4
  capacity: reservation
  reservation: projects/acme-shared/reservations/research/reservationBlocks/block-1
"""
CASES = {
    "cpu": MINIMAL,
    "gpu-queued": GPU_QUEUED,
    "tpu-single-host": TPU,
    "everything": EVERYTHING,
    "groups": GROUPS,
    "tpu-multi-host": TPU_SLICE,
    "flex-start": FLEX_START,
    "reservation": RESERVATION,
}


def spec_of(text: str, **changes: Any) -> JobSpec:
    return JobSpec.model_validate(merge_patch(yaml.safe_load(text), changes))


def config_of(spec: JobSpec) -> TrainConfig:
    assert spec.run.directory is not None
    grace = spec.preemption.grace
    return TrainConfig(
        name=spec.name,
        train=spec.train,
        checkpoint=spec.checkpoint,
        restarts=spec.restarts,
        run_directory=spec.run.directory,
        workers=spec.resources.worker_count(),
        grace_s=60.0 if grace == "auto" else grace,
    )


def rendered(text: str, **changes: Any) -> dict[str, dict[str, Any]]:
    spec = spec_of(text, **changes)
    objects = render(spec, config_of(spec), namespace="research", token=TOKEN_PLACEHOLDER)
    return {item["kind"]: item for item in objects}


def job_of(jobset: dict[str, Any], group: int = 0) -> dict[str, Any]:
    """The Job that JobSet makes of its template for a group, as far as it matters here."""
    (replicated,) = jobset["spec"]["replicatedJobs"]
    name = f"{jobset['metadata']['name']}-{replicated['name']}-{group}"
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}} | replicated["template"]


def environment_of(job: dict[str, Any]) -> dict[str, Any]:
    container = job["spec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry.get("value") or entry["valueFrom"] for entry in container["env"]}


@pytest.mark.parametrize("case", CASES)
def test_a_job_file_renders_to_exactly_these_objects(case: str) -> None:
    text = to_yaml(list(rendered(CASES[case]).values()))
    golden = GOLDEN / f"{case}.yaml"
    if os.environ.get("ORCH_REWRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), "rendered objects changed: if that is wanted, run `make golden`"


@pytest.mark.parametrize("version", ["1.31", "1.34", "1.36"])
@pytest.mark.parametrize("case", CASES)
def test_all_objects_are_what_kubernetes_publishes_as_its_schema(case: str, version: str) -> None:
    for item in rendered(CASES[case]).values():
        # JobSet publishes no such schema, but each of its Jobs is one of Kubernetes.
        checked = job_of(item) if item["kind"] == "JobSet" else item
        kubernetes_validate.validate(checked, version, strict=True)


def test_workers_look_for_worker_0_by_the_name_that_the_service_gives_it() -> None:
    objects = rendered(MINIMAL)
    pod = objects["Job"]["spec"]["template"]
    env = {entry["name"]: entry.get("value") for entry in pod["spec"]["containers"][0]["env"]}
    assert env["ORCH_COORDINATOR"] == "digits-0.digits:8471"
    assert pod["spec"]["subdomain"] == objects["Service"]["metadata"]["name"] == "digits"
    assert objects["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_the_config_map_holds_the_resolved_config_and_its_name_changes_with_it() -> None:
    spec = spec_of(MINIMAL)
    first, other = rendered(MINIMAL)["ConfigMap"], rendered(MINIMAL, train={"steps": 601})["ConfigMap"]
    assert TrainConfig.model_validate_json(first["data"]["config.json"]) == config_of(spec)
    assert first["metadata"]["name"] != other["metadata"]["name"]


@pytest.mark.parametrize("case", CASES)
def test_the_config_map_holds_the_job_file_whole(case: str) -> None:
    text = rendered(CASES[case])["ConfigMap"]["data"][JOB_FILE]
    assert JobSpec.model_validate_json(text, context={"job_file": True}) == spec_of(CASES[case])


def test_every_object_is_found_by_the_labels_of_the_job() -> None:
    for item in rendered(EVERYTHING).values():
        labels = item["metadata"]["labels"]
        assert all(
            part in [f"{key}={value}" for key, value in labels.items()] for part in selector_of("all").split(",")
        )


def test_the_size_of_what_is_rendered_does_not_depend_on_the_number_of_workers() -> None:
    small, large = rendered(MINIMAL), rendered(MINIMAL, resources={"workers": 1000}, train={"global_batch_size": 1000})
    assert large["Job"]["spec"]["completions"] == large["Job"]["spec"]["parallelism"] == 1000
    assert abs(len(json.dumps(large)) - len(json.dumps(small))) < 60


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": {"ref": None}}, "no image"),
        ({"run": {"directory": "/mnt/elsewhere"}}, "no volume that outlives the pods"),
        (
            {"kubernetes": {"pod": {"metadata": {"annotations": {"orch/workers-per-group": "9"}}}, "groups": 2}},
            "changes the annotation orch/workers",
        ),
        ({"kubernetes": {"job": {"metadata": {"annotations": {"orch/run-directory": "x"}}}}}, "orch/run-directory"),
        (
            {"kubernetes": {"groups": 2, "jobset": {"spec": {"replicatedJobs": []}}}},
            "set kubernetes.job, kubernetes.pod",
        ),
        ({"kubernetes": {"groups": 2, "jobset": {"spec": {"failurePolicy": {"maxRestarts": 3}}}}}, "set restarts.max"),
        ({"kubernetes": {"groups": 2, "job": {"spec": {"completions": 2}}}}, "set resources.workers"),
        ({"kubernetes": {"job": {"spec": {"parallelism": 7}}}}, "set resources.workers"),
        ({"kubernetes": {"job": {"spec": {"completionMode": "NonIndexed"}}}}, "spec.completionMode cannot be patched"),
        ({"kubernetes": {"pod": {"spec": {"restartPolicy": "OnFailure"}}}}, "spec.restartPolicy cannot be patched"),
        ({"kubernetes": {"pod": {"spec": {"volumes": []}}}}, "drops orch's own entry orch-config"),
        ({"kubernetes": {"pod": {"spec": {"containers": [{"name": "mine"}]}}}}, "drops orch's own entry trainer"),
        (
            {"kubernetes": {"pod": {"spec": {"containers": [{"name": "trainer", "image": "x"}]}}}},
            "must run orch's agent",
        ),
        ({"kubernetes": {"pod": {"metadata": {"labels": {"app.kubernetes.io/instance": "x"}}}}}, "changes the label"),
    ],
)
def test_what_cannot_work_is_refused_with_words(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rendered(MINIMAL, **changes)
    assert says in str(caught.value)


def test_a_container_that_lacks_what_the_agent_must_know_is_refused() -> None:
    spec = spec_of(MINIMAL)
    container = render(spec, config_of(spec), namespace="n", token="t")[-1]["spec"]["template"]["spec"]["containers"][0]
    for name, entry in (("env", "ORCH_INDEX"), ("volumeMounts", "orch-token")):
        left = [item for item in container[name] if item["name"] != entry]
        patch = {"pod": {"spec": {"containers": [container | {name: left}]}}}
        with pytest.raises(ConfigError, match=entry):
            rendered(MINIMAL, kubernetes=patch)
    with_more = container | {"env": [*container["env"], {"name": "MORE", "value": "1"}]}
    job = rendered(MINIMAL, kubernetes={"pod": {"spec": {"containers": [with_more]}}})["Job"]
    assert environment_of(job)["MORE"] == "1"


def test_a_jobset_has_a_job_for_each_group_whose_workers_find_worker_0() -> None:
    objects = rendered(GROUPS)
    jobset = objects["JobSet"]
    job = job_of(jobset)
    assert jobset["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 3
    environment = environment_of(job)
    # Pods of an Indexed Job have the host name JOB-INDEX, and the Job's name is that of the group.
    host, _, subdomain = environment["ORCH_COORDINATOR"].rpartition(":")[0].partition(".")
    assert host == f"{job['metadata']['name']}-0"
    assert subdomain == job["spec"]["template"]["spec"]["subdomain"] == objects["Service"]["metadata"]["name"]
    # JobSet's own Service would take the name of ours.
    assert jobset["spec"]["network"] == {"enableDNSHostnames": False}
    assert environment["ORCH_GROUP"]["fieldRef"]["fieldPath"] == "metadata.labels['jobset.sigs.k8s.io/job-index']"
    assert environment["ORCH_GROUP_WORKERS"] == "3"
    assert environment["ORCH_LAUNCH"]["fieldRef"]["fieldPath"] == "metadata.labels['jobset.sigs.k8s.io/jobset-uid']"
    assert "suspend" not in job["spec"]
    assert "ttlSecondsAfterFinished" not in job["spec"]
    assert jobset["spec"]["suspend"] is True
    # The patches: of each Job, and of the JobSet.
    assert job["spec"]["backoffLimitPerIndex"] == 7
    assert jobset["metadata"]["labels"]["cost-centre"] == "42"


def test_the_hosts_of_a_tpu_slice_are_one_group_that_is_replaced_whole() -> None:
    jobset = rendered(TPU_SLICE)["JobSet"]
    job = job_of(jobset)
    assert jobset["metadata"]["annotations"][EXCLUSIVE_TOPOLOGY] == "cloud.google.com/gke-nodepool"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 5
    assert jobset["spec"]["replicatedJobs"][0]["replicas"] == 1
    assert job["spec"]["completions"] == 4
    assert job["spec"]["backoffLimitPerIndex"] == 0
    disrupted, final, stopped = job["spec"]["podFailurePolicy"]["rules"]
    assert [disrupted["action"], final["action"], stopped["action"]] == ["FailJob", "FailJob", "Ignore"]
    rules = {rule["name"]: rule for rule in jobset["spec"]["failurePolicy"]["rules"]}
    # As Kubernetes 1.34 words it when such a rule applies.
    message = "Pod research/slice-worker-0-1-x has condition DisruptionTarget matching FailJob rule at index 0"
    assert re.search(rules["disrupted"]["onJobFailureMessagePatterns"][0], message)
    assert rules["disrupted"]["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rules["final"]["action"] == "FailJobSet"


def test_a_lost_pod_of_a_group_without_a_slice_is_replaced_alone() -> None:
    jobset = rendered(GROUPS)["JobSet"]
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 0
    assert job_of(jobset)["spec"]["podFailurePolicy"] == rendered(MINIMAL)["Job"]["spec"]["podFailurePolicy"]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "Job"),
        ({"kubernetes": {"kind": "JobSet"}}, "JobSet"),
        ({"kubernetes": {"groups": 2}}, "JobSet"),
        ({"kubernetes": {"exclusive_topology": "rack"}}, "JobSet"),
        ({"resources": {"accelerator": "v5litepod-8", "workers": None}}, "Job"),
        ({"resources": {"accelerator": "v5litepod-8", "workers": 2}}, "JobSet"),
    ],
)
def test_the_workers_are_carried_by_a_jobset_where_a_job_cannot(changes: dict[str, Any], kind: str) -> None:
    assert kind_of(spec_of(MINIMAL, **changes)) == kind
    assert kind in rendered(MINIMAL, **changes)


@pytest.mark.parametrize(("workers", "groups"), [(10000, 1), (10000, 1000), (9990, 10), (9900, 99), (2240, 1)])
def test_the_longest_name_gives_no_pod_a_name_that_is_too_long(workers: int, groups: int) -> None:
    name = "n" * NAME_LENGTH_MAX
    changes = {"name": name, "resources": {"workers": workers}, "train": {"global_batch_size": workers}}
    (replicated,) = rendered(MINIMAL, kubernetes={"kind": "JobSet", "groups": groups}, **changes)["JobSet"]["spec"][
        "replicatedJobs"
    ]
    last = replicated["template"]["spec"]["completions"] - 1
    # JobSet's webhook counts the five random characters of a pod's name too.
    assert len(f"{name}-{replicated['name']}-{replicated['replicas'] - 1}-{last}-abcde") <= 63


@pytest.mark.parametrize(
    ("changes", "selector", "taints"),
    [
        ({"capacity": "on-demand"}, {}, []),
        ({"capacity": "spot"}, {"gke-spot": "true"}, ["gke-spot"]),
        ({"capacity": "flex-start"}, {"gke-flex-start": "true"}, ["gke-flex-start"]),
        (
            {"capacity": "reservation", "reservation": "research"},
            {"reservation-name": "research", "reservation-affinity": "specific"},
            [],
        ),
        (
            {"capacity": "reservation", "reservation": "projects/acme-shared/reservations/research"},
            {"reservation-name": "research", "reservation-affinity": "specific", "reservation-project": "acme-shared"},
            [],
        ),
    ],
)
def test_each_capacity_asks_for_the_nodes_that_gke_documents(
    changes: dict[str, Any], selector: dict[str, str], taints: list[str]
) -> None:
    pod = rendered(MINIMAL, resources=changes)["Job"]["spec"]["template"]["spec"]
    mark = "cloud.google.com/"
    assert pod.get("nodeSelector", {}) == {mark + key: value for key, value in selector.items()}
    assert [item["key"].removeprefix(mark) for item in pod["tolerations"] if item["key"].startswith(mark)] == taints


def test_a_queued_flex_start_job_says_how_long_its_machines_are_wanted() -> None:
    job = rendered(FLEX_START)["Job"]
    assert job["metadata"]["annotations"]["provreq.kueue.x-k8s.io/maxRunDurationSeconds"] == str(2 * 86400)
    keys = [item["key"] for item in job["spec"]["template"]["spec"]["tolerations"]]
    assert "cloud.google.com/gke-queued" in keys


@pytest.mark.parametrize("entry", list(every()), ids=lambda entry: f"{entry.name}-{entry.topology}-{entry.hosts}")
def test_a_pod_asks_for_exactly_the_accelerator_of_the_job_file(entry: Accelerator) -> None:
    resources = {"accelerator": entry.name, "topology": entry.topology, "workers": entry.hosts or 1}
    spec = spec_of(MINIMAL, resources=resources, train={"global_batch_size": entry.chips})
    carrier = render(spec, config_of(spec), namespace="research", token="t")[-1]
    pod = (job_of(carrier) if carrier["kind"] == "JobSet" else carrier)["spec"]["template"]["spec"]
    asked = pod["containers"][0]["resources"]
    assert asked["limits"][entry.resource] == asked["requests"][entry.resource] == str(entry.chips_per_host)
    assert from_labels(pod["nodeSelector"], int(asked["limits"][entry.resource])) == entry
    assert all(dict(item) in pod["tolerations"] for item in entry.tolerations)


def test_merge_patches_are_those_of_rfc_7386() -> None:
    # The examples of the RFC's appendix A.
    examples = [
        ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
        ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
        ('{"a":"b"}', '{"a":null}', "{}"),
        ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
        ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
        ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
        ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
        ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
        ('["a","b"]', '["c","d"]', '["c","d"]'),
        ('{"a":"b"}', '["c"]', '["c"]'),
        ('{"a":"foo"}', "null", "null"),
        ('{"a":"foo"}', '"bar"', '"bar"'),
        ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
        ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
        ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
    ]
    for target, patch, result in examples:
        assert merge_patch(json.loads(target), json.loads(patch)) == json.loads(result)
