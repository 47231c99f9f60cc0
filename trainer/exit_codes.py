"""Exit codes: the contract between process, agent, pod and Kubernetes, and the one table from exceptions to codes.

Free of TensorFlow: an exception is known by the names of its classes, so that agents and the user's machine read the same table.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the end of a process means, and so who acts on it."""

    DONE = 0
    SCRIPT_FAILED = 1
    TASK_ERROR = 70
    SAVE_REFUSED = 74
    LOST_PEER = 75
    HANG = 76
    GIVEN_UP = 77
    CONFIGURATION = 78
    ILLEGAL_INSTRUCTION = 132
    ABORTED = 134
    KILLED = 137
    SEGFAULT = 139
    STOPPED = 143

    @property
    def title(self) -> str:
        """A few words for a person: `lost a peer or a service`."""
        return _TITLES[self]


_TITLES = {
    ExitCode.DONE: "done",
    ExitCode.SCRIPT_FAILED: "the script failed",
    ExitCode.TASK_ERROR: "task error",
    ExitCode.SAVE_REFUSED: "the store refused the last save",
    ExitCode.LOST_PEER: "lost a peer or a service",
    ExitCode.HANG: "hang",
    ExitCode.GIVEN_UP: "given up",
    ExitCode.CONFIGURATION: "configuration",
    ExitCode.ILLEGAL_INSTRUCTION: "illegal instruction (SIGILL)",
    ExitCode.ABORTED: "aborted (SIGABRT, a failed check inside TensorFlow)",
    ExitCode.KILLED: "killed (SIGKILL)",
    ExitCode.SEGFAULT: "segmentation fault",
    ExitCode.STOPPED: "stopped",
}

# Codes that end the whole job wherever they appear: another attempt would end the same way.
FINAL_CODES = frozenset({ExitCode.TASK_ERROR, ExitCode.SAVE_REFUSED, ExitCode.GIVEN_UP, ExitCode.CONFIGURATION})

# Codes that count towards a crash loop (137 only when memory was nearly used up).
CRASH_CODES = frozenset(
    {
        ExitCode.SCRIPT_FAILED,
        ExitCode.HANG,
        ExitCode.ILLEGAL_INSTRUCTION,
        ExitCode.ABORTED,
        ExitCode.SEGFAULT,
    }
)

# Exceptions of TensorFlow and of the network that mean "a peer or a service is gone". Peers of a frozen chief see
# DeadlineExceeded, of a frozen or dead worker Unavailable; a collective that was aborted also shows as Internal, Aborted
# or Cancelled with one of the texts below (measured with TensorFlow 2.21).
_LOST_PEER_NAMES = frozenset(
    {
        "UnavailableError",
        "AbortedError",
        "DeadlineExceededError",
        "CancelledError",
        "ConnectionError",
        "TimeoutError",
        "gaierror",
        "StoreUnavailable",
    }
)
_LOST_PEER_TEXTS = (
    "Collective ops is aborted",
    "Connection reset by peer",
    "Socket closed",
    "failed to connect to all addresses",
    "coordination service",
    "Coordination service",
    "heartbeat",
    # No space for what was compiled: no fault of the task's, and the next attempt keeps nothing.
    "xla_compile_cache",
    # Its port was taken since the record was written: the next attempt has another one.
    "Could not start gRPC server",
)


def code_of_status(status: int) -> int:
    """The exit code of a wait status given as Popen.returncode: -9 (signal 9) becomes 137."""
    return 128 - status if status < 0 else status


def title_of(code: int) -> str:
    """Words for any exit code, known to the contract or not."""
    try:
        return ExitCode(code).title
    except ValueError:
        return f"signal {code - 128}" if 128 < code < 193 else f"exit code {code}"


def workers_part(error: BaseException) -> bool:
    """Whether the workers' programs met in operations that do not belong together: no peer is lost, and all would do it again."""
    text = str(error)
    return "Collective instance" in text and "expected type" in text


def code_of_exception(error: BaseException) -> ExitCode:
    """The exit code for an exception that ended a training process: the one table.

    OrchErrors carry theirs. KeyboardInterrupt is a stop. TensorFlow's errors of lost peers, and those of the network, are 75
    by class or by text. All else was raised by the user's code: 70.
    """
    code = getattr(error, "code", None)
    if isinstance(code, ExitCode):
        return code
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.STOPPED
    if workers_part(error):
        return ExitCode.TASK_ERROR
    names = {cls.__name__ for cls in type(error).__mro__}
    from_tensorflow = any(cls.__module__.startswith("tensorflow") for cls in type(error).__mro__)
    if names & _LOST_PEER_NAMES:
        return ExitCode.LOST_PEER
    if from_tensorflow and any(text in str(error) for text in _LOST_PEER_TEXTS):
        return ExitCode.LOST_PEER
    return ExitCode.TASK_ERROR
