"""The sections of a job file. Description, unit and default of each field stand at it, for docs/job-file.md too.

What one section must hold is said at it; what several must agree on, in rules.py.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from orchestrator.jobfile.accelerators import Accelerator, AcceleratorError, parse
from orchestrator.jobfile.capacity import CapacityName, reservation_labels
from orchestrator.jobfile.fields import (
    AbsolutePath,
    EnvName,
    ImageReference,
    ImageRepository,
    JobName,
    LabelName,
    Memory,
    ObjectName,
    RunDirectory,
    Text,
)
from trainer.config import (
    CheckpointSection,
    ExportSection,
    RestartsSection,
    Seconds,
    Section,
    TrainSection,
    misfit,
)


class ImageSection(Section):
    """The container image of the workers."""

    ref: ImageReference | None = None
    """A finished image: repo/name:tag, or better repo/name@sha256:..."""
    repository: ImageRepository | None = None
    """Where to push an image that is built from `build`: us-docker.pkg.dev/acme/train/digits."""
    build: Text | None = None
    """The folder whose code goes into the image, relative to the job file. Paths mean in the image what they mean beside the
    job file. A .dockerignore in it is honoured; .git and known secrets stay out."""
    base: ImageReference | None = None
    """What a built image begins with: an image with Python 3.11, to which TensorFlow and the package `trainer` are added, or
    one that has them, to which the code alone is added. Default: python:3.11-slim."""
    variant: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Which TensorFlow goes into a built image. auto: the one for resources.accelerator."""
    dockerfile: Text | None = None
    """A Dockerfile in the `build` folder: docker, podman or buildah builds the image by it, and `base` and `variant` do
    not count. Default: none; the image is put together without a builder."""
    pull_secrets: list[ObjectName] = []
    """Names of image pull secrets in the namespace."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """Default: Kubernetes' own (IfNotPresent for anything but :latest)."""

    @model_validator(mode="after")
    def _finished_or_built(self) -> Self:
        given = [field for field in ("repository", "build", "base", "dockerfile") if getattr(self, field) is not None]
        if self.ref is not None and given:
            raise misfit(given[0], "give a finished image (image.ref), or image.repository and image.build, not both")
        if self.build is None and given:
            raise misfit(given[0], "goes with image.build, the folder whose code goes into the image")
        if self.build is not None and self.repository is None:
            raise misfit("build", "an image that is built needs image.repository, where it is pushed to")
        if self.base is not None and self.dockerfile is not None:
            raise misfit("base", "the Dockerfile names its own base; give image.base or image.dockerfile, not both")
        return self


class RunSection(Section):
    """Where the job keeps what it leaves behind."""

    directory: RunDirectory | None = None
    """gs://bucket/prefix, or an absolute path on a volume that all workers share. `orch run` uses ./runs/NAME instead,
    unless --directory is given."""


class ResourcesSection(Section):
    """What one worker gets, and how many workers there are."""

    workers: Annotated[int, Field(gt=0, le=10000, strict=True)] | None = None
    """Number of workers. Default 1; for a TPU slice it follows from the accelerator."""
    cpu: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)] | None = None
    """CPU cores of a worker: 8, or 0.5."""
    memory: Memory | None = None
    """Memory of a worker: 4Gi, 512Mi."""
    ephemeral_storage: Memory | None = None
    """Local disk of a worker: 10Gi."""
    accelerator: Text | None = None
    """A GPU and how many of it a worker has (nvidia-l4:2; gpu:1 for any), or a TPU slice (v5litepod-16). Default: none,
    plain CPU."""
    topology: Text | None = None
    """The shape of a TPU slice, where the accelerator's name leaves a choice: 2x4."""
    slices: Annotated[int, Field(gt=0, strict=True)] = 1
    """TPU slices of the job. Only 1: TensorFlow trains on one slice a job."""
    capacity: CapacityName = "on-demand"
    """What kind of capacity to ask for, in GKE's words."""
    reservation: Text | None = None
    """With capacity: reservation, its name; of another project, projects/PROJECT/reservations/NAME. A block of it:
    .../reservationBlocks/BLOCK."""

    @model_validator(mode="after")
    def _hardware_that_exists(self) -> Self:
        if self.slices != 1:
            raise misfit(
                "slices",
                f"{self.slices} slices: TensorFlow trains on one slice a job; take a larger slice, or several jobs",
            )
        if self.topology is not None and self.accelerator is None:
            raise misfit(
                "topology", "a topology is the shape of a TPU slice; give resources.accelerator, such as v5litepod-16"
            )
        try:
            self.hardware()
        except AcceleratorError as error:
            raise misfit(error.field, error.message) from None
        if self.capacity == "reservation" and self.reservation is None:
            raise misfit("capacity", "capacity: reservation needs the name of one: resources.reservation")
        if self.capacity != "reservation" and self.reservation is not None:
            raise misfit("reservation", f"goes with capacity: reservation; capacity is {self.capacity}")
        if self.reservation is not None and reservation_labels(self.reservation) is None:
            raise misfit(
                "reservation",
                f'"{self.reservation}" names no reservation; write NAME or projects/PROJECT/reservations/NAME, '
                "where wanted with /reservationBlocks/BLOCK",
            )
        return self

    def hardware(self) -> Accelerator | None:
        """The accelerator that is asked for; None for plain CPU."""
        if self.accelerator is None:
            return None
        return parse(self.accelerator, self.topology, self.workers)

    def worker_count(self) -> int:
        """How many workers the job has on the cluster: given, or the hosts of the slice, or 1."""
        hardware = self.hardware()
        return self.workers or (hardware.hosts if hardware else None) or 1


