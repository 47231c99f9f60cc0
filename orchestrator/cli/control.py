"""`orch cancel`, `resume`, `delete` and `replace`: what changes a job that is there."""

from typing import TYPE_CHECKING

import click

from orchestrator.cli.output import cluster_options, output_option, print_error, print_json, say, skip_option

if TYPE_CHECKING:
    from orchestrator.kube.client import Cluster

_wait_option = click.option(
    "--wait/--no-wait", "waits", default=True, help="Whether to wait until its pods are gone. Default: wait."
)


@click.command()
@click.argument("name", metavar="JOB")
@_wait_option
@cluster_options
@output_option
def cancel(name: str, waits: bool, context: str | None, namespace: str | None, output: str) -> int:
    """Stop a job, with a checkpoint. It stays on the cluster, without pods, until `orch resume` or `orch delete`.

    A job in a queue gives up its place.

    \b
    Examples:
      orch cancel digits
      orch cancel digits --no-wait
    """
    from orchestrator.jobs.cancel import cancel as stop

    done = stop(_connect(context, namespace), name, say=say, wait=waits)
    if output == "json":
        print_json(vars(done))
        return 0
    if not waits:
        say(f"job {name} is being stopped")
    elif done.step is None:
        say(f"stopped: job {name}; its run directory is {done.run_directory}")
    else:
        at = f"checkpoint at step {done.step}" if done.step else "no checkpoint yet"
        say(f"stopped: job {name}, {at} in {done.run_directory}")
    say(f"next: orch resume {name}   orch delete {name}")
    return 0


@click.command()
@click.argument("name", metavar="JOB")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Go on with so many. Default: as many as before.")
@skip_option
@cluster_options
@output_option
def resume(
    name: str, workers: int | None, skip: tuple[str, ...], context: str | None, namespace: str | None, output: str
) -> int:
    """Let a job go on from its last checkpoint: one that was cancelled, or one that failed.

    With another number of workers, and after a failure, the job is made anew under its name, from the job file that the
    cluster keeps, after the checks of a submit; one that runs is stopped with a checkpoint first. To change more than that:
    orch submit JOB.YAML --replace.

    The same weights to the last bit are promised for the same number of workers; with another number, the same examples in
    the same order, and weights that are the same to rounding.

    \b
    Examples:
      orch resume digits
      orch resume digits --workers 8
      orch resume digits --workers 8 --skip bucket
    """
    from orchestrator.jobs.resume import resume as go_on

    done = go_on(_connect(context, namespace), name, workers=workers, say=say, skip=skip)
    if output == "json":
        print_json(vars(done))
        return 0
    waits = "; its queue decides when it starts" if done.queued else ""
    say(f"goes on: job {name}, {done.workers} worker{'s' if done.workers > 1 else ''}{waits}")
    say(f"next: orch status {name}   orch logs -f {name}")
    return 0


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="JOB...")
@_wait_option
@cluster_options
@output_option
def delete(names: tuple[str, ...], waits: bool, context: str | None, namespace: str | None, output: str) -> int:
    """Remove jobs from the cluster: every object of them, and nothing else.

    A job that still runs is stopped in order first, with a checkpoint. Its run directory stays: a job of the same name and
    directory goes on from there. With --no-wait its NetworkPolicy goes at once, and its pods a moment later.

    \b
    Examples:
      orch delete digits
      orch delete try-1 try-2 try-3 --no-wait
    """
    from trainer.errors import OrchError

    cluster = _connect(context, namespace)
    code, results = 0, []
    for name in names:
        try:
            results.append(_delete(cluster, name, waits=waits))
        except OrchError as error:
            if len(names) == 1:
                raise
            print_error(error)
            code = code or int(error.code)
    if output == "json":
        print_json(results[0] if len(names) == 1 else {"jobs": results})
    return code


def _delete(cluster: "Cluster", name: str, *, waits: bool) -> dict[str, object]:
    from orchestrator.jobs.delete import delete as remove
    from orchestrator.kube.jobs import find_carriers
    from orchestrator.kube.objects import is_ours, run_directory_of

    ours = [item for item in find_carriers(cluster, name) if is_ours(item)]
    directory = next(filter(None, map(run_directory_of, ours)), "")
    removed = remove(cluster, name, say=say, wait=waits)
    say(f"removed: {', '.join(removed) or 'pods'}")
    if directory:
        say(f"the run directory stays: {directory}")
    return {"name": name, "removed": removed, "run_directory": directory}


@click.command()
@click.argument("name", metavar="JOB")
@click.option(
    "--worker", "workers", type=click.IntRange(0), multiple=True, required=True, metavar="I", help="Which. Repeatable."
)
@click.option("--force", is_flag=True, help="Also where the pod and its node seem to be alive.")
@click.option("--wait/--no-wait", "waits", default=True, help="Whether to wait a minute for the pod in its place.")
@cluster_options
@output_option
def replace(
    name: str,
    workers: tuple[int, ...],
    force: bool,
    waits: bool,
    context: str | None,
    namespace: str | None,
    output: str,
) -> int:
    """Replace the pod of a worker whose node is silent.

    Kubernetes replaces a pod only when it is sure that its container has ended, and a node that is silent cannot say so: the job
    waits until it is back, or its Node is deleted. This marks the pod as failed and takes it out of the cluster's books; the
    worker starts elsewhere at once. In general that is unsafe, since the old container may still run. Here it is safe: once the
    next attempt has begun, what an old process saves does not count, and it deletes nothing.

    A worker whose node answers is refused: kubectl delete pod ends it in order.

    \b
    Examples:
      orch replace digits --worker 3
      orch replace digits --worker 3 --worker 4
    """
    from orchestrator.jobs import replace as replacing

    cluster = _connect(context, namespace)
    results = []
    for worker in workers:
        done = replacing.replace(
            cluster, name, worker, force=force, say=say, wait_s=replacing.REPLACEMENT_S if waits else 0.0
        )
        results.append(vars(done))
        if done.replacement:
            say(f"worker {worker}: pod {done.replacement} takes its place")
        elif waits:
            say(f"worker {worker}: no pod in its place yet; orch status {name} says what it waits for")
    if output == "json":
        print_json({"name": name, "replaced": results})
    return 0


def _connect(context: str | None, namespace: str | None) -> "Cluster":
    from orchestrator.kube.client import Cluster

    cluster = Cluster(context, namespace)
    say(f"context {cluster.context}, namespace {cluster.namespace}")
    return cluster
