"""Reading data whose end is not known: how far it is, told now and then, and where it is given up as endless."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from trainer.data.kinds import Batch, examples_of
from trainer.errors import ConfigError

log = logging.getLogger(__name__)

EXAMPLES_MAX = 10_000_000
"""A pass of which so many examples were read without an end is taken for endless."""
PROGRESS_S = 10.0
_KNOWN_LENGTH = (
    "If it does end, say how long it is: dataset.apply(tf.data.experimental.assert_cardinality(n)), for a generator with "
    "tf.data.Dataset.from_generator."
)


def count(elements: Any, size: Callable[[Any], int], at_most: int | None) -> int | None:
    """The elements of one pass, by reading it; None where it has more than `at_most`.

    Args:
        size: the examples of an element.

    Raises:
        ConfigError: it never ends, or has not after EXAMPLES_MAX examples.
    """
    if elements.endless:
        raise _endless(elements.what, "never ends")
    read, examples = 0, 0
    tell = _Teller(f"counting {elements.what}")
    for element in elements.one_pass():
        read += 1
        examples += size(element)
        tell(examples)
        if at_most is not None and read > at_most:
            return None
        if examples > EXAMPLES_MAX:
            raise _endless(elements.what, f"has not ended after {examples} examples")
    if not read:
        raise ConfigError(f"{elements.what}() gives no data")
    return read


def watched(batches: Iterator[Batch], what: str, at_most: int | None, parts: int) -> Iterator[Batch]:
    """The same batches, of which all `parts` together may have `at_most` examples."""
    if at_most is None:
        yield from batches
        return
    tell, examples = _Teller(f"reading {what}"), 0
    for batch in batches:
        examples += examples_of(batch)
        tell(examples)
        if examples * parts > at_most:
            raise ConfigError(
                f"{what}() has not ended after {examples * parts} examples: an evaluation reads all of it",
                remedy=f"Let it end: leave out its repeat(), or take(n). {_KNOWN_LENGTH}",
            )
        yield batch


def evaluation_limit(training_examples: int | None) -> int:
    """The most examples that an evaluation reads where nothing says how many there are: ten times those of training, but
    at least a million; EXAMPLES_MAX where those are not known either."""
    return EXAMPLES_MAX if training_examples is None else min(EXAMPLES_MAX, max(10 * training_examples, 1_000_000))


def _endless(what: str, said: str) -> ConfigError:
    return ConfigError(
        f"the data of {what}() {said}, so it has no epochs",
        remedy="Give train.steps and evaluate.every in steps, or let a pass end (leave out the dataset's repeat()). "
        + _KNOWN_LENGTH,
    )


class _Teller:
    """Says how far reading is, every PROGRESS_S."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._told = time.monotonic()

    def __call__(self, examples: int) -> None:
        if time.monotonic() - self._told >= PROGRESS_S:
            self._told = time.monotonic()
            log.info("%s, whose end is not known examples=%d", self._doing, examples)
