"""`orch status`, for a job of the cluster and for a run directory alike, and what TARGET means."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.output import cluster_options, output_option, print_json, say

if TYPE_CHECKING:
    from orchestrator.kube import Cluster
    from orchestrator.status import JobStatus


@click.command()
@click.argument("target")
@cluster_options
@output_option
def status(target: str, context: str | None, namespace: str | None, output: str) -> int:
    """Show how a job is doing, what is wrong, and what to do next.

    TARGET with a slash, or gs://, is a run directory. A bare name is ./runs/NAME where that exists and neither
    --context nor --namespace is given, else a job of the cluster.

    \b
    Examples:
      orch status digits
      orch status digits -n research -o json
      orch status runs/digits
    """
    directory = run_directory(target, context, namespace)
    if directory is not None:
        from orchestrator import runview

        facts = runview.status(directory)
        if output == "json":
            print_json(facts)
        else:
            click.echo("\n".join(runview.describe(facts, target)))
        return 0
    from orchestrator.observe import status_of

    found = status_of(connect(target, context, namespace), target, with_goodput=True)
    if output == "json":
        print_json(found.to_json())
    else:
        print_status(found)
    return 0


def print_status(found: "JobStatus") -> None:
    """A status for a person: what it is, why, what to do next, and a line for each worker."""
    from orchestrator.goodput import for_status, history_lines

    click.echo(f"{found.name}: {found.state}" + (f" (code {found.code})" if found.code else ""))
    if found.reason:
        click.echo(f"  {found.reason}")
    others = [trouble for trouble in found.troubles if trouble.text != found.reason]
    for trouble in found.troubles:
        if trouble in others:
            click.echo(f"  {trouble.text}")
        click.echo(f"  what to do: {trouble.remedy}")
    if found.traceback:
        click.echo("".join(f"    {line}\n" for line in found.traceback.rstrip().splitlines()[-12:]), nl=False)
    if found.state == "failed" and not found.troubles:
        click.echo(f"  what to do: {_remedy(found)}")
    total = f" of {found.total_steps}" if found.total_steps else ""
    rate = f", {found.rate:.1f} steps/s" if found.rate else ""
    click.echo(f"  step {found.step}{total}{rate}, attempt {found.attempts}, restarts {found.restarts}")
    if found.metrics:
        click.echo("  " + "  ".join(f"{name} {value:.4f}" for name, value in found.metrics.items()))
    if found.weights_sha256:
        click.echo(f"  weights_sha256 {found.weights_sha256}")
    if found.history:
        click.echo("  restarts of this launch:")
        for line in history_lines(found.history, found.restarts, found.name):
            click.echo(f"    {line}")
    if found.goodput is not None:
        click.echo(f"  {for_status(found.goodput, found.steps_lost, found.name)}")
    click.echo(f"  run directory {found.run_directory}")
    for note in found.notes:
        click.echo(f"  {note}")
    _print_workers(found)


def _print_workers(found: "JobStatus") -> None:
    if not found.workers:
        return
    titles = ("worker", "state", "step", "attempt", "node", "pod", "")
    rows = [titles] + [
        (str(row.index), row.state, str(row.step), str(row.attempt), row.node, row.pod, row.reason)
        for row in found.workers[:_MOST_ROWS]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    for row in rows:
        click.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if len(found.workers) > _MOST_ROWS:
        click.echo(f"  ... and {len(found.workers) - _MOST_ROWS} more; -o json has them all")


_MOST_ROWS = 32


def _remedy(found: "JobStatus") -> str:
    from trainer.exit_codes import ExitCode

    if found.remedy:
        return found.remedy
    again = f"orch delete {found.name}, then submit again: it goes on from the last checkpoint"
    remedies: dict[int, str] = {
        ExitCode.TASK_ERROR: f"correct the task, build its image anew, {again}",
        ExitCode.SAVE_REFUSED: f"see to it that the run directory can be written, {again}",
        ExitCode.CONFIGURATION: f"correct the job file or the task, {again}",
    }
    return remedies.get(found.code or 0, f"orch logs {found.name} shows what the workers printed; {again}")


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
    from orchestrator.manifests import RUN_DIRECTORY
    from orchestrator.observe import find_job
    from trainer.errors import ConfigError

    job = find_job(connect(target, context, namespace), target)
    directory = (job["metadata"].get("annotations") or {}).get(RUN_DIRECTORY, "")
    if not directory.startswith("gs://"):
        where = f"{directory} lies on a volume of the cluster" if directory else "the Job does not name it"
        raise ConfigError(
            f"the run directory of job {target} cannot be read from here: {where}",
            remedy=f"Only gs:// can. Where the volume is mounted, give its path; orch status {target} shows the restarts.",
        )
    say(f"run directory {directory}")
    return directory, bool(job.get("status", {}).get("active"))


def connect(target: str, context: str | None, namespace: str | None) -> "Cluster":
    """The cluster of a job; says which, on stderr."""
    from orchestrator.kube import Cluster

    cluster = Cluster(context, namespace)
    say(f"job {target} of context {cluster.context}, namespace {cluster.namespace}")
    return cluster
