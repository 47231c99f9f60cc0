"""What is looked at: a job and the cluster that is to take it (`orch check`), or the cluster alone (`orch doctor`)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from orchestrator.jobfile.spec import JobSpec
from orchestrator.kube.client import Cluster
from orchestrator.kube.objects import Manifest
from orchestrator.preflight.check import Registry
from orchestrator.preflight.facts import Facts
from trainer.config import TrainConfig

T = TypeVar("T")


@dataclass(frozen=True)
class CheckedJob:
    """The job that is checked."""

    spec: JobSpec
    config: TrainConfig
    objects: list[Manifest]
    """As they would be created; the Job or JobSet is the last."""
    replace: bool
    """Whether a job of the same name that orch made is to be replaced."""
    version: str
    """Of this orch."""
    folder: Path | None = None
    """The job file's, in which the user's code lies; None where there is only the copy that the cluster keeps."""

    @property
    def carrier(self) -> Manifest:
        return self.objects[-1]

    @property
    def template(self) -> Manifest:
        """Of the workers' pods."""
        spec = self.carrier["spec"]
        if self.carrier["kind"] == "JobSet":
            spec = spec["replicatedJobs"][0]["template"]["spec"]
        template: Manifest = spec["template"]
        return template


@dataclass(frozen=True)
class Place:
    """A namespace of a cluster, and what was seen of them at once."""

    cluster: Cluster
    facts: Facts


@dataclass(frozen=True)
class Candidate(Place):
    """A job, and the place that is to take it."""

    job: CheckedJob
    _lock: Lock = field(default_factory=Lock, repr=False)
    _locks: dict[object, Lock] = field(default_factory=dict, repr=False)
    _answers: dict[object, Any] = field(default_factory=dict, repr=False)

    def once(self, read: Callable[["Candidate"], T]) -> T:
        """What `read` says of this candidate, asked once, whichever of the checks that need it comes first."""
        with self._lock:
            lock = self._locks.setdefault(read, Lock())
        with lock:
            if read not in self._answers:
                self._answers[read] = read(self)
            answer: T = self._answers[read]
            return answer


JOB_CHECKS = Registry[Candidate]()
CLUSTER_CHECKS = Registry[Place]()
