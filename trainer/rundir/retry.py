"""Asking a store again, for minutes, while it does not answer or refuses."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from trainer.errors import StoreDenied, StoreUnavailable

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_T = TypeVar("_T")


def patiently(action: Callable[[], _T], deadline: float, who: str) -> _T:
    """What `action` returns, once the store lets it; `who` waits is for the log. `deadline` is of the monotonic clock.

    A refusal is asked again as well: the rights of a new pod may need a minute, a full disk a person.

    Raises:
        StoreUnavailable, StoreDenied: the deadline would pass before the next try.
    """
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return action()
        except (StoreUnavailable, StoreDenied) as error:
            if time.monotonic() + pause_s > deadline:
                raise
            log.warning("%s waits for the store: %s", who, error.message)
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
