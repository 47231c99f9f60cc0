"""From a job file to whole Kubernetes objects. Golden files are written anew by `make golden`."""

import json
import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from orchestrator.manifests import TOKEN_PLACEHOLDER, render, selector_of
from orchestrator.patches import merge_patch
from orchestrator.spec import JobSpec
from orchestrator.yamltext import to_yaml
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
CASES = {"cpu": MINIMAL, "gpu-queued": GPU_QUEUED, "tpu-single-host": TPU, "everything": EVERYTHING}


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
        workers=spec.resources.workers or 1,
        grace_s=60.0 if grace == "auto" else grace,
    )


def rendered(text: str, **changes: Any) -> dict[str, dict[str, Any]]:
    spec = spec_of(text, **changes)
    objects = render(spec, config_of(spec), namespace="research", token=TOKEN_PLACEHOLDER)
    return {item["kind"]: item for item in objects}


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
        kubernetes_validate.validate(item, version, strict=True)


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
        ({"resources": {"accelerator": "v5litepod-16", "workers": None}}, "slice of 4 hosts"),
        ({"kubernetes": {"kind": "JobSet"}}, "JobSet is not supported yet"),
        ({"image": {"ref": None}}, "no image"),
        ({"run": {"directory": "/mnt/elsewhere"}}, "no volume that outlives the pods"),
        ({"kubernetes": {"job": {"spec": {"parallelism": 7}}}}, "set resources.workers"),
        ({"kubernetes": {"job": {"spec": {"completionMode": "NonIndexed"}}}}, "spec.completionMode cannot be patched"),
        ({"kubernetes": {"pod": {"spec": {"restartPolicy": "OnFailure"}}}}, "spec.restartPolicy cannot be patched"),
        ({"kubernetes": {"pod": {"spec": {"volumes": []}}}}, "drops orch's own entry orch-config"),
        ({"kubernetes": {"pod": {"spec": {"containers": [{"name": "mine"}]}}}}, "drops orch's own entry trainer"),
        ({"kubernetes": {"pod": {"metadata": {"labels": {"app.kubernetes.io/instance": "x"}}}}}, "changes the label"),
    ],
)
def test_what_cannot_work_is_refused_with_words(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rendered(MINIMAL, **changes)
    assert says in str(caught.value)


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
