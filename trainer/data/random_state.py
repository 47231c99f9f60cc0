"""States of the global random generators that belong to a task's data alone.

Generators and datasets of the user's own shuffle and augment with numpy.random and random. Their draws must not depend on
what else draws in this process, nor on where training began.
"""

import contextlib
import json
import random
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """What draws within does not change what is drawn after: the states of random, numpy.random and TensorFlow are put back."""
    from tensorflow.python.eager import context

    own, numpys, tensorflows = random.getstate(), np.random.get_state(), context.context()
    seed, generator = tensorflows._seed, getattr(tensorflows, "_rng", None)
    state = generator.getstate() if generator is not None else None
    try:
        yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)
        tensorflows._seed = seed
        if generator is not None:
            generator.setstate(state)
            tensorflows._rng = generator


@contextlib.contextmanager
def seeded_anew(seed: int) -> Iterator[None]:
    """Within, all draws are as after keras.utils.set_random_seed(seed); after it, as if there had been none.

    That function itself would throw away the state of Keras' global generator, and every kernel that TensorFlow keeps.
    """
    from keras.src.backend.common import global_state
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
    from tensorflow.python.eager import context

    with random_states_kept():
        random.seed(seed)
        np.random.seed(seed)
        context.context()._seed = seed
        context.context()._rng = random.Random(seed)
        generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)
        try:
            yield
        finally:
            global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)


def drawn_so_far() -> np.ndarray:
    """The states of random, numpy.random and TensorFlow's eager draws, as bytes of JSON: uint8."""
    from tensorflow.python.eager import context

    name, words, *rest = np.random.get_state()
    generator = getattr(context.context(), "_rng", None)
    states = {
        "random": random.getstate(),
        "numpy": [name, np.asarray(words).tolist(), *rest],
        "tensorflow": generator.getstate() if generator is not None else None,
    }
    return np.frombuffer(json.dumps(states).encode(), np.uint8)


def go_on_drawing(state: np.ndarray) -> None:
    """Draw what followed after `drawn_so_far`."""
    from tensorflow.python.eager import context

    states = json.loads(state.tobytes())
    random.setstate(_python_state(states["random"]))
    name, words, *rest = states["numpy"]
    np.random.set_state((name, np.array(words, np.uint32), *rest))
    generator = getattr(context.context(), "_rng", None)
    if generator is not None and states["tensorflow"] is not None:
        generator.setstate(_python_state(states["tensorflow"]))


def _python_state(stored: Any) -> Any:
    version, words, gauss = stored
    return version, tuple(words), gauss


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
