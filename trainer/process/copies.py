"""A copy of this process for the next attempt: what it has imported need not be imported again.

fork(2) is safe as long as nothing has begun that only the forking thread survives: TensorFlow starts its runtime with the first
operation, CUDA with the first look at a GPU, and NumPy's OpenBLAS, which has threads already, knows of forks. So a process leaves
its copy between the import and its Start; pages that neither of the two writes to stay shared.
"""

import contextlib
import logging
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

from trainer.lifeline import die_with_parent, has_its_parent
from trainer.process.channel import Channel
from trainer.wire.process import SPARE, Copied, Copy

log = logging.getLogger(__name__)

_ADOPTED_S = 10.0


def leave_copy(channel: Channel, order: Copy) -> Channel:
    """Fork. The original goes on with its own channel; the copy, a child of the agent's, with the one that it was given."""
    connection, output, *memory = channel.take_files()
    if _has_begun():
        log.info("no spare process: a device is open already")
        _close([connection, output, *memory])
        return channel
    sys.stdout.flush()
    sys.stderr.flush()
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        _close([connection, output, *memory])
        return channel
    if os.fork():
        os._exit(0)  # its child is an orphan now, and the agent takes it
    channel.close()
    os.setsid()
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    return _begin_again(Channel(socket.socket(fileno=connection), memory[0] if memory else None), order)


def _begin_again(channel: Channel, order: Copy) -> Channel:
    deadline = time.monotonic() + _ADOPTED_S
    while not has_its_parent() and time.monotonic() < deadline:
        time.sleep(0.001)
    die_with_parent()
    name_process(SPARE)
    os.environ["TMPDIR"] = order.scratch
    tempfile.tempdir = None
    _draw_anew()
    channel.send(Copied(pid=os.getpid()))
    return channel


def _draw_anew() -> None:
    """An unseeded draw is another one in each process; Python's own `random` sees to that itself."""
    import numpy as np

    np.random.seed()


def _has_begun() -> bool:
    """Whether a GPU is in use, or TensorFlow's runtime: a copy could use neither."""
    from tensorflow.python.eager import context

    if context.context()._context_handle is not None:
        return True
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(file).startswith("/dev/nvidia"):
                return True
    return False


def name_process(name: str) -> None:
    """The name that ps and top show, 15 characters at most. Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)
