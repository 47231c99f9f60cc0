"""What a trouble is, and its parts of a sentence: what all modules of this package need."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Trouble:
    """One cause, with all workers that have it."""

    reason: str
    """One line: what is wrong, with the object and its figures."""
    remedy: str
    """What to do next."""
    workers: tuple[int, ...] = ()
    """Indexes; empty when it is about the whole job."""

    @property
    def text(self) -> str:
        """The reason, with the workers before it."""
        return f"{workers_text(self.workers)}: {self.reason}" if self.workers else self.reason


def workers_text(indexes: Iterable[int]) -> str:
    """`worker 3`, `workers 0, 1`, `workers 0-7, 9`."""
    ranges: list[list[int]] = []
    for index in sorted(set(indexes)):
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    parts = [
        str(first) if first == last else f"{first}, {last}" if last == first + 1 else f"{first}-{last}"
        for first, last in ranges
    ]
    return ("worker " if len(ranges) == 1 and ranges[0][0] == ranges[0][1] else "workers ") + ", ".join(parts)


def gathered(troubles: Iterable[Trouble]) -> list[Trouble]:
    """Troubles of single workers, those with the same cause as one."""
    found: dict[tuple[str, str], list[int]] = {}
    for trouble in troubles:
        found.setdefault((trouble.reason, trouble.remedy), []).extend(trouble.workers)
    return [Trouble(reason, remedy, tuple(sorted(set(workers)))) for (reason, remedy), workers in found.items()]


def clock(stamp: str) -> str:
    """`2026-01-01T12:30:05Z` as `12:30:05 UTC`: what a person compares with a clock."""
    return f"{stamp[11:19]} UTC" if len(stamp) >= 19 else stamp or "some time"


def after(text: str, mark: str) -> str:
    """What stands behind a mark; all of it where the mark is not there."""
    return text.split(mark, 1)[1] if mark in text else text
