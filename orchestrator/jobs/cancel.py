"""Stopping a job with a checkpoint: one field (suspend.py), and the wait for its pods."""

from dataclasses import dataclass

from orchestrator.jobs.delete import POD_WAIT_S, Say, wait_for_pods
from orchestrator.jobs.suspend import suspend, wait_for_workload
from orchestrator.kube.client import Cluster
from orchestrator.kube.jobs import find_job
from orchestrator.kube.objects import is_over, run_directory_of
from orchestrator.runs.view import read_run
from orchestrator.status.observe import status_of
from trainer.errors import ConfigError, OrchError
from trainer.rundir.bucket import is_bucket


@dataclass(frozen=True)
class Cancelled:
    """A job that was stopped."""

    name: str
    run_directory: str
    step: int | None
    """Of the checkpoint it will go on from; None of a command, and where the run directory cannot be read from here."""


def cancel(cluster: Cluster, name: str, *, say: Say, wait: bool = True, timeout_s: float = POD_WAIT_S) -> Cancelled:
    """Stop a job. It keeps its objects, its place in the records and its checkpoints.

    Raises:
        NotFound: no such job. ConfigError: it has ended. ClusterError: pods are still there after `timeout_s`.
    """
    job = find_job(cluster, name)
    # Its run may have ended a moment before the Job notices.
    if is_over(job) or status_of(cluster, name).over:
        raise ConfigError(
            f"job {name} has ended already", remedy=f"orch status {name} tells how; orch delete removes it"
        )
    wait_for_workload(cluster, job)
    suspend(cluster, job, True)
    if wait:

        def suspended() -> bool:
            # A queued job is suspended by Kueue, in its own time.
            return bool(find_job(cluster, name)["spec"].get("suspend"))

        launches = [job["metadata"]["uid"]]
        wait_for_pods(cluster, name, launches, say=say, timeout_s=timeout_s, ended_too=False, and_then=suspended)
    directory = run_directory_of(job)
    return Cancelled(name=name, run_directory=directory, step=_step(directory) if wait else None)


def _step(directory: str) -> int | None:
    if not is_bucket(directory):
        return None
    try:
        run = read_run(directory)
        return None if run.command else run.step
    except OrchError:
        return None
