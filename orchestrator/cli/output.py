"""What all commands print alike: errors on stderr, JSON on stdout, and the options for both."""

import json
import math
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trainer.errors import ConfigError, OrchError

if TYPE_CHECKING:
    from orchestrator.preflight.check import Check

Command = TypeVar("Command", bound=Callable[..., Any])


def print_error(error: OrchError) -> None:
    """One red line (or one line a problem), and what to do about it."""
    first, *more = error.message.splitlines() or [""]
    if more:
        # Lines that begin with file:line, so that editors and terminals can jump to them.
        cut = isinstance(error, ConfigError) and error.cut
        count = "several problems" if cut else f"{len(more) + 1} problems"
        _stderr(_red("error:") + f" {count}")
        for line in [first, *more]:
            _stderr(line)
    else:
        _stderr(_red(f"error: {first}"))
    if error.remedy:
        _stderr(error.remedy)


def print_bug(error: Exception, *, debug: bool) -> None:
    """An exception that no one foresaw: one line, and how to see more."""
    text = " ".join(str(error).split())[:300]
    _stderr(_red(f"error: {type(error).__name__}: {text}" if text else f"error: {type(error).__name__}"))
    _stderr("This is a bug of orch." + ("" if debug else " Run it again with --debug to see where it happened."))


def print_json(value: Any) -> None:
    """One JSON object, the last thing on stdout."""
    click.echo(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def finite(value: Any) -> Any:
    """The same with null for numbers that JSON cannot hold: a loss may be NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def print_checks(checks: "list[Check]", output: str, **more: Any) -> None:
    """One line a check, its remedy below; or JSON, with `more` beside the checks."""
    from orchestrator.preflight.check import Level, errors, lines

    if output == "json":
        print_json(more | {"ok": not errors(checks), "checks": [check.to_json() for check in checks]})
        return
    colours = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in lines(checks, paint=(lambda level: click.style(level, fg=colours[level])) if coloured else str):
        click.echo(line)


def output_option(command: Command) -> Command:
    """`-o text|json`, as the argument `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        help="What to print: text for people, or JSON.",
    )(command)


def output_option_of_objects(command: Command) -> Command:
    """`-o text|json|yaml|name`, as the argument `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json", "yaml", "name"]),
        default="text",
        help="What to print: text for people, JSON, YAML, or names alone.",
    )(command)


def print_object(value: Any, output: str, *names: str) -> None:
    """One object, or a list of them, as JSON or YAML on stdout; or `names`, one a line."""
    if output == "name":
        for name in names:
            click.echo(name)
    elif output == "json":
        print_json(value)
    else:
        from orchestrator.manifests.yaml_writer import to_yaml

        click.echo(to_yaml([value]), nl=False)


def set_option(command: Command) -> Command:
    """`--set KEY=VALUE`, repeatable, as the argument `overrides` for jobfile.load."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a field of the job file, such as train.steps=100. The value is YAML. Repeatable.",
    )(command)


def skip_option(command: Command) -> Command:
    """`--skip CHECK`, repeatable, as the argument `skip`."""
    return click.option(
        "--skip",
        multiple=True,
        metavar="CHECK",
        callback=_names_of_checks,
        help="Leave a check out, by its name in `orch check`; all: leave out every one that can be. Repeatable.",
    )(command)


def cluster_options(command: Command) -> Command:
    """`--context` and `--namespace`, as the arguments of these names."""
    command = click.option(
        "-n", "--namespace", metavar="NAME", callback=_namespace, help="Default: that of the kubectl context."
    )(command)
    return click.option("--context", metavar="NAME", callback=_not_empty, help="Default: the current kubectl context.")(
        command
    )


def _names_of_checks(context: click.Context, option: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    if names:
        from orchestrator.preflight.subject import JOB_CHECKS

        known = click.Choice(["all", *JOB_CHECKS.skippable()])
        return tuple(known.convert(name, option, context) for name in names)
    return names


def _not_empty(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    """`--context "$UNSET"` is a slip, and must not reach whatever the default is."""
    if name == "":
        raise click.BadParameter("it is empty; leave the option out for the default")
    return name


def _namespace(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    if name and not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise click.BadParameter(f'"{name}" can be no namespace: at most 63 lower case letters, digits and hyphens')
    return _not_empty(context, option, name)


def say(text: str) -> None:
    """A line about what is being done: on stderr, so that stdout holds results alone."""
    _stderr(text)


def _red(text: str) -> str:
    return click.style(text, fg="red") if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else text


def _stderr(line: str) -> None:
    click.echo(line, err=True)
