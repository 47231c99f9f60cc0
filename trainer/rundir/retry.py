"""Doing something again while it fails, after pauses that double; above all, asking a store for minutes."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from trainer.errors import StoreDenied, StoreUnavailable

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_T = TypeVar("_T")


@dataclass
class Backoff:
    """How long to wait after failures in a row: doubling, up to a bound."""

    first_s: float = _FIRST_PAUSE_S
    longest_s: float = _LONGEST_PAUSE_S
    failures: int = 0

    @property
    def pause_s(self) -> float:
        """After one more failure."""
        return float(min(self.first_s * 2 ** min(self.failures, 30), self.longest_s))

    def next_s(self) -> float:
        """The pause after one more failure, which is counted."""
        pause_s = self.pause_s
        self.failures += 1
        return pause_s

    def reset(self) -> None:
        """It works again."""
        self.failures = 0


def patiently(action: Callable[[], _T], deadline: float, who: str) -> _T:
    """What `action` returns, once the store lets it; `who` waits is for the log. `deadline` is of the monotonic clock.

    A refusal is asked again as well: the rights of a new pod may need a minute, a full disk a person.

    Raises:
        StoreUnavailable, StoreDenied: the deadline would pass before the next try.
    """
    backoff = Backoff()
    while True:
        try:
            return action()
        except (StoreUnavailable, StoreDenied) as error:
            if time.monotonic() + backoff.pause_s > deadline:
                raise
            log.warning("%s waits for the store: %s", who, error.message)
        time.sleep(backoff.next_s())
