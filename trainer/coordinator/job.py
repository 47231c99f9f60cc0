"""What the coordinator knows of its job from the start, and what it asks of the store. Pure."""

from dataclasses import dataclass, field
from typing import NamedTuple

from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, EndRecord, Launch


@dataclass(frozen=True)
class Job:
    """What the coordinator knows of the job from the start."""

    name: str
    workers: int
    uid: str
    launch: Launch
    restarts_max: int = 20
    start_timeout_s: float = 900.0
    steps_asked: int | None = None
    epochs_asked: int | None = None
    command: bool = False
    """Whether a program of the user's own runs (train.command)."""
    fresh: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    cpu_flags: str = ""
    memory_limit_bytes: int | None = None
    poll_s: float = 0.25


def finished_before(job: Job, end: EndRecord) -> bool:
    """Whether an earlier launch did already all that this one asks for."""
    if job.fresh or end.launch.id == job.launch.id or end.state != "succeeded":
        return False
    if job.steps_asked is not None:
        return job.steps_asked <= max(end.step, end.steps_asked or 0)
    if job.epochs_asked is not None:
        return end.epochs_asked is not None and job.epochs_asked <= end.epochs_asked
    return True


class Leave(NamedTuple):
    """Why a worker has no business here any more, and the code that it leaves with."""

    code: ExitCode
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class ListCommits:
    """Wish: close attempt `closing`, list the commits of the run directory, then call commits_listed."""

    closing: int | None
    """The newest attempt, None before the first. Closed before the list is taken, lest an old writer still acknowledges a
    commit that is not in it."""


@dataclass(frozen=True)
class Append:
    """Wish: write this record, then call appended with the record that holds its number."""

    record: AttemptRecord | EndRecord


@dataclass(frozen=True)
class Probe:
    """Wish: read record `number`, then call probed with it or None."""

    number: int


Action = ListCommits | Append | Probe
