"""`orch doctor`: a cluster looked over once."""

import click

from orchestrator.cli.output import cluster_options, output_option, print_checks, print_json, say


@click.command()
@cluster_options
@output_option
def doctor(context: str | None, namespace: str | None, output: str) -> int:
    """Look a cluster over, once for all jobs: versions, permissions, add-ons, nodes and what they have, quotas, DNS.

    One line a matter: ok, warning or error, with what to do; then the nodes by accelerator. Nothing is created: what a job
    needs is tried by server-side dry runs. The exit code is 1 when something is missing that every job needs, else 0; what
    only some jobs need (JobSet, Kueue, spot nodes) is a warning.

    \b
    Examples:
      orch doctor
      orch doctor -n research
      orch doctor -o json | jq '.nodes[] | select(.accelerator != "")'
    """
    from orchestrator.kube.client import Cluster
    from orchestrator.preflight.cluster_nodes import table
    from orchestrator.preflight.doctor import examine

    cluster = Cluster(context, namespace)
    say(f"context {cluster.context}, namespace {cluster.namespace}")
    report = examine(cluster)
    if output == "json":
        print_json(report.to_json())
    else:
        print_checks(report.checks, output)
        if report.nodes:
            click.echo()
        for line in table(report.nodes):
            click.echo(line)
    return 0 if report.well else 1
