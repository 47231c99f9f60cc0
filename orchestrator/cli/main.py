"""`orch`: the group of commands, and what becomes of errors.

A command's module is imported when that command is used: `orch --help` needs click and the table below, nothing else.
"""

import io
import os
import select
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE: what the shell sees of other programs whose reader went away."""


class CommandRow(NamedTuple):
    """Where a command lives, and its line in `orch --help`."""

    module: str
    help: str


COMMANDS = {
    "init": CommandRow("jobfile", "Write a commented job.yaml and task.py to begin with."),
    "run": CommandRow("run", "Train on this machine, as the cluster would."),
    "submit": CommandRow("submit", "Train on the cluster of your kubectl context."),
    "check": CommandRow("submit", "Check all that a submit needs, without submitting."),
    "list": CommandRow("listing", "List the jobs of the cluster."),
    "status": CommandRow("watch", "Show how a job is doing, and what is wrong."),
    "events": CommandRow("listing", "Show what happened to a job, in order of time."),
    "logs": CommandRow("logs", "Show what the workers print, through restarts."),
    "wait": CommandRow("wait", "Wait until a job has ended, and leave with its exit code."),
    "goodput": CommandRow("goodput", "Show where the time of a job went."),
    "checkpoints": CommandRow("checkpoints", "List, verify and export the checkpoints of a run."),
    "cancel": CommandRow("control", "Stop a job with a checkpoint."),
    "resume": CommandRow("control", "Let a stopped job go on, also with more or fewer workers."),
    "delete": CommandRow("control", "Remove a job from the cluster; its run directory stays."),
    "replace": CommandRow("control", "Replace a worker whose node is silent."),
    "exec": CommandRow("remote", "Run a command in a worker's pod."),
    "tensorboard": CommandRow("remote", "Show the curves of a run in TensorBoard."),
    "doctor": CommandRow("doctor", "Look a cluster over, once for all jobs."),
    "package": CommandRow("package", "Make an image of your code and push it."),
    "render": CommandRow("jobfile", "Print the Kubernetes objects of a job file."),
    "accelerators": CommandRow("accelerators", "List the GPUs and TPU slices that a job file may name."),
    "schema": CommandRow("jobfile", "Print the JSON Schema of job files, for editors."),
}


class ReaderWentAway(Exception):
    """Whoever read our stdout reads no more."""


class LazyGroup(click.Group):
    """A group that knows its commands by COMMANDS and imports none of them to list them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        from importlib import import_module

        module = import_module(f"orchestrator.cli.{entry.module}")
        # A command that is called like a builtin of Python has an underscore behind its name there.
        command: click.Command = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS, n=1)
            hint = f'Did you mean "{near[0]}"?' if near else f"Commands: {', '.join(COMMANDS)}."
            raise click.UsageError(f'There is no command "{name}". {hint}', ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # Here and not in run(): click itself takes any EPIPE for that of stdout, a socket's too, and exits 1.
            if _stdout_is_broken():
                raise ReaderWentAway from error
            raise RuntimeError(f"a pipe or a connection broke: {error}") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"orch {version('orch')}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`orch COMMAND --help` shows examples.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def orch(debug: bool) -> None:
    """Train TensorFlow models on Kubernetes and on this machine, with one job file.

    \b
    Examples:
      orch init                        begin: a job.yaml and a task.py
      orch run job.yaml                train here
      orch run job.yaml --workers 2    train here with two workers
      orch submit job.yaml             train on the cluster
      orch status digits               what it is doing
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command line; the exit code. Errors are printed to stderr: one line and its remedy, no traceback."""
    # Looked at before click parses, so that it also covers errors of parsing, and works after the command's name.
    debug = "--debug" in arguments[: arguments.index("--") if "--" in arguments else None]
    arguments = [argument for argument in arguments if argument != "--debug"] if debug else list(arguments)
    try:
        code = orch.main(args=list(arguments), prog_name="orch", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except ReaderWentAway:
        return _reader_went_away()
    except Exception as error:
        return _report(error, debug)
    return code if isinstance(code, int) else 0


def _report(error: Exception, debug: bool) -> int:
    from orchestrator.cli.output import print_bug, print_error
    from trainer.errors import OrchError

    if debug:
        from traceback import print_exception

        print_exception(error)
    if isinstance(error, OrchError):
        print_error(error)
        return int(error.code)
    print_bug(error, debug=debug)
    return EXIT_BUG


def _stdout_is_broken() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _reader_went_away() -> int:
    # Python flushes stdout once more at exit; nothing may be left to complain about.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


def main() -> Any:
    """The entry point of the `orch` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a message may hold what the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
