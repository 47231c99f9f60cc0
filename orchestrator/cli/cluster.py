"""`orch submit` and `orch delete`: what changes the cluster."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.output import cluster_options, output_option, print_json, say, set_option

if TYPE_CHECKING:
    from orchestrator.kube import Cluster
    from orchestrator.spec import JobSpec


@click.command()
@click.argument("job_file", type=click.Path(path_type=Path), metavar="JOB.YAML")
@set_option
@cluster_options
@click.option(
    "--dry-run",
    type=click.Choice(["client", "server"]),
    help="client: print the objects, ask no cluster. server: let the cluster check all of it, create nothing.",
)
@click.option("--wait", "waits", is_flag=True, help="Wait until the job has ended; leave with its exit code.")
@click.option("--follow", "-f", is_flag=True, help="The same, and show what the workers print.")
@click.option("--skip-bucket-check", is_flag=True, help="Do not write a probe into the run directory first.")
@output_option
def submit(
    job_file: Path,
    overrides: tuple[str, ...],
    context: str | None,
    namespace: str | None,
    dry_run: str | None,
    waits: bool,
    follow: bool,
    skip_bucket_check: bool,
    output: str,
) -> int:
    """Train on the cluster of your kubectl context.

    All is checked before anything is created, and what was created is removed when a later step is refused.

    \b
    Examples:
      orch submit job.yaml
      orch submit job.yaml --follow
      orch submit job.yaml --set resources.workers=8 -n research
      orch submit job.yaml --dry-run=server
    """
    import secrets

    from orchestrator import submit as submitting
    from orchestrator.jobfile import load, resolve_for_cluster
    from orchestrator.manifests import TOKEN_PLACEHOLDER, render
    from orchestrator.yamltext import to_yaml

    spec = load(job_file, overrides).spec
    _check_image(spec)
    config = resolve_for_cluster(spec)
    if dry_run == "client":
        from orchestrator.kubecontext import context_namespace

        where = namespace or spec.scheduling.namespace or context_namespace()
        click.echo(to_yaml(render(spec, config, namespace=where, token=TOKEN_PLACEHOLDER)), nl=False)
        return 0
    cluster = _connect(context, namespace or spec.scheduling.namespace)
    bucket = not skip_bucket_check
    if dry_run == "server":
        objects = submitting.check(cluster, spec, config, say=say, bucket=bucket)
        say("dry run: nothing was created")
        if output == "json":
            print_json({"objects": objects})
        return 0
    done = submitting.submit(cluster, spec, config, token=secrets.token_urlsafe(32), say=say, bucket=bucket)
    say(f"submitted: job {done.name}, {done.workers} worker{'s' if done.workers > 1 else ''}")
    say(f"run directory: {done.run_directory}")
    if done.queued:
        say(f"queue {spec.scheduling.queue} decides when it starts")
    if waits or follow:
        from orchestrator.cli.watch import follow_to_the_end

        return follow_to_the_end(cluster, done.name, with_logs=follow, output=output)
    if output == "json":
        print_json(vars(done))
    else:
        say(f"next: orch status {done.name}   orch logs -f {done.name}   orch delete {done.name}")
    return 0


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

    cluster: Cluster = _connect(context, namespace)
    job = cluster.find("Job", name)
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


def _check_image(spec: "JobSpec") -> None:
    from trainer.errors import ConfigError

    if spec.image.ref is None and spec.image.build is not None:
        where = spec.image.repository or "REPOSITORY"
        raise ConfigError(
            f"job {spec.name}: image.build is not built by orch yet",
            remedy=f"build it from the project's Dockerfile (docker build -t {where} {spec.image.build}), push it, "
            f"and name it: image: {{ref: {where}@sha256:...}}",
        )
