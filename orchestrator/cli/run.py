"""`orch run`: parse, run, print the result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from orchestrator.bucket import is_bucket
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
    from orchestrator.jobfile.resolve import resolve_for_local
    from orchestrator.local.printer import Printer
    from orchestrator.local.run import LocalRun
    from trainer.rundir.store import open_store

    job = load(job_file, overrides)
    where = open_store(directory or f"runs/{job.spec.name}").url
    config = resolve_for_local(job, directory=where, workers=workers)
    printer = Printer()
    printer.line(f"{config.name}: {workers} worker{'s' if workers > 1 else ''} here, run directory {where}")
    if fresh:
        _say_what_stays(where, printer.line)
    try:
        result = LocalRun(config, printer, fresh=fresh, environment=job.spec.env).run()
    finally:
        printer.close()
    if result.state == "failed" and result.traceback:
        # The culprit's, before anything else is said.
        click.echo(result.traceback.rstrip(), err=True)
    if output == "json":
        print_json(result.as_json())
        return result.code
    if result.state == "succeeded":
        # Of the held-out data where there is any, else what training showed last.
        held_out = {name: value for name, value in result.metrics.items() if name.startswith("val_")}
        for name, value in (held_out or result.metrics).items():
            click.echo(f"{'test' if held_out else 'train'} {name.removeprefix('val_')} {value:.4f}")
    facts = _told(result.run_directory)
    click.echo(f"{result.name}: {result.state} at step {result.step}" + (f": {result.reason}" if result.reason else ""))
    if result.finished_before:
        click.echo(
            "it was finished before, and nothing was trained now: to go on, raise train.steps or train.epochs; to train anew, "
            "use --fresh or another --directory"
        )
    click.echo(f"run directory: {_short(result.run_directory)}")
    _print_what_happened(facts, result.run_directory, result.restarts)
    if result.export and result.state == "succeeded":
        click.echo(f"exported to {_short(result.export)}")
    if result.load and result.state == "succeeded":
        click.echo(f"to load the model: {result.load}")
    if result.state == "failed":
        _print_failure(result.run_directory, result.code, result.remedy)
    return result.code


def _say_what_stays(directory: str, say: Callable[[str], None]) -> None:
    from orchestrator.runs.view import read_run

    view = read_run(directory)
    if view.records:
        say(f"--fresh: {view.attempts} earlier attempts and {len(view.line)} checkpoints stay in {directory}, unused")


def _short(directory: str) -> str:
    path = Path(directory)
    if is_bucket(directory) or not path.is_relative_to(Path.cwd()):
        return directory
    return str(path.relative_to(Path.cwd()))


def _told(directory: str) -> dict[str, Any]:
    """The status of the run directory; where that cannot be read just now, why. The result stands all the same."""
    from orchestrator.runs import view as runview
    from trainer.errors import ConfigError, StoreError

    try:
        return runview.status(directory)
    except StoreError as error:
        return {"unread": error.message}
    except ConfigError:  # it ended before its first record
        return {}


def _print_what_happened(facts: dict[str, Any], directory: str, restarts: int) -> None:
    """What went wrong on the way, where something did."""
    from orchestrator.runs import goodput
    from orchestrator.runs.view import restarts_from

    target = _short(directory)
    lines = goodput.broken_off_lines(restarts_from(facts.get("broken_off", [])))
    if restarts:
        history = restarts_from(facts.get("history", []))
        lines.append(f"{restarts} restart{'s' if restarts > 1 else ''}:")
        lines += [f"  {line}" for line in goodput.history_lines(history, restarts, target)]
    lines += goodput.save_lines(facts.get("save_troubles", []))
    if facts.get("unread"):
        lines.append(f"what happened on the way cannot be read now: {facts['unread']}")
    elif lines:
        lines.append(goodput.for_status(facts.get("goodput"), facts.get("steps_lost"), target))
    for line in lines:
        click.echo(line)


def _print_failure(directory: str, code: int, remedy: str) -> None:
    from trainer.exit_codes import title_of

    click.echo(f"what to do: {remedy}")
    click.echo(f"exit code {code}: {title_of(code)}; `orch logs {_short(directory)}` shows what the workers printed")
