"""`orch run`: parse, run, print the result."""

from collections.abc import Callable
from pathlib import Path

import click

from orchestrator.cli.output import output_option, print_json, set_option


@click.command()
@click.argument("job_file", type=click.Path(path_type=Path), metavar="JOB.YAML")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes to train with.")
@click.option(
    "--directory", metavar="PATH|gs://...", help="Run directory. Default: ./runs/NAME, whatever the file says."
)
@click.option("--fresh", is_flag=True, help="Start from nothing; what an earlier run left stays where it is.")
@set_option
@output_option
def run(
    job_file: Path, workers: int, directory: str | None, fresh: bool, overrides: tuple[str, ...], output: str
) -> int:
    """Train on this machine, through the same agents and the same code as on a cluster.

    A run goes on from its last checkpoint: after Ctrl-C, after a crash, or with more steps. Ctrl-C once commits
    a checkpoint and ends; twice ends at once. Progress goes to stderr, the result to stdout.

    \b
    Examples:
      orch run job.yaml
      orch run job.yaml --workers 2 --set train.steps=500
      orch run job.yaml --fresh -o json
      orch run job.yaml --directory gs://bucket/try-1
    """
    from orchestrator.jobfile.load import load
    from orchestrator.jobfile.program import notes_on
    from orchestrator.jobfile.resolve import resolve_for_local
    from orchestrator.local.printer import Printer
    from orchestrator.local.run import LocalRun
    from orchestrator.status.run_directory import with_its_past
    from orchestrator.status.text import last_lines, short_path
    from trainer.rundir.open import open_store

    job = load(job_file, overrides)
    where = open_store(directory or f"runs/{job.spec.name}").url
    config = resolve_for_local(job, directory=where, workers=workers)
    printer = Printer()
    printer.line(f"{config.name}: {workers} worker{'s' if workers > 1 else ''} here, run directory {where}")
    for note in notes_on(config.train, job.folder, workers):
        printer.line(f"warning: {note.text} -> {note.remedy}")
    if fresh:
        _say_what_stays(where, printer.line)
    try:
        result = LocalRun(config, printer, fresh=fresh, environment=job.spec.env).run()
    finally:
        printer.close()
    if result.state == "failed" and result.traceback:
        # The culprit's, before anything else is said.
        click.echo(result.traceback.rstrip(), err=True)
    result = with_its_past(result)
    if output == "json":
        print_json(result.to_json())
    else:
        here = Path.cwd()
        click.echo("\n".join(last_lines(result, short_path(result.run_directory, here), here=here)))
    return result.code or 0


def _say_what_stays(directory: str, say: Callable[[str], None]) -> None:
    from orchestrator.runs.view import read_run

    view = read_run(directory)
    if view.records:
        say(f"--fresh: {view.attempts} earlier attempts and {len(view.line)} checkpoints stay in {directory}, unused")
