"""A state of Python's and NumPy's global random generators that belongs to a task's data alone.

Generators and datasets of the user's own shuffle and augment with numpy.random and random. Their draws must not depend on
what else draws in this process, nor on where training began.
"""

import random
from types import TracebackType
from typing import Any

import numpy as np


class PrivateRandom:
    """Within `with`, the global generators go on from where they were at the end of the last one; at first from `key`."""

    def __init__(self, *key: int) -> None:
        """The same key, the same draws."""
        words = np.random.SeedSequence([abs(number) for number in key]).generate_state(2)
        self._numpy: Any = np.random.RandomState(int(words[0])).get_state()
        self._python: Any = random.Random(int(words[1])).getstate()
        self._others: Any = None

    def __enter__(self) -> None:
        self._others = np.random.get_state(), random.getstate()
        np.random.set_state(self._numpy)
        random.setstate(self._python)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._numpy, self._python = np.random.get_state(), random.getstate()
        np.random.set_state(self._others[0])
        random.setstate(self._others[1])
