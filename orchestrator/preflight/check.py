"""What a check finds, and the registry of checks: each is declared once, where it is made. Pure.

A new check is one module of this package and its test: whatever asks for all checks, offers `--skip`, or documents them, reads
the registry.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from trainer.errors import OrchError

T = TypeVar("T")


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """Nothing is in the way, but a person should know; also what could not be looked at."""
    ERROR = "error"
    """The job could not run: a submit stops."""


@dataclass(frozen=True)
class Finding:
    """How what was looked at is."""

    level: Level
    text: str
    """In one line."""
    remedy: str = ""
    """What to do about a warning or an error."""


@dataclass(frozen=True)
class Check:
    """One line of a preflight: a finding, with the name of the check that made it."""

    name: str
    """What was looked at, in one word: `quota`. `--skip` knows it by this."""
    level: Level
    text: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `-o json` prints it."""
        return {"name": self.name, "level": self.level.value, "text": self.text, "remedy": self.remedy}


def ok(text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, text)


def warning(text: str, remedy: str = "") -> Finding:
    """Worth knowing."""
    return Finding(Level.WARNING, text, remedy)


def error(text: str, remedy: str = "") -> Finding:
    """In the way."""
    return Finding(Level.ERROR, text, remedy)


def errors(checks: Iterable[Check]) -> list[Check]:
    """Those in the way."""
    return [check for check in checks if check.level is Level.ERROR]


def lines(checks: Iterable[Check], paint: Callable[[Level], str] = str) -> list[str]:
    """For a person: level, name, text; the remedy, where there is one, in a line below. `paint` may colour a level."""
    checks = list(checks)
    width = max((len(check.name) for check in checks), default=0)
    shown = []
    for check in checks:
        shown.append(f"{paint(check.level)}{'':<{8 - len(check.level)}} {check.name:<{width}}  {check.text}")
        if check.remedy:
            shown.append(f"{'':<8} {'':<{width}}  -> {check.remedy}")
    return shown


# --- the registry


@dataclass(frozen=True)
class Declared(Generic[T]):
    """A check, as it is declared."""

    name: str
    order: int
    """Its place among the others, which the lines of a report keep."""
    what: str
    """What it looks at, for the documentation."""
    error_when: str
    """When it is in the way, for the documentation."""
    basic: bool
    """Whether nothing else can be asked before it is in order. Such a check cannot be left out."""
    before_image: bool
    """Whether it is asked before an image is built, too: it needs none, and is soon known."""
    look: Callable[[T], Finding]

    def __call__(self, subject: T) -> Check:
        """Look. What does not let itself be looked at is an error, as far as the look itself did not foresee it."""
        try:
            found = self.look(subject)
        except OrchError as problem:
            found = error(problem.message, problem.remedy)
        return Check(self.name, found.level, found.text, found.remedy)


class Registry(Generic[T]):
    """The checks of one kind of subject: of a job, or of a cluster."""

    def __init__(self) -> None:
        self._declared: dict[str, Declared[T]] = {}

    def check(
        self, name: str, order: int, *, what: str, error_when: str, basic: bool = False, before_image: bool = False
    ) -> Callable[[Callable[[T], Finding]], Callable[[T], Finding]]:
        """Declare a check; what it decorates looks.

        Raises:
            ValueError: name or place is another check's already.
        """
        for other in self._declared.values():
            if name == other.name or order == other.order:
                raise ValueError(f"check {name} ({order}): {other.name} ({other.order}) has this name or place already")

        def declare(look: Callable[[T], Finding]) -> Callable[[T], Finding]:
            self._declared[name] = Declared(name, order, what, error_when, basic, before_image, look)
            return look

        return declare

    def all(self) -> list[Declared[T]]:
        """Every check that a module of this package declares, in order."""
        package = importlib.import_module(__package__ or "")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
        return sorted(self._declared.values(), key=lambda declared: declared.order)

    def skippable(self) -> list[str]:
        """The names of those that can be left out, in order."""
        return [declared.name for declared in self.all() if not declared.basic]

    def table(self) -> list[str]:
        """The checks as a table in Markdown, for the documentation."""
        rows = [("check", "what", "error when"), ("---", "---", "---")]
        rows += [(declared.name, declared.what, declared.error_when) for declared in self.all()]
        return [f"| {' | '.join(row)} |" if row[0] != "---" else "|---|---|---|" for row in rows]
