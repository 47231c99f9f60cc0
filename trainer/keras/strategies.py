"""A script that makes a tf.distribute strategy by itself gets the one of its job: a process can have no second one."""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from trainer.replaced import replaced

_KINDS = (
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.experimental.MultiWorkerMirroredStrategy,
    tf.distribute.MirroredStrategy,
)


@contextlib.contextmanager
def given_for_others(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Within it, whoever makes one of these strategies gets `strategy`, whatever the arguments."""
    with contextlib.ExitStack() as stack:
        for kind in _KINDS:
            stack.enter_context(replaced(kind, "__new__", lambda kind, *arguments, **named: strategy))
            stack.enter_context(replaced(kind, "__init__", _nothing))
        yield


def _nothing(strategy: Any, *arguments: Any, **named: Any) -> None:
    pass
