"""`fit` on several replicas: every batch of the script is the global one, and trains what one device trains with it."""

import contextlib
from collections.abc import Iterator

from tensorflow.python.distribute import distribute_lib  # what a thread's strategy is has no public name


@contextlib.contextmanager
def outside_of_strategy() -> Iterator[None]:
    """Within it this thread is in no strategy's scope."""
    mode = distribute_lib._get_default_replica_mode()
    distribute_lib._push_per_thread_mode(mode)
    try:
        yield
    finally:
        distribute_lib._pop_per_thread_mode()
