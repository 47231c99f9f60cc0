"""`orch status`, for a job of the cluster and for a run directory alike, and what TARGET means."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.output import cluster_options, output_option_of_objects, print_object, say
from orchestrator.text import progress
from trainer.rundir.bucket import is_bucket

if TYPE_CHECKING:
    from orchestrator.kube.client import Cluster
    from orchestrator.status.model import JobStatus, Moment


@click.command()
@click.argument("target")
@click.option("--watch", "-w", is_flag=True, help="Go on showing it until the job is over; leave with its exit code.")
@cluster_options
@output_option_of_objects
def status(target: str, watch: bool, context: str | None, namespace: str | None, output: str) -> int:
    """Show how a job is doing, what is wrong, and what to do next.

    TARGET with a slash, or gs://, is a run directory. A bare name is ./runs/NAME where that exists and neither
    --context nor --namespace is given, else a job of the cluster.

    \b
    Examples:
      orch status digits
      orch status digits -w
      orch status digits -n research -o json
      orch status runs/digits
    """
    if watch and output in ("yaml", "name"):
        raise click.UsageError("--watch shows text, or with -o json an object a line")
    directory = run_directory(target, context, namespace)
    if watch:
        return _watch(_moments(directory, target, context, namespace), target, as_json=output == "json")
    if directory is not None:
        from orchestrator.status.run_directory import status_of_run

        found = status_of_run(directory)
    else:
        from orchestrator.status.observe import status_of

        found = status_of(connect(target, context, namespace), target, with_past=True)
    if output == "text":
        print_status(found, target)
    else:
        print_object(found.to_json(), output, found.name)
    return 0


def print_status(found: "JobStatus", target: str) -> None:
    """A status for a person. `target` is what they called the job."""
    from orchestrator.status.text import status_lines

    click.echo("\n".join(status_lines(found, target, here=Path.cwd())))


def _moments(directory: str | None, target: str, context: str | None, namespace: str | None) -> "Iterator[Moment]":
    """What is known of a job, again and again: of a run directory, or of the cluster."""
    if directory is not None:
        from orchestrator.status.run_directory import follow_run

        return follow_run(directory)
    from orchestrator.status.follow import follow

    return follow(connect(target, context, namespace), target)


def _watch(moments: "Iterator[Moment]", target: str, *, as_json: bool) -> int:
    """Show a job until it is over, or nobody runs it any more; its exit code."""
    from orchestrator.cli.live import Live
    from orchestrator.status.text import status_lines, summary
    from trainer.exit_codes import ExitCode

    found = None
    with Live(as_json=as_json) as live:
        for moment in moments:
            found = moment.status
            shown = replace(found, unread="") if moment.away else found
            away = [f"  (as it was last seen: {moment.away})"] if moment.away else []
            live.show(
                [*status_lines(shown, target, here=Path.cwd()), *away],
                moment.away or summary(found),
                found.to_json() | {"away": moment.away},
                progress=progress(found.step, found.total_steps, found.rate),
            )
    assert found is not None
    return int(ExitCode.STOPPED) if found.state == "stopped" else found.code or 0


def run_directory(target: str, context: str | None, namespace: str | None) -> str | None:
    """The run directory that TARGET means, or None for a job of the cluster. Says which, on stderr."""
    if "/" in target or os.sep in target:
        say(f"run directory {target}")
        return target
    if context is None and namespace is None and Path("runs", target).is_dir():
        say(f"run directory runs/{target} (a job of the cluster: --namespace)")
        return f"runs/{target}"
    return None


def directory_of(target: str, context: str | None, namespace: str | None) -> tuple[str, bool]:
    """The run directory that TARGET means, also for a job of the cluster, and whether the cluster runs it just now.

    Raises:
        ConfigError: the job's run directory lies where only the cluster can read it.
    """
    directory = run_directory(target, context, namespace)
    if directory is not None:
        return directory, False
    from orchestrator.kube.jobs import find_job
    from orchestrator.kube.objects import has_pods, run_directory_of
    from trainer.errors import ConfigError

    job = find_job(connect(target, context, namespace), target)
    directory = run_directory_of(job)
    if not is_bucket(directory):
        where = f"{directory} lies on a volume of the cluster" if directory else "the Job does not name it"
        raise ConfigError(
            f"the run directory of job {target} cannot be read from here: {where}",
            remedy=f"Only gs:// can. Where the volume is mounted, give its path; orch status {target} shows the restarts.",
        )
    say(f"run directory {directory}")
    return directory, has_pods(job)


def connect(target: str, context: str | None, namespace: str | None) -> "Cluster":
    """The cluster of a job; says which, on stderr."""
    from orchestrator.kube.client import Cluster

    cluster = Cluster(context, namespace)
    say(f"job {target} of context {cluster.context}, namespace {cluster.namespace}")
    return cluster
