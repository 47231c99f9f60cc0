"""Asking a store that does not answer for minutes."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from trainer.errors import StoreDenied, StoreUnavailable
from trainer.retry import Backoff, retry

log = logging.getLogger(__name__)

_T = TypeVar("_T")


def patiently(action: Callable[[], _T], deadline: float, who: str) -> _T:
    """What `action` returns, once the store lets it; `who` waits is for the log. `deadline` is of the monotonic clock.

    A refusal is asked again as well: the rights of a new pod may need a minute, a full disk a person.

    Raises:
        StoreUnavailable, StoreDenied: the deadline would pass before the next try.
    """
    return retry(
        action,
        (StoreUnavailable, StoreDenied),
        Backoff(),
        for_s=deadline - time.monotonic(),
        say=lambda error: log.warning("%s waits for the store: %s", who, error.message),
    )
