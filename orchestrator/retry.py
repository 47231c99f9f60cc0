"""Doing something again while it fails, after pauses that double: one way for all of orch's commands."""

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
    """How long to wait after failures in a row: doubling, up to a bound."""

    first_s: float
    longest_s: float
    failures: int = 0

    def next_s(self) -> float:
        """The wait after one more failure."""
        self.failures += 1
        return float(min(self.first_s * 2 ** min(self.failures - 1, 30), self.longest_s))

    def reset(self) -> None:
        """It works again."""
        self.failures = 0


def retry(
    action: Callable[[], T],
    again: type[OrchError],
    backoff: Backoff,
    *,
    tries: int | None = None,
    for_s: float | None = None,
) -> T:
    """What `action` returns, done again while it raises `again`: so many times in all, or for so long.

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
            log.info("trying again attempt=%d error=%s", backoff.failures, error.message)
        time.sleep(pause_s)
