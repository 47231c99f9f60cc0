"""`orch status`, for a job of the cluster and for a run directory alike, and what TARGET means."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.bucket import is_bucket
from orchestrator.cli.output import cluster_options, output_option_of_objects, print_object, say
from orchestrator.text import first_line, progress

if TYPE_CHECKING:
    from orchestrator.kube.client import Cluster
    from orchestrator.status.model import JobStatus


_LOOK_S = 1.0
_LOOK_AT_BUCKET_S = 10.0
"""Each look lists a bucket, which costs time and money."""


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
        if directory is not None:
            return _watch_run(directory, target, as_json=output == "json")
        return _watch_job(connect(target, context, namespace), target, as_json=output == "json")
    if directory is not None:
        from orchestrator.runs import view as runview

        facts = runview.status(directory)
        if output == "text":
            click.echo("\n".join(runview.describe(facts, target)))
        else:
            print_object(facts, output, facts["name"])
        return 0
    from orchestrator.status.observe import status_of

    found = status_of(connect(target, context, namespace), target, with_goodput=True)
    if output == "text":
        print_status(found)
    else:
        print_object(found.to_json(), output, found.name)
    return 0


def print_status(found: "JobStatus") -> None:
    """A status for a person."""
    from orchestrator.status.text import status_lines

    click.echo("\n".join(status_lines(found)))


def _watch_job(cluster: "Cluster", name: str, *, as_json: bool) -> int:
    """Show a job until it is over; its exit code."""
    from orchestrator.cli.live import Live
    from orchestrator.status.follow import follow
    from orchestrator.status.text import status_lines, summary

    found = None
    with Live(as_json=as_json) as live:
        for moment in follow(cluster, name):
            found = moment.status
            away = [f"  (as it was last seen: {moment.away})"] if moment.away else []
            live.show(
                [*status_lines(found), *away],
                moment.away or summary(found),
                found.to_json() | {"away": moment.away},
                progress=progress(found.step, found.total_steps, found.rate),
            )
    assert found is not None
    return (found.code or 0) if found.over else 0


def _watch_run(directory: str, target: str, *, as_json: bool) -> int:
    """Show a run directory until nobody runs in it any more; its exit code."""
    from orchestrator.cli.live import Live
    from orchestrator.runs import view as runview
    from trainer.errors import StoreError
    from trainer.exit_codes import ExitCode

    facts: dict[str, Any] = {}
    with Live(as_json=as_json) as live:
        while True:
            try:
                facts = runview.status(directory)
                away = []
            except StoreError as error:
                if not facts:
                    raise
                facts["unread"] = first_line(error.message)
                away = ["  (the rest is as it was last seen)"]
            lines = runview.describe(facts, target) + away
            how_far = progress(facts["step"], facts["total_steps"], facts["rate"])
            summary = f"{facts['name']}: {facts['state']}: {facts['reason']}"
            if facts["unread"]:
                summary += f" (the run directory cannot be read: {facts['unread']})"
            live.show(lines, summary, facts, progress=how_far)
            if facts["state"] == "stopped":
                return int(ExitCode.STOPPED)
            if facts["state"] != "running":
                return int(facts["code"] or 0)
            time.sleep(_LOOK_AT_BUCKET_S if is_bucket(facts["run_directory"]) else _LOOK_S)


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
    from orchestrator.kube.objects import run_directory_of
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
    return directory, bool(job.get("status", {}).get("active"))


def connect(target: str, context: str | None, namespace: str | None) -> "Cluster":
    """The cluster of a job; says which, on stderr."""
    from orchestrator.kube.client import Cluster

    cluster = Cluster(context, namespace)
    say(f"job {target} of context {cluster.context}, namespace {cluster.namespace}")
    return cluster
