"""A picture that changes: redrawn in place on a terminal; elsewhere a line when there is something new, or JSON lines."""

import json
import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from orchestrator.cli.output import finite

if TYPE_CHECKING:
    from rich.live import Live as RichLive


PROGRESS_S = 30.0
"""So often, where nothing can be redrawn, a line tells how far a job is that does nothing but train."""


class Live:
    """`with Live() as live: live.show(...)`. What was shown last stays on the screen."""

    def __init__(self, *, as_json: bool = False) -> None:
        """`as_json`: an object a line, whenever it changed."""
        self._as_json = as_json
        self._terminal: RichLive | None = None
        self._last = ""
        self._last_s = time.monotonic()
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        if not self._as_json and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live as RichLive

            self._terminal = RichLive(console=Console(highlight=False), refresh_per_second=4, transient=True)
            self._terminal.start()
        return self

    def show(self, lines: list[str], summary: str, value: dict[str, Any], *, progress: str = "") -> None:
        """Show this from now on.

        Args:
            lines: the whole picture.
            summary: the line that tells, where nothing can be redrawn, that something is new.
            value: the same as an object.
            progress: what goes on all the time: said behind the summary, but nothing new by itself.
        """
        self._lines = lines
        if self._terminal is not None:
            from rich.text import Text

            self._terminal.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"))
            return
        said = json.dumps(finite(value), ensure_ascii=False) if self._as_json else summary
        now = time.monotonic()
        if said != self._last or (progress and not self._as_json and now - self._last_s > PROGRESS_S):
            self._last, self._last_s = said, now
            click.echo(said if self._as_json or not progress else f"{said} ({progress})")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal is not None:
            self._terminal.stop()
        if not self._as_json and self._lines:
            click.echo("\n".join(self._lines))
