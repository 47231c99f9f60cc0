"""`orch init`, `orch schema`, `orch render`: all that only reads or writes files."""

from pathlib import Path

import click

from orchestrator.cli.output import set_option


@click.command()
@click.option(
    "--script", metavar="TRAIN.PY", help="A job.yaml for this script instead; an example of one where it is missing."
)
@click.option("--force", is_flag=True, help="Overwrite job.yaml and task.py where they exist.")
def init(script: str | None, force: bool) -> None:
    """Write a job.yaml and a task.py into the current directory, that run as they are.

    Both are commented and meant to be edited. Nothing that exists is overwritten.

    \b
    Examples:
      orch init && orch run job.yaml
      orch run job.yaml --set train.steps=100
      orch init --script train.py
    """
    from orchestrator.jobfile.starter import write_starter

    here = Path.cwd()
    for path in write_starter(here, script=script, force=force):
        click.echo(f"wrote {path.relative_to(here)}")
    click.echo("next: orch run job.yaml")


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "markdown"]),
    default="json",
    help="JSON Schema, or the same as a page for people.",
)
def schema(form: str) -> None:
    """Print the JSON Schema of job files: editors complete and check them with it.

    \b
    Examples:
      orch schema > job.schema.json
      orch schema --format markdown > docs/job-file.md
    In VS Code, with the YAML extension, the first line of a job.yaml then reads
      # yaml-language-server: $schema=job.schema.json
    """
    from orchestrator.jobfile.reference import json_schema, markdown

    click.echo(json_schema() if form == "json" else markdown(), nl=False)


@click.command()
@click.argument("job_file", type=click.Path(path_type=Path), metavar="JOB.YAML")
@set_option
@click.option(
    "-n", "--namespace", metavar="NAME", help="Default: scheduling.namespace, or that of the kubectl context."
)
def render(job_file: Path, overrides: tuple[str, ...], namespace: str | None) -> None:
    """Print the Kubernetes objects of a job file as YAML, for kubectl or for reading.

    Nothing is sent. The token among them is drawn anew each time.

    \b
    Examples:
      orch render job.yaml | kubectl apply -f -
      orch render job.yaml --set resources.workers=8 -n research
    """
    import secrets

    from orchestrator.jobfile.load import load
    from orchestrator.jobfile.resolve import resolve_for_cluster
    from orchestrator.kube.context import context_namespace
    from orchestrator.manifests.render import render as render_objects
    from orchestrator.manifests.yaml_writer import to_yaml

    spec = load(job_file, overrides).spec
    config = resolve_for_cluster(spec)
    objects = render_objects(
        spec,
        config,
        namespace=namespace or spec.scheduling.namespace or context_namespace(),
        token=secrets.token_urlsafe(32),
    )
    click.echo(to_yaml(objects), nl=False)
