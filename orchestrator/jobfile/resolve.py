"""A JobSpec -> the TrainConfig that workers get, on this machine and on a cluster. Pure."""

from typing import Any

from orchestrator.jobfile.fields import memory_bytes
from orchestrator.jobfile.load import LoadedJob
from orchestrator.jobfile.rules import batch_problem
from orchestrator.jobfile.spec import JobSpec
from trainer.config import TrainConfig
from trainer.errors import ConfigError

SPOT_GRACE_S = 15.0
"""What GKE gives user pods on Spot VMs, whatever the pod asks for."""
GRACE_S = 60.0


def resolve_for_cluster(spec: JobSpec) -> TrainConfig:
    """What the workers of a cluster get: run.directory as given, and the limits of their pods.

    Raises:
        ConfigError: run.directory is missing.
    """
    if spec.run.directory is None:
        raise ConfigError(
            f"job {spec.name}: run.directory is missing",
            remedy="On a cluster, workers share nothing else: give run: {directory: gs://bucket/prefix}.",
        )
    resources = spec.resources
    hardware = resources.hardware()
    return _resolved(
        spec,
        run_directory=spec.run.directory,
        workers=resources.worker_count(),
        memory_limit_bytes=memory_bytes(resources.memory) if resources.memory else None,
        cpu_limit=resources.cpu,
        log_all_workers=False,
        tpu=hardware is not None and hardware.kind == "tpu",
    )


def resolve_for_local(job: LoadedJob, *, directory: str, workers: int = 1) -> TrainConfig:
    """What the workers of `orch run` get: another directory, another number of workers, no limits of pods.

    Raises:
        ConfigError: the batch does not divide by the number of workers.
    """
    spec = job.spec
    problem = batch_problem(spec.train.global_batch_size, workers) if spec.train.task is not None else None
    if problem:
        raise ConfigError(
            f"{job.where('train.global_batch_size')}: train.global_batch_size: {problem}",
            remedy="Choose another number of --workers, or --set train.global_batch_size=...",
        )
    return _resolved(
        spec,
        run_directory=directory,
        workers=workers,
        log_all_workers=True,
        task_root=str(job.folder.resolve()),
    )


def _resolved(spec: JobSpec, **own: Any) -> TrainConfig:
    """What the job file says for workers anywhere, and what is `own` to a place."""
    return TrainConfig(
        name=spec.name,
        train=spec.train,
        checkpoint=spec.checkpoint,
        export=spec.export,
        restarts=spec.restarts,
        grace_s=grace_s(spec),
        **own,
    )


def grace_s(spec: JobSpec) -> float:
    """Seconds between SIGTERM and SIGKILL: as given, or by the kind of capacity."""
    if spec.preemption.grace != "auto":
        return spec.preemption.grace
    return SPOT_GRACE_S if spec.resources.capacity == "spot" else GRACE_S
