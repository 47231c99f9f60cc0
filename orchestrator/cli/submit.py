"""`orch submit` and `orch check`: a job file, and the cluster that is to take it."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.output import (
    cluster_options,
    output_option,
    print_checks,
    print_json,
    say,
    set_option,
    skip_option,
)
from orchestrator.cli.package import insecure_option, with_image

if TYPE_CHECKING:
    from orchestrator.jobfile.load import LoadedJob
    from orchestrator.jobs.submit import Submitted
    from orchestrator.kube.client import Cluster
    from trainer.config import TrainConfig


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
@click.option(
    "--replace",
    is_flag=True,
    help="Stop a job of the same name with a checkpoint, remove it, and submit this one in its place.",
)
@skip_option
@insecure_option
@output_option
def submit(
    job_file: Path,
    overrides: tuple[str, ...],
    context: str | None,
    namespace: str | None,
    dry_run: str | None,
    waits: bool,
    follow: bool,
    replace: bool,
    skip: tuple[str, ...],
    insecure: tuple[str, ...],
    output: str,
) -> int:
    """Train on the cluster of your kubectl context.

    All is checked before anything is created (`orch check` shows each check), and what was created is removed when a later
    step is refused, or when you interrupt it. With image.build in the job file, the image is made of your code and pushed
    (`orch package`) once permissions, name and quota are known to do, and the job gets it by its digest.

    --replace touches nothing that orch did not make for a job of this name. Nothing of the old job is removed before the
    checks of the new one have passed; run directories always stay.

    \b
    Examples:
      orch submit job.yaml
      orch submit job.yaml --follow
      orch submit job.yaml --replace
      orch submit job.yaml --set resources.workers=8 -n research
      orch submit job.yaml --dry-run=server
      orch submit job.yaml --skip image --skip bucket
    """
    from orchestrator.jobfile.load import load
    from orchestrator.jobfile.resolve import resolve_for_cluster
    from orchestrator.jobs import submit as submitting

    if dry_run and (waits or follow):
        raise click.UsageError(f"--dry-run creates nothing that {'--follow' if follow else '--wait'} could wait for.")
    job = load(job_file, overrides)
    config = resolve_for_cluster(job.spec)
    wanted = namespace or job.spec.scheduling.namespace
    if dry_run == "client":
        return _dry_run_here(job, config, context, wanted, insecure=insecure, output=output)
    cluster = _connect(context, wanted)
    if dry_run == "server":
        return _dry_run_there(cluster, job, config, skip=skip, replace=replace, output=output)
    if job.spec.image.build is not None:
        submitting.check_before_image(cluster, job.spec, config, skip=skip, replace=replace, folder=job.folder)
    spec = with_image(job, insecure=insecure)
    done = submitting.submit(
        cluster, spec, config, token=secrets.token_urlsafe(32), say=say, skip=skip, replace=replace, folder=job.folder
    )
    say(f"run directory: {done.run_directory}")
    if done.queued:
        say(f"queue {spec.scheduling.queue} decides when it starts")
    if waits or follow:
        from orchestrator.cli.wait import follow_to_the_end

        return follow_to_the_end(cluster, done.name, with_logs=follow, output=output)
    return _print_submitted(done, output)


def _dry_run_here(
    job: "LoadedJob",
    config: "TrainConfig",
    context: str | None,
    namespace: str | None,
    *,
    insecure: tuple[str, ...],
    output: str,
) -> int:
    """`--dry-run=client`: the objects are printed."""
    from orchestrator.jobs import submit as submitting
    from orchestrator.kube.context import current
    from orchestrator.manifests.yaml_writer import to_yaml

    name, default = current(context)
    where = namespace or default
    say(f"context {name}, namespace {where} (dry run: no cluster is asked)")
    shown = submitting.request(with_image(job, insecure=insecure, dry=True), config, namespace=where)
    if output == "json":
        print_json({"objects": shown.objects})
    else:
        click.echo(to_yaml(shown.objects), nl=False)
    return 0


def _dry_run_there(
    cluster: "Cluster", job: "LoadedJob", config: "TrainConfig", *, skip: tuple[str, ...], replace: bool, output: str
) -> int:
    """`--dry-run=server`: the cluster says whether it takes them."""
    from orchestrator.jobs import submit as submitting

    asked = submitting.request(job.spec, config, namespace=cluster.namespace, folder=job.folder)
    checks = submitting.check(cluster, asked, skip=skip, replace=replace)
    submitting.require(checks, say=say)
    say(f"the cluster takes {', '.join(item['kind'] for item in asked.objects)}")
    say("dry run: nothing was created")
    if output == "json":
        print_json({"objects": asked.objects, "checks": [item.to_json() for item in checks]})
    return 0


def _print_submitted(done: "Submitted", output: str) -> int:
    if output == "json":
        print_json(vars(done))
    else:
        say(f"next: orch status {done.name}   orch logs -f {done.name}   orch delete {done.name}")
    return 0


@click.command()
@click.argument("job_file", type=click.Path(path_type=Path), metavar="JOB.YAML")
@set_option
@cluster_options
@click.option("--replace", is_flag=True, help="As for `orch submit --replace`: a job of this name is no trouble.")
@skip_option
@output_option
def check(
    job_file: Path,
    overrides: tuple[str, ...],
    context: str | None,
    namespace: str | None,
    replace: bool,
    skip: tuple[str, ...],
    output: str,
) -> int:
    """Check all that a submit needs, without submitting: cluster, permissions, names, quota, nodes, image, bucket, time.

    One line a check: ok, warning or error, with what to do. The exit code is 0 when there is no error, else 78. Nothing is
    changed but a probe in the run directory, which is removed again.

    \b
    Examples:
      orch check job.yaml
      orch check job.yaml --set resources.workers=64 -n research
      orch check job.yaml -o json | jq '.checks[] | select(.level != "ok")'
    """
    from orchestrator.jobfile.load import load
    from orchestrator.jobfile.resolve import resolve_for_cluster
    from orchestrator.jobs import submit as submitting
    from orchestrator.preflight.check import errors
    from trainer.exit_codes import ExitCode

    job = load(job_file, overrides)
    spec = job.spec
    config = resolve_for_cluster(spec)
    cluster = _connect(context, namespace or spec.scheduling.namespace)
    asked = submitting.request(spec, config, namespace=cluster.namespace, folder=job.folder)
    checks = submitting.check(cluster, asked, skip=skip, replace=replace)
    print_checks(checks, output, name=spec.name)
    return ExitCode.CONFIGURATION if errors(checks) else 0


def _connect(context: str | None, namespace: str | None) -> "Cluster":
    from orchestrator.kube.client import Cluster

    cluster = Cluster(context, namespace)
    say(f"context {cluster.context}, namespace {cluster.namespace}")
    return cluster
