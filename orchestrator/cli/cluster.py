"""`orch delete`: what changes the cluster beside `orch submit`."""

from typing import TYPE_CHECKING

import click

from orchestrator.cli.output import cluster_options, output_option, print_json, say

if TYPE_CHECKING:
    from orchestrator.kube import Cluster


@click.command()
@click.argument("name")
@cluster_options
@output_option
def delete(name: str, context: str | None, namespace: str | None, output: str) -> int:
    """Remove a job from the cluster: every object of it, and nothing else.

    A job that still runs is stopped in order first, with a checkpoint. Its run directory stays: a job of the same name and
    directory goes on from there.

    \b
    Examples:
      orch delete digits
      orch delete digits -n research
    """
    from orchestrator import submit as submitting
    from orchestrator.kube import Cluster
    from orchestrator.manifests import RUN_DIRECTORY
    from orchestrator.observe import find_carriers, is_ours

    cluster: Cluster = _connect(context, namespace)
    job = next(filter(is_ours, find_carriers(cluster, name)), None)
    directory = ((job or {}).get("metadata", {}).get("annotations") or {}).get(RUN_DIRECTORY, "")
    removed = submitting.delete(cluster, name, say=say)
    if output == "json":
        print_json({"name": name, "removed": removed, "run_directory": directory})
    else:
        say(f"removed: {', '.join(removed) or 'pods'}")
        if directory:
            say(f"the run directory stays: {directory}")
    return 0


def _connect(context: str | None, namespace: str | None) -> "Cluster":
    from orchestrator.kube import Cluster

    cluster = Cluster(context, namespace)
    say(f"context {cluster.context}, namespace {cluster.namespace}")
    return cluster
