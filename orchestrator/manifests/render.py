"""JobSpec and TrainConfig -> the Kubernetes objects of one job, as plain dicts. Pure: no I/O but the YAML in k8s/,
no clock, no cluster; the agents' token is an argument.

The bases say what every job has; here stands only what differs from job to job. Patches come last (patches.py).
"""

import copy
import functools
import hashlib
import json
import math
from importlib import resources

import yaml

from orchestrator.jobfile.accelerators import Accelerator
from orchestrator.jobfile.capacity import Capacity, capacity_of
from orchestrator.jobfile.rules import kind_of
from orchestrator.jobfile.sections import Toleration
from orchestrator.jobfile.spec import JobSpec
from orchestrator.kube.carrier import REPLICATED_JOB
from orchestrator.kube.names import GROUP_LABEL, GROUP_WORKERS, JOBSET_UID_LABEL, QUEUE_LABEL, RUN_DIRECTORY, labels_of
from orchestrator.kube.objects import Manifest
from orchestrator.manifests.patches import apply_patches
from orchestrator.manifests.volumes import check_run_directory, secret_volume, volume_source
from trainer.config import TrainConfig
from trainer.errors import ConfigError

AGENT_PORT = 8471
# libtpu's own server takes 8471 in a TPU pod.
AGENT_PORT_TPU = 8491
TOKEN_PLACEHOLDER = "drawn-at-submit"
EXCLUSIVE_TOPOLOGY = "alpha.jobset.sigs.k8s.io/exclusive-topology"
"""The annotation of a JobSet that gives each group a node pool, a rack, ... of its own: by which label of the nodes."""
NODE_POOL = "cloud.google.com/gke-nodepool"
"""A slice of several hosts is a node pool of GKE."""
JOB_FILE = "job.json"
"""The key of the ConfigMap that holds the job file itself, so that `orch resume` can make the objects anew."""


def token_name(name: str) -> str:
    """The Secret of a job's agents."""
    return f"{name}-token"


def render(spec: JobSpec, config: TrainConfig, *, namespace: str, token: str) -> list[Manifest]:
    """The objects of a job, in the order in which `kubectl apply` should see them; the Job or JobSet is the last.

    Args:
        spec: the job file.
        config: what spec resolves to, the same for all workers.
        namespace: where all of it goes.
        token: the secret of the agents' HTTP. TOKEN_PLACEHOLDER in dry runs and golden files.

    Raises:
        ConfigError: Kubernetes cannot run the job as it is described.
    """
    accelerator = spec.resources.hardware()
    config_map = _config_map(spec, config)
    secret = _base("secret")
    secret["metadata"]["name"] = token_name(spec.name)
    secret["stringData"]["token"] = token
    port = _agent_port(accelerator)
    service = _base("service")
    service["metadata"]["name"] = spec.name
    service["spec"]["selector"] = labels_of(spec.name)
    service["spec"]["ports"][0]["port"] = port
    policy = _base("networkpolicy")
    policy["metadata"]["name"] = spec.name
    policy["spec"]["podSelector"]["matchLabels"] = labels_of(spec.name)
    policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"] = labels_of(spec.name)
    carrier = _job(spec, config, accelerator, config_map["metadata"]["name"], secret["metadata"]["name"])
    if kind_of(spec) == "JobSet":
        carrier = _jobset(spec, config, accelerator, carrier)
    objects = [secret, config_map, service, policy, carrier]
    for item in objects:
        given = item["metadata"]
        item["metadata"] = {
            "name": given["name"],
            "namespace": namespace,
            "labels": labels_of(spec.name) | given.get("labels", {}),
        } | {key: value for key, value in given.items() if key == "annotations"}
    objects[-1] = apply_patches(carrier, spec.kubernetes)
    return objects


@functools.cache
def _read_base(name: str) -> Manifest:
    text = (resources.files("k8s") / f"{name}.yaml").read_text()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    base: Manifest = yaml.load(text, Loader=loader)
    return base


def _base(name: str) -> Manifest:
    return copy.deepcopy(_read_base(name))


def _config_map(spec: JobSpec, config: TrainConfig) -> Manifest:
    data = {
        "config.json": _json(config.model_dump(mode="json")),
        JOB_FILE: _json(spec.written()),
    }
    base = _base("configmap")
    digest = hashlib.sha256("".join(data.values()).encode()).hexdigest()[:10]
    base["metadata"]["name"] = f"{config.name}-config-{digest}"
    base["data"] = data
    return base


def _json(value: Manifest) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _agent_port(accelerator: Accelerator | None) -> int:
    return AGENT_PORT_TPU if accelerator is not None and accelerator.kind == "tpu" else AGENT_PORT


