"""`orch goodput`: where the time of a job went."""

import click

from orchestrator.cli.output import cluster_options, output_option, print_json
from orchestrator.cli.watch import directory_of


@click.command()
@click.argument("target")
@cluster_options
@output_option
def goodput(target: str, context: str | None, namespace: str | None, output: str) -> int:
    """Show where each second of a job went: steps that were kept, steps done again, starts, saves, down times.

    Goodput is the time of the steps that were kept / the time in which somebody ran the job. TARGET is as for
    `orch status`: a run directory, a name under ./runs, or a job of the cluster, whose run directory must then be a
    gs:// one to be read from here.

    \b
    Examples:
      orch goodput digits
      orch goodput runs/digits -o json
      orch goodput gs://bucket/digits
      orch goodput digits -n research
    """
    from orchestrator.runs import goodput as ledgers
    from orchestrator.runs import view as runview
    from orchestrator.runs.lock import holder

    directory, running = directory_of(target, context, namespace)
    view = runview.read_run(directory)
    ledger = ledgers.read_ledger(view, running=running or bool(holder(directory)))
    if ledger is None:
        raise runview.no_run(directory)
    if output == "json":
        print_json({"name": view.name, "run_directory": view.directory} | ledgers.to_json(ledger))
        return 0
    click.echo(f"{view.name}: {ledgers.headline(ledger)}")
    click.echo("\n".join(ledgers.table(ledger)))
    return 0
