"""`orch logs`, for a job of the cluster and for a run directory alike, and how a worker's lines are printed."""

import os
import re
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from orchestrator.cli.output import cluster_options, say
from orchestrator.cli.watch import connect, run_directory

if TYPE_CHECKING:
    from orchestrator.logs.lines import Line, Note, Wanted


@click.command()
@click.argument("target")
@click.option("--follow", "-f", is_flag=True, help="Go on as lines come, until the job ends.")
@click.option("--worker", "workers", metavar="0,3|0-3", help="These workers only. Default: all, at most the first 64.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="What was printed in this attempt only.")
@click.option("--since", metavar="5m", help="What was printed since then: 90s, 5m, 2h.")
@click.option("--grep", "pattern", metavar="REGEX", help="Lines that match only.")
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Of what is there, each worker's last N lines only.")
@cluster_options
def logs(
    target: str,
    context: str | None,
    namespace: str | None,
    follow: bool,
    workers: str | None,
    attempt: int | None,
    since: str | None,
    pattern: str | None,
    tail: int | None,
) -> int:
    """Show what the workers print, all at once, through restarts and replaced pods.

    TARGET is as for `orch status`. With -f, pods that are not there yet are waited for. What pods that are gone printed comes
    from the run directory, as far as it was written there: worker 0's lines, and the others' before a failure.

    Attempts are numbered as `orch status` shows them. In a run directory, lines have no times: --since goes by the part of the
    log in which they are, of which one is written a minute.

    \b
    Examples:
      orch logs -f digits
      orch logs digits --worker 0,3 --tail 20
      orch logs digits --attempt 2 --grep 'Error|WARNING'
      orch logs runs/digits --worker 0-3
    """
    wanted = _wanted(workers, attempt, since, pattern, tail)
    directory = run_directory(target, context, namespace)
    printer = LinePrinter()
    if directory is not None:
        from orchestrator.logs import segments as runlogs

        printer.print_all(runlogs.read(directory, wanted, follow=follow))
        return 0
    from orchestrator.logs import pods as cluster_logs

    cluster = connect(target, context, namespace)
    reading = cluster_logs.follow if follow else cluster_logs.read
    printer.print_all(reading(cluster, target, wanted))
    if printer.lines == 0:
        left = cluster_logs.left_behind(cluster, target, while_active=attempt is not None)
        _from_run_directory(left, target, wanted, printer)
    return 0


def _from_run_directory(left: str, target: str, wanted: "Wanted", printer: "LinePrinter") -> None:
    """What the pods of a job left behind: `left` is its run directory, or empty while there is none to be looked at."""
    from orchestrator.logs import segments as runlogs
    from trainer.errors import ConfigError

    if left:
        say(f"nothing of it in pods that are there; from the run directory {left}:")
        try:
            printer.print_all(runlogs.read(left, wanted))
        except ConfigError as error:
            say(error.message)
    if printer.lines == 0:
        filtered = wanted.skips or wanted.tail == 0
        none = "no line is as asked for" if filtered else "no worker has printed anything yet"
        say(f"{none}; orch status {target} says what the job is doing")


class LinePrinter:
    """Prints lines with `[3] ` before each, which worker printed it, on stdout; notes go to stderr."""

    _COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_red")
    # On a terminal these would move the cursor or worse. Colours, which begin with escape, stay.
    _CONTROLS = {code: "\ufffd" for code in [*range(32), 127, *range(128, 160)] if code not in (9, 27)} | {8: None}

    def __init__(self, *, to_stderr: bool = False) -> None:
        stream = sys.stderr if to_stderr else sys.stdout
        self._to_stderr = to_stderr
        self._terminal = stream.isatty()
        self._coloured = self._terminal and not os.environ.get("NO_COLOR")
        self.lines = 0
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that knows no UTF-8 ends nothing

    def print_all(self, lines: "Iterable[Line | Note]") -> None:
        """Print them as they come."""
        from orchestrator.logs.lines import Line

        for line in lines:
            if isinstance(line, Line):
                self.print(line.worker, line.text)
            else:
                say(line.text)

    def print(self, worker: int, text: str) -> None:
        """Print a worker's line."""
        self.lines += 1
        mark = f"[{worker}]"
        if self._terminal:
            # Of a progress bar, what a terminal shows in the end.
            text = text.rstrip("\r").rpartition("\r")[2].translate(self._CONTROLS)
        click.echo(
            f"{click.style(mark, fg=self._COLOURS[worker % 6]) if self._coloured else mark} {text}", err=self._to_stderr
        )


def _wanted(
    workers: str | None, attempt: int | None, since: str | None, pattern: str | None, tail: int | None
) -> "Wanted":
    from orchestrator.logs.lines import Wanted, workers_of
    from trainer.config import parse_duration

    try:
        chosen = workers_of(workers) if workers is not None else None
        ago_s = parse_duration(since) if since is not None else None
        compiled = re.compile(pattern) if pattern is not None else None
    except re.error as error:
        raise click.BadParameter(f'--grep "{pattern}" is no regular expression: {error}') from None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    since_ns = round((time.time() - float(str(ago_s))) * 1e9) if ago_s is not None else 0
    return Wanted(workers=chosen, attempt=attempt, since_ns=since_ns, pattern=compiled, tail=tail)
