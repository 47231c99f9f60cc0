"""The job as worker 0's coordinator knows it, from the configuration of its agent."""

import hashlib
import platform
from datetime import UTC, datetime

from trainer.cluster import Identity
from trainer.config import TrainConfig
from trainer.coordinator.job import Job
from trainer.rundir.attempts import Launch


def job_of(config: TrainConfig, identity: Identity, started: str | None, memory_limit_bytes: int | None) -> Job:
    """`started`: when the launch began (ISO 8601), where whoever launched it says so; else that is now."""
    return Job(
        name=config.name,
        workers=config.workers,
        uid=identity.uid,
        launch=Launch(
            id=identity.launch,
            started=datetime.fromisoformat(started) if started else datetime.now(UTC),
        ),
        restarts_max=config.restarts.max,
        start_timeout_s=config.restarts.start_timeout,
        steps_asked=config.train.steps,
        epochs_asked=config.train.epochs,
        command=config.train.command is not None,
        fresh=identity.fresh,
        versions={"python": platform.python_version()},
        cpu_flags=_cpu_flags(),
        memory_limit_bytes=memory_limit_bytes,
    )


def _cpu_flags() -> str:
    """A digest of the CPU's instruction sets: bit-identical results hold only among equal ones."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = platform.processor()
    return hashlib.sha256(flags.encode()).hexdigest()[:16]
