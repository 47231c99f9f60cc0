"""`orch package`: an image from the user's code. Also what submit asks for the image of a job."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.output import output_option, print_json, say, set_option
from orchestrator.text import size

if TYPE_CHECKING:
    from orchestrator.image.model import Packaged
    from orchestrator.jobfile.load import LoadedJob
    from orchestrator.jobfile.spec import JobSpec

insecure_option = click.option(
    "--insecure-registry",
    "insecure",
    multiple=True,
    metavar="HOST[:PORT]",
    help="A registry without TLS. Those of this machine need no mention. Repeatable.",
)


@click.command()
@click.argument("job_file", type=click.Path(path_type=Path), metavar="JOB.YAML")
@set_option
@click.option("--push/--no-push", "pushes", default=True, help="Without a push, say what it would be. Default: push.")
@click.option(
    "--builder",
    type=click.Choice(["docker", "podman", "buildah", "none"]),
    help="Who builds. Default: none, or, with image.dockerfile, the first of docker, podman, buildah that is there.",
)
@insecure_option
@output_option
def package(
    job_file: Path,
    overrides: tuple[str, ...],
    pushes: bool,
    builder: str | None,
    insecure: tuple[str, ...],
    output: str,
) -> int:
    """Make an image of your code and push it; prints its name, by digest.

    The job file says where to: image: {repository: REGISTRY/NAME, build: .}. No builder and no daemon is needed: your code
    becomes a layer on top of Python, TensorFlow and the package trainer, and only what the registry lacks is sent. The same
    code gives the same digest. `orch submit` does this by itself.

    \b
    Examples:
      orch package job.yaml
      orch package job.yaml --no-push
      orch package job.yaml --builder buildah
    """
    from orchestrator.image.package import package as make_image
    from orchestrator.jobfile.load import load

    made = make_image(load(job_file, overrides), say=say, pushes=pushes, builder=builder, insecure=insecure)
    if output == "json":
        print_json(dataclasses.asdict(made))
    else:
        _tell(made)
        click.echo(made.ref)
    return 0


def with_image(job: "LoadedJob", *, insecure: tuple[str, ...] = (), dry: bool = False) -> "JobSpec":
    """The job with a finished image: the job file's own, or one that is made now.

    Args:
        dry: make none; a placeholder stands where its name would.

    Raises:
        ConfigError: the job file names no image at all.
        OrchError: what packaging meets.
    """
    from orchestrator.image.model import no_image, placeholder, with_ref
    from orchestrator.image.package import package as make_image

    spec = job.spec
    if spec.image.ref is not None:
        return spec
    if spec.image.build is None:
        raise no_image(spec)
    if dry:
        say("image: made from your code at submit; a dry run shows a placeholder and pushes nothing")
        return with_ref(spec, placeholder(spec))
    made = make_image(job, say=say, insecure=insecure)
    _tell(made)
    say(f"image: {made.ref}")
    return with_ref(spec, made.ref)


def _tell(made: "Packaged") -> None:
    from orchestrator.image.model import code_parts

    words = {"sent": "pushed", "mounted": "there, in the base's repository", "there": "there already"}
    for item in code_parts(made.layers):
        state = words[item.state] if made.pushed else ""
        say(f"  {item.name:8} {size(item.size_bytes):>9}  {state}".rstrip())
    if not made.pushed:
        say("nothing was pushed")
    elif made.pushed_bytes is None:
        say(f"image: {size(made.size_bytes)}, in {made.seconds:.1f} s")
    else:
        say(f"image: {size(made.size_bytes)}, {size(made.pushed_bytes)} of it pushed, in {made.seconds:.1f} s")
