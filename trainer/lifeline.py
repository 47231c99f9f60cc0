"""A child that dies with its parent. Free of TensorFlow; Linux only, elsewhere nothing happens.

`python -m trainer.lifeline PROGRAM ARGUMENTS...` becomes that program, which then dies with its parent too.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
PARENT_VARIABLE = "ORCH_PARENT_PID"
"""Names the parent in the child's environment: one that died before the child asked for the signal is noticed too."""


def die_with_parent() -> None:
    """SIGKILL for this process when its parent's forking thread ends. Call it first thing, from the main thread."""
    if sys.platform != "linux" or PARENT_VARIABLE not in os.environ:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if not has_its_parent():
        os.kill(os.getpid(), signal.SIGKILL)


def has_its_parent() -> bool:
    """Whether this process is the child of the one that its environment names."""
    return os.getppid() == int(os.environ[PARENT_VARIABLE])


def adopt_orphans() -> None:
    """Grandchildren whose parent died become this process's children, to be reaped here."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    die_with_parent()
    os.execvp(sys.argv[1], sys.argv[1:])
