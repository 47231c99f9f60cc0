"""`orch wait`, and the waiting that `orch submit` offers."""

from typing import TYPE_CHECKING

import click

from orchestrator.cli.output import cluster_options, output_option, print_json, say

if TYPE_CHECKING:
    from orchestrator.jobs.wait import Goal
    from orchestrator.kube.client import Cluster
    from orchestrator.status.model import JobStatus

EXIT_TOO_LATE = 124
"""As timeout(1) has it. No exit code of a job."""


@click.command()
@click.argument("name", metavar="JOB")
@click.option("--timeout", metavar="2h", help="Give up after so long: 90s, 5m, 2h. Default: never.")
@click.option(
    "--for",
    "goal",
    type=click.Choice(["done", "running", "stopped", "deleted"]),
    default="done",
    show_default=True,
    help="What to wait for. A job that has ended is waited for no longer, whatever this says but deleted.",
)
@cluster_options
@output_option
def wait(name: str, timeout: str | None, goal: str, context: str | None, namespace: str | None, output: str) -> int:
    """Wait until a job has ended, and leave with its exit code.

    Waiting goes on while the API server is away. Ctrl-C ends the waiting and leaves the job alone.

    \b
    Exit codes:
      0     it succeeded, or is what --for says
      1-77  it failed: its own exit code (70 task error, 74 last save refused, 77 given up)
      78    it failed by its configuration; also: no such job, no access, deleted meanwhile
      124   --timeout is over
      130   Ctrl-C

    \b
    Examples:
      orch wait digits --timeout 2h && orch delete digits
      orch wait digits --for running --timeout 10m
    """
    from orchestrator.cli.watch import connect, print_status
    from orchestrator.jobs.wait import Goal as Goals
    from orchestrator.jobs.wait import TooLate
    from trainer.config import parse_duration

    try:
        timeout_s = parse_duration(timeout)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    cluster = connect(name, context, namespace)
    try:
        found = _wait(cluster, name, Goals(goal), timeout_s=timeout_s if isinstance(timeout_s, float) else None)
    except TooLate as error:
        say(error.message)
        return EXIT_TOO_LATE
    if found is None:
        say(f"job {name} is gone")
        return 0
    if output == "json":
        print_json(found.to_json())
    else:
        print_status(found, name)
    return (found.code or 0) if found.over else 0


def follow_to_the_end(cluster: "Cluster", name: str, *, with_logs: bool, output: str) -> int:
    """Wait for a job, with its workers' lines or only its states; print its end, return its exit code."""
    from orchestrator.cli.logs import LinePrinter
    from orchestrator.cli.watch import print_status

    if with_logs:
        from orchestrator.logs import pods as cluster_logs
        from orchestrator.logs.lines import Wanted

        LinePrinter(to_stderr=output == "json").print_all(cluster_logs.follow(cluster, name, Wanted()))
    found = _wait(cluster, name)
    assert found is not None
    if output == "json":
        print_json(found.to_json())
    else:
        print_status(found, name)
    return found.code or 0


def _wait(
    cluster: "Cluster", name: str, goal: "Goal | None" = None, *, timeout_s: float | None = None
) -> "JobStatus | None":
    from orchestrator.jobs import wait as waiting
    from orchestrator.logs.lines import Note

    found = None
    for item in waiting.wait(cluster, name, goal or waiting.Goal.DONE, timeout_s=timeout_s):
        if isinstance(item, Note):
            say(item.text)
            continue
        found = item
        if not found.over:
            say(f"{found.state}: {found.reason}")
    return found
