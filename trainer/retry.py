"""Doing something again while it fails, after pauses that double: one way for all of orch."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from trainer.errors import OrchError

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class Backoff:
    """How long to wait after failures in a row: doubling, up to a bound. As it comes, what suits a store."""

    first_s: float = 0.5
    longest_s: float = 30.0
    failures: int = 0

    @property
    def pause_s(self) -> float:
        """The wait after one more failure, which is not counted yet."""
        return float(min(self.first_s * 2 ** min(self.failures, 30), self.longest_s))

    def next_s(self) -> float:
        """The wait after one more failure."""
        pause_s = self.pause_s
        self.failures += 1
        return pause_s

    def reset(self) -> None:
        """It works again."""
        self.failures = 0


def retry(
    action: Callable[[], T],
    again: type[OrchError] | tuple[type[OrchError], ...],
    backoff: Backoff,
    *,
    tries: int | None = None,
    for_s: float | None = None,
    say: Callable[[OrchError], None] | None = None,
) -> T:
    """What `action` returns, done again while it raises `again`: so many times in all, or for so long. `say` gets each error
    that is not the last; without it the log does.

    Raises:
        the last error.
    """
    deadline = time.monotonic() + for_s if for_s is not None else None
    while True:
        try:
            return action()
        except again as error:
            pause_s = backoff.next_s()
            tired = tries is not None and backoff.failures >= tries
            if tired or (deadline is not None and time.monotonic() + pause_s > deadline):
                raise
            if say is not None:
                say(error)
            else:
                log.info("trying again attempt=%d error=%s", backoff.failures, error.message)
        time.sleep(pause_s)
