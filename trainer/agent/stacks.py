"""Where everybody is: the stacks of all threads of a worker's processes, in its log."""

import contextlib
import faulthandler
import logging
import os
import signal
from collections.abc import Sequence

from trainer.agent.child import Child

log = logging.getLogger(__name__)


def dump_stacks(children: Sequence[Child]) -> None:
    """All threads of all processes of this worker into the log; the children write theirs themselves."""
    for child in children:
        child.signal(signal.SIGUSR1)
    # In memory: the disk may be what everybody waits for.
    with contextlib.suppress(OSError), open(os.memfd_create("orch-stacks", os.MFD_CLOEXEC), "w+b") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        log.error("stacks of the agent\n%s", file.read().decode(errors="replace").rstrip())
