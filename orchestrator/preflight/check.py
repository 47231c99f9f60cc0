"""One line of a preflight: what was looked at, how it is, and what to do about it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SKIPPABLE = (
    "permissions",
    "name",
    "run-directory",
    "references",
    "add-ons",
    "secrets",
    "quota",
    "limits",
    "nodes",
    "network-policy",
    "image",
    "bucket",
    "checkpoints",
    "memory",
    "grace",
    "pod",
    "dry-run",
)
"""The checks of a job in their order, after `cluster` and `namespace`, without which there is nothing to ask."""


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """Nothing is in the way, but a person should know; also what could not be looked at."""
    ERROR = "error"
    """The job could not run: a submit stops."""


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    """What was looked at, in one word: `quota`. `--skip` knows it by this."""
    level: Level
    text: str
    """How it is, in one line."""
    remedy: str = ""
    """What to do about a warning or an error."""

    def to_json(self) -> dict[str, Any]:
        """As `-o json` prints it."""
        return {"name": self.name, "level": self.level.value, "text": self.text, "remedy": self.remedy}


def ok(name: str, text: str) -> Check:
    """All is well."""
    return Check(name, Level.OK, text)


def warning(name: str, text: str, remedy: str = "") -> Check:
    """Worth knowing."""
    return Check(name, Level.WARNING, text, remedy)


def error(name: str, text: str, remedy: str = "") -> Check:
    """In the way."""
    return Check(name, Level.ERROR, text, remedy)


def errors(checks: Iterable[Check]) -> list[Check]:
    """Those in the way."""
    return [check for check in checks if check.level is Level.ERROR]


def lines(checks: Iterable[Check]) -> list[str]:
    """For a person: level, name, text; the remedy, where there is one, in a line below."""
    checks = list(checks)
    width = max((len(check.name) for check in checks), default=0)
    shown = []
    for check in checks:
        shown.append(f"{check.level.value:<8} {check.name:<{width}}  {check.text}")
        if check.remedy:
            shown.append(f"{'':<8} {'':<{width}}  -> {check.remedy}")
    return shown
