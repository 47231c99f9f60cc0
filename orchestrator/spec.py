"""JobSpec: the whole job file. Each field's description, unit and default stand at the field; docs/job-file.md is made from them.

Reading the file, and turning what pydantic says into one clear error with file and line, is in jobfile.py.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from trainer.config import (
    CheckpointSection,
    RestartsSection,
    Seconds,
    Section,
    TrainSection,
)


class ImageSection(Section):
    """The container image of the workers."""

    ref: str | None = None
    """A finished image: repo/name:tag, or better repo/name@sha256:..."""
    repository: str | None = None
    """Where to push an image that is built from `build`."""
    build: str | None = None
    """The folder whose code goes into the image, relative to the job file."""
    pull_secrets: list[str] = []
    """Names of image pull secrets in the namespace."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """Default: Kubernetes' own (IfNotPresent for anything but :latest)."""


class RunSection(Section):
    """Where the job keeps what it leaves behind."""

    directory: str | None = None
    """gs://bucket/prefix, or an absolute path on a volume that all workers share. `orch run` uses ./runs/NAME instead,
    unless --directory is given."""


class ResourcesSection(Section):
    """What one worker gets, and how many workers there are."""

    workers: Annotated[int, Field(gt=0, le=10000, strict=True)] | None = None
    """Number of workers. Default 1; for a TPU slice it follows from the accelerator."""
    cpu: Annotated[float, Field(gt=0)] | None = None
    """CPU cores of a worker."""
    memory: str | None = None
    """Memory of a worker: 4Gi, 512Mi."""
    ephemeral_storage: str | None = None
    """Local disk of a worker: 10Gi."""
    accelerator: str | None = None
    """A GPU and how many of it (nvidia-l4:2), or a TPU slice (v5litepod-16). Default: none, plain CPU."""
    topology: str | None = None
    """The shape of a TPU slice, where the accelerator's name leaves a choice: 2x4."""
    slices: Annotated[int, Field(gt=0, strict=True)] = 1
    """TensorFlow trains on one slice a job."""
    capacity: Literal["on-demand", "spot", "flex-start", "reservation"] = "on-demand"
    """What kind of capacity to ask for."""
    reservation: str | None = None
    """The reservation's name, with capacity: reservation."""


class PreemptionSection(Section):
    """What a worker is given between SIGTERM and SIGKILL."""

    grace: Literal["auto"] | Seconds = "auto"
    """auto: 15 s on spot capacity, else 60 s."""


class Toleration(Section):
    """A Kubernetes toleration."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int, Field(ge=0, strict=True)] | None = None


class SchedulingSection(Section):
    """Where in the cluster the job runs, and under whose name."""

    namespace: str | None = None
    """Default: the namespace of the kubectl context."""
    queue: str | None = None
    """A Kueue LocalQueue."""
    priority: str | None = None
    """A PriorityClass; with a queue a WorkloadPriorityClass."""
    service_account: str | None = None
    """The service account of the pods, for Workload Identity. Default: the namespace's default, no token mounted."""
    max_runtime: Seconds | None = None
    """The job is ended after so long: 12h."""
    ttl_after_finish: Seconds | None = None
    """The finished job's objects are removed after so long: 7d. Default: kept until `orch delete`."""
    node_selector: dict[str, str] = {}
    """Labels a node must have."""
    tolerations: list[Toleration] = []
    """Taints the pods tolerate."""


class SecretRef(Section):
    """A Secret of the namespace, by name; its values never pass through orch."""

    name: str
    """The Secret."""
    env: dict[str, str] = {}
    """Environment variable -> key of the Secret."""
    mount: str | None = None
    """An absolute path at which all keys appear as files."""

    @model_validator(mode="after")
    def _used_for_something(self) -> Self:
        if not self.env and not self.mount:
            raise ValueError(f"secret {self.name} is not used: give env or mount")
        return self


class Volume(Section):
    """A volume of the pods: exactly one source."""

    name: str
    mount: str
    """An absolute path in the container."""
    read_only: bool = False
    claim: str | None = None
    """A PersistentVolumeClaim."""
    config_map: str | None = None
    """A ConfigMap."""
    empty_dir: str | None = None
    """A fresh directory of at most this size: 10Gi."""
    gcs_bucket: str | None = None
    """A bucket through GCS FUSE."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("claim", "config_map", "empty_dir", "gcs_bucket") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"volume {self.name} needs exactly one of claim, config_map, empty_dir, gcs_bucket")
        return self


class KubernetesSection(Section):
    """The escape hatch: merge patches (RFC 7386) over what is rendered."""

    kind: Literal["auto", "Job", "JobSet"] = "auto"
    """Which object carries the workers. auto: JobSet for a TPU slice of several hosts, else Job."""
    pod: dict[str, Any] = {}
    """Patch over the pod template."""
    job: dict[str, Any] = {}
    """Patch over the Job (or JobSet)."""


class JobSpec(Section):
    """A job file."""

    name: str
    """The job's name, and the name of its objects: lower case letters, digits and hyphens."""
    image: ImageSection = ImageSection()
    train: TrainSection
    run: RunSection = RunSection()
    checkpoint: CheckpointSection = CheckpointSection()
    resources: ResourcesSection = ResourcesSection()
    restarts: RestartsSection = RestartsSection()
    preemption: PreemptionSection = PreemptionSection()
    scheduling: SchedulingSection = SchedulingSection()
    env: dict[str, str] = {}
    """Environment variables of the training process."""
    secrets: list[SecretRef] = []
    volumes: list[Volume] = []
    kubernetes: KubernetesSection = KubernetesSection()