class PreemptionSection(Section):
    """What a worker is given between SIGTERM and SIGKILL."""

    grace: Literal["auto"] | Seconds = "auto"
    """auto: 15 s on spot capacity, else 60 s."""


class Toleration(Section):
    """A Kubernetes toleration."""

    key: Text | None = None
    """The taint's key. Default: every key, with operator Exists."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the taint must have `value`, or only exist."""
    value: str | None = None
    """The taint's value, with operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Default: every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, strict=True)] | None = None
    """With NoExecute: how many seconds the pod stays. Default: for ever."""

    @model_validator(mode="after")
    def _as_kubernetes_wants_it(self) -> Self:
        if self.key is None and self.operator == "Equal":
            raise misfit("key", "a toleration without a key tolerates every taint, which needs operator: Exists")
        if self.operator == "Exists" and self.value is not None:
            raise misfit("value", "operator Exists takes no value")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise misfit("toleration_seconds", "goes with effect: NoExecute")
        return self


class SchedulingSection(Section):
    """Where in the cluster the job runs, and under whose name."""

    namespace: LabelName | None = None
    """Default: the namespace of the kubectl context."""
    queue: ObjectName | None = None
    """A Kueue LocalQueue."""
    priority: ObjectName | None = None
    """A PriorityClass; with a queue a WorkloadPriorityClass."""
    service_account: ObjectName | None = None
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

    name: ObjectName
    """The Secret."""
    env: dict[EnvName, Text] = {}
    """Environment variable -> key of the Secret."""
    mount: AbsolutePath | None = None
    """An absolute path at which all keys appear as files."""

    @model_validator(mode="after")
    def _used_for_something(self) -> Self:
        if not self.env and not self.mount:
            raise misfit("name", f"secret {self.name} is not used: give env (VARIABLE: key) or mount (a path)")
        return self


class Volume(Section):
    """A volume of the pods: exactly one source."""

    name: LabelName
    """What the volume is called in the pod."""
    mount: AbsolutePath
    """An absolute path in the container."""
    read_only: Annotated[bool, Field(strict=True)] = False
    """Whether the pods may only read it."""
    claim: ObjectName | None = None
    """A PersistentVolumeClaim."""
    config_map: ObjectName | None = None
    """A ConfigMap."""
    empty_dir: Memory | None = None
    """A fresh directory of at most this size: 10Gi."""
    gcs_bucket: Text | None = None
    """A bucket through GCS FUSE."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("claim", "config_map", "empty_dir", "gcs_bucket") if getattr(self, name) is not None]
        if len(given) != 1:
            field = given[1] if given else "name"
            raise misfit(field, f"volume {self.name} needs exactly one of claim, config_map, empty_dir, gcs_bucket")
        return self


class KubernetesSection(Section):
    """The escape hatch: merge patches (RFC 7386) over what is rendered."""

    kind: Literal["auto", "Job", "JobSet"] = "auto"
    """Which object carries the workers. auto: JobSet for a TPU slice of several hosts and where groups or exclusive_topology
    are given, else Job."""
    groups: Annotated[int, Field(gt=0, le=1000, strict=True)] = 1
    """Of a JobSet: into how many Jobs the workers are split, evenly. A TPU slice is one."""
    exclusive_topology: Text | None = None
    """Of a JobSet: a node label. Each group gets all nodes of one of its values for itself: a node pool, a rack. Default:
    cloud.google.com/gke-nodepool for a TPU slice of several hosts, else none."""
    pod: dict[str, Any] = {}
    """Patch over the pod template."""
    job: dict[str, Any] = {}
    """Patch over the Job; with a JobSet, over the template of its Jobs."""
    jobset: dict[str, Any] = {}
    """Patch over the JobSet."""


class JobSections(Section):
    """All of them, each valid by itself."""

    name: JobName
    """The job's name, and the name of its objects: at most 40 lower case letters, digits and hyphens."""
    image: ImageSection = ImageSection()
    train: TrainSection
    run: RunSection = RunSection()
    checkpoint: CheckpointSection = CheckpointSection()
    export: ExportSection = ExportSection()
    resources: ResourcesSection = ResourcesSection()
    restarts: RestartsSection = RestartsSection()
    preemption: PreemptionSection = PreemptionSection()
    scheduling: SchedulingSection = SchedulingSection()
    env: dict[EnvName, str] = {}
    """Environment variables of the training process. Values are text: write numbers in quotes."""
    secrets: list[SecretRef] = []
    """Secrets of the namespace, as environment variables or files."""
    volumes: list[Volume] = []
    """Volumes of the pods."""
    kubernetes: KubernetesSection = KubernetesSection()
