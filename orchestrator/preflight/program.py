"""The job's program: what its source tells before anything runs it."""

from pathlib import Path

from orchestrator.jobfile.program import notes_on
from orchestrator.preflight.check import Finding, ok, warning
from orchestrator.preflight.subject import JOB_CHECKS, Candidate
from trainer.config import TrainConfig


def program(config: TrainConfig, folder: Path | None) -> Finding:
    """Whether it does what its kind of job is for. `folder`: the job file's; None where there is only the copy
    that the cluster keeps."""
    train = config.train
    if train.task is not None:
        return ok(f"task {train.task}")
    if folder is None:
        return ok("its source is not looked at: it is not here")
    notes = notes_on(train, folder, config.workers)
    if notes:
        return warning("; ".join(note.text for note in notes), "; ".join(note.remedy for note in notes))
    return ok(f"script {train.script}" if train.script is not None else "a command")


@JOB_CHECKS.check(
    "program",
    85,
    what="the source of train.script and train.command: does the script call fit, do several workers train together",
    error_when="never: a warning",
    before_image=True,
)
def _program(on: Candidate) -> Finding:
    return program(on.job.config, on.job.folder)
