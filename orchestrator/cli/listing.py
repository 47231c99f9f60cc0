"""`orch list` and `orch events`: all jobs of a namespace, and what happened to one of them."""

import click

from orchestrator.cli.output import cluster_options, output_option, output_option_of_objects, print_json, print_object


@click.command("list")
@click.option("--all-namespaces", "-A", is_flag=True, help="In all namespaces that you may look at.")
@cluster_options
@output_option_of_objects
def list_(all_namespaces: bool, context: str | None, namespace: str | None, output: str) -> int:
    """List the jobs of the cluster: state, workers that are ready, step, age, queue, run directory.

    \b
    Examples:
      orch list
      orch list -A
      orch list -n research -o name
    """
    from datetime import UTC, datetime

    from orchestrator.cli.output import say
    from orchestrator.kube.client import Cluster
    from orchestrator.status import listing
    from orchestrator.text import columns

    cluster = Cluster(context, namespace)
    where = "all namespaces" if all_namespaces else f"namespace {cluster.namespace}"
    say(f"context {cluster.context}, {where}")
    rows = listing.jobs(cluster, all_namespaces=all_namespaces, with_steps=output != "name")
    if output != "text":
        print_object([vars(row) for row in rows], output, *(row.name for row in rows))
    elif rows:
        table = listing.table(rows, datetime.now(UTC), all_namespaces=all_namespaces)
        click.echo("\n".join(columns(table)))
    else:
        say("there are no jobs; orch submit JOB.YAML makes one" + ("" if all_namespaces else ", -A looks everywhere"))
    return 0


@click.command()
@click.argument("name", metavar="JOB")
@click.option("--watch", "-w", is_flag=True, help="Go on as things happen, until the job is over.")
@cluster_options
@output_option
def events(name: str, watch: bool, context: str | None, namespace: str | None, output: str) -> int:
    """Show what happened to a job, in order of time: Kubernetes' events of it, its pods and its queue, and its restarts.

    Kubernetes forgets its events after an hour; restarts are kept in the run directory.

    \b
    Examples:
      orch events digits
      orch events digits -w
      orch events digits -o json
    """
    from orchestrator.cli.watch import connect
    from orchestrator.status import events as happenings
    from orchestrator.status.follow import events_of, follow_events

    cluster = connect(name, context, namespace)
    if not watch:
        found = events_of(cluster, name)
        if output == "json":
            print_json([happening.to_json() for happening in found])
        else:
            for happening in found:
                click.echo(happenings.line(happening))
        return 0
    import json

    for happening in follow_events(cluster, name):
        click.echo(json.dumps(happening.to_json()) if output == "json" else happenings.line(happening))
    return 0