def _job(spec: JobSpec, config: TrainConfig, accelerator: Accelerator | None, config_map: str, secret: str) -> Manifest:
    job = _base("job")
    scheduling = spec.scheduling
    metadata, body = job["metadata"], job["spec"]
    metadata["name"] = spec.name
    metadata["annotations"] = {RUN_DIRECTORY: config.run_directory} | dict(_capacity(spec).annotations)
    body["completions"] = body["parallelism"] = config.workers
    body["backoffLimitPerIndex"] = max(body["backoffLimitPerIndex"], spec.restarts.max)
    if scheduling.max_runtime is not None:
        body["activeDeadlineSeconds"] = math.ceil(scheduling.max_runtime)
    if scheduling.ttl_after_finish is not None:
        body["ttlSecondsAfterFinished"] = math.ceil(scheduling.ttl_after_finish)
    if scheduling.queue is not None:
        metadata["labels"] = {QUEUE_LABEL: scheduling.queue}
        if scheduling.priority is not None:
            metadata["labels"]["kueue.x-k8s.io/priority-class"] = scheduling.priority
        body["suspend"] = True
    template = body["template"]
    template["metadata"]["labels"] = labels_of(spec.name)
    _fill_pod(template, spec, config, accelerator, config_map, secret)
    return job


def _jobset(spec: JobSpec, config: TrainConfig, accelerator: Accelerator | None, job: Manifest) -> Manifest:
    """A JobSet around the Job: what is about the whole job moves outward, what is about one group stays in its Job."""
    jobset = _base("jobset")
    jobset["metadata"] = job["metadata"]
    outer, child = jobset["spec"], job["spec"]
    for key in ("suspend", "ttlSecondsAfterFinished"):
        if key in child:
            outer[key] = child.pop(key)
    (replicated,) = outer["replicatedJobs"]
    groups = replicated["replicas"] = spec.kubernetes.groups
    replicated["template"]["spec"] = child
    child["completions"] = child["parallelism"] = config.workers // groups
    topology = spec.kubernetes.exclusive_topology
    if accelerator is not None and accelerator.multi_host:
        _replace_whole(outer, child, spec.restarts.max)
        topology = topology or NODE_POOL
    if topology is not None:
        jobset["metadata"]["annotations"][EXCLUSIVE_TOPOLOGY] = topology
    template = child["template"]
    template["metadata"]["annotations"][GROUP_WORKERS] = str(config.workers // groups)
    container = template["spec"]["containers"][0]
    own = {entry["name"]: entry for entry in container["env"]}
    port = _agent_port(accelerator)
    own["ORCH_COORDINATOR"]["value"] = f"{spec.name}-{REPLICATED_JOB}-0-0.{spec.name}:{port}"
    own["ORCH_LAUNCH"]["valueFrom"] = _label_of_pod(JOBSET_UID_LABEL)
    place = list(own).index("ORCH_INDEX") + 1
    container["env"][place:place] = [
        {"name": "ORCH_GROUP", "valueFrom": _label_of_pod(GROUP_LABEL)},
        {"name": "ORCH_GROUP_WORKERS", "value": str(config.workers // groups)},
    ]
    return jobset


def _label_of_pod(label: str) -> Manifest:
    return {"fieldRef": {"fieldPath": f"metadata.labels['{label}']"}}


def _replace_whole(jobset: Manifest, child: Manifest, restarts_max: int) -> None:
    """The hosts of a slice are replaced together: a pod that is lost by a disruption or an error fails the Job, and the JobSet
    makes it anew. One that leaves with 143, as when it is deleted by hand, is replaced alone."""
    jobset["failurePolicy"]["maxRestarts"] = restarts_max
    child["backoffLimitPerIndex"] = 0
    disrupted = child["podFailurePolicy"]["rules"][0]
    disrupted["action"] = "FailJob"


def _fill_pod(
    template: Manifest,
    spec: JobSpec,
    config: TrainConfig,
    accelerator: Accelerator | None,
    config_map: str,
    secret: str,
) -> None:
    scheduling = spec.scheduling
    pod = template["spec"]
    pod["subdomain"] = spec.name
    pod["terminationGracePeriodSeconds"] = math.ceil(config.grace_s)
    if scheduling.service_account is not None:
        pod["serviceAccountName"] = scheduling.service_account
    if scheduling.priority is not None and scheduling.queue is None:
        pod["priorityClassName"] = scheduling.priority
    if spec.image.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in spec.image.pull_secrets]
    node_selector = _node_selector(spec, accelerator)
    if node_selector:
        pod["nodeSelector"] = node_selector
    pod["tolerations"] += _tolerations(spec, accelerator)
    for volume in pod["volumes"]:
        if volume["name"] == "orch-config":
            volume["configMap"]["name"] = config_map
        if volume["name"] == "orch-token":
            volume["secret"]["secretName"] = secret
    pod["volumes"] += [volume_source(volume) for volume in spec.volumes]
    pod["volumes"] += [secret_volume(item) for item in spec.secrets if item.mount]
    if any(volume.gcs_bucket for volume in spec.volumes):
        template["metadata"]["annotations"]["gke-gcsfuse/volumes"] = "true"
    container = pod["containers"][0]
    _fill_container(container, spec, accelerator)
    if accelerator is not None and accelerator.kind == "gpu":
        # NCCL passes buffers through /dev/shm, of which a container has 64 MiB by default.
        pod["volumes"].append({"name": "orch-shm", "emptyDir": {"medium": "Memory"}})
        container["volumeMounts"].append({"name": "orch-shm", "mountPath": "/dev/shm"})
    check_run_directory(spec.name, config.run_directory, spec.volumes)


def _fill_container(container: Manifest, spec: JobSpec, accelerator: Accelerator | None) -> None:
    if spec.image.ref is None:
        raise ConfigError(
            f"job {spec.name} has no image",
            remedy="name a finished one: image: {ref: repo/name@sha256:...}. With image.build, `orch submit` makes one; "
            "`orch package` prints the name of it, for --set 'image={ref: NAME}'",
        )
    container["image"] = spec.image.ref
    if spec.image.pull_policy is not None:
        container["imagePullPolicy"] = spec.image.pull_policy
    port = _agent_port(accelerator)
    container["ports"][0]["containerPort"] = port
    own = {entry["name"]: entry for entry in container["env"]}
    own["ORCH_COORDINATOR"]["value"] = f"{spec.name}-0.{spec.name}:{port}"
    own["ORCH_PORT"]["value"] = str(port)
    env: list[Manifest] = [{"name": name, "value": value} for name, value in spec.env.items()]
    env += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": item.name, "key": key}}}
        for item in spec.secrets
        for name, key in item.env.items()
    ]
    given = {entry["name"] for entry in env}
    container["env"] = [entry for entry in container["env"] if entry["name"] not in given] + env
    container["volumeMounts"] += [
        {"name": volume.name, "mountPath": volume.mount} | ({"readOnly": True} if volume.read_only else {})
        for volume in spec.volumes
    ]
    container["volumeMounts"] += [
        {"name": f"secret-{item.name}", "mountPath": item.mount, "readOnly": True}
        for item in spec.secrets
        if item.mount
    ]
    if accelerator is not None and accelerator.privileged:
        container["securityContext"] = {"privileged": True}
    container["resources"] = _resources(spec, container["resources"]["requests"], accelerator)


def _resources(spec: JobSpec, defaults: dict[str, str], accelerator: Accelerator | None) -> Manifest:
    """Requests equal limits for what the job file names, so that a worker is neither throttled nor evicted by surprise;
    what it does not name is requested modestly and not limited."""
    asked = spec.resources
    limits: dict[str, str] = {}
    if asked.cpu is not None:
        limits["cpu"] = f"{round(asked.cpu * 1000)}m" if asked.cpu % 1 else str(int(asked.cpu))
    if asked.memory is not None:
        limits["memory"] = asked.memory
    if asked.ephemeral_storage is not None:
        limits["ephemeral-storage"] = asked.ephemeral_storage
    if accelerator is not None:
        limits[accelerator.resource] = str(accelerator.chips_per_host)
    result: Manifest = {"requests": defaults | limits}
    if limits:
        result["limits"] = limits
    return result


def _capacity(spec: JobSpec) -> Capacity:
    scheduling = spec.scheduling
    return capacity_of(
        spec.resources.capacity,
        reservation=spec.resources.reservation,
        queued=scheduling.queue is not None,
        max_runtime_s=scheduling.max_runtime,
    )


def _node_selector(spec: JobSpec, accelerator: Accelerator | None) -> dict[str, str]:
    selector: dict[str, str] = dict(accelerator.node_selector) if accelerator is not None else {}
    return selector | dict(_capacity(spec).node_selector) | spec.scheduling.node_selector


def _tolerations(spec: JobSpec, accelerator: Accelerator | None) -> list[Manifest]:
    tolerations = [_toleration(item) for item in spec.scheduling.tolerations]
    if accelerator is not None:
        tolerations += [dict(item) for item in accelerator.tolerations]
    return tolerations + [dict(item) for item in _capacity(spec).tolerations]


def _toleration(item: Toleration) -> Manifest:
    fields = {
        "key": item.key,
        "operator": item.operator,
        "value": item.value,
        "effect": item.effect,
        "tolerationSeconds": item.toleration_seconds,
    }
    return {name: value for name, value in fields.items() if value is not None}
