"""The job's tf.distribute strategy around a script: what the script makes by itself, and what is to be outside of it."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.distribute import distribute_lib  # what a thread's strategy is has no public name
from tensorflow.python.ops.resource_variable_ops import default_variable_creator_v2

from trainer.replaced import replaced

_KINDS = (
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.experimental.MultiWorkerMirroredStrategy,
    tf.distribute.MirroredStrategy,
)


@contextlib.contextmanager
def scope_of_script(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Within it all is made under `strategy`, until somebody makes a strategy: that opens its own scopes, and is in none else.

    Whoever makes one gets `strategy`, whatever the arguments: a process can have no second.
    """
    scope, thread = contextlib.ExitStack(), threading.get_ident()

    def given(kind: Any, *arguments: Any, **named: Any) -> tf.distribute.Strategy:
        if threading.get_ident() == thread:
            scope.close()
        return strategy

    with contextlib.ExitStack() as stack:
        for kind in _KINDS:
            stack.enter_context(replaced(kind, "__new__", given))
            stack.enter_context(replaced(kind, "__init__", _nothing))
        stack.enter_context(scope)
        scope.enter_context(strategy.scope())
        yield


def _nothing(strategy: Any, *arguments: Any, **named: Any) -> None:
    pass


@contextlib.contextmanager
def outside_of_strategy() -> Iterator[None]:
    """Within it this thread is in no strategy's scope."""
    if not tf.distribute.has_strategy():
        yield
        return
    distribute_lib._push_per_thread_mode(distribute_lib._get_default_replica_mode())
    try:
        # Without those who make variables in the scope: the last one is asked first, and asks no other.
        with tf.variable_creator_scope(lambda others, **named: default_variable_creator_v2(None, **named)):
            yield
    finally:
        distribute_lib._pop_per_thread_mode()
