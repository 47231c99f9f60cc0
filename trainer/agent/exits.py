"""How a training process ended, told as its exit report. Pure: what its agent saw of it goes in."""

from dataclasses import dataclass

from trainer.agent.last_error import LastError
from trainer.exit_codes import FINAL_CODES, ExitCode
from trainer.memory import in_words
from trainer.wire.coordinator import ExitReport
from trainer.wire.process import Failure, Phase

_CODES = frozenset(ExitCode)
_BY_THE_PROGRAM = _CODES - {ExitCode.DONE, ExitCode.KILLED, ExitCode.STOPPED}
"""Ends of which a program may have said why."""
_SIGNALS = 128
"""Exit codes above this are 128 + the number of a signal."""


@dataclass(frozen=True)
class Ending:
    """What an agent saw of a process that has ended."""

    attempt: int
    status: int
    """Its exit code, signals as 128 + number."""
    phase: Phase
    command: bool = False
    """It was the user's own program."""
    failure: Failure | None = None
    """What it said of its end itself."""
    last_error: LastError | None = None
    """What the last lines of a program of the user's tell instead."""
    asked: bool = False
    """Its agent was told to leave (SIGTERM) while it ran, and asked it to end."""
    hung_s: float | None = None
    """It was found hanging after so much silence."""
    stopped: bool = False
    """A signal had stopped it (SIGSTOP)."""
    killed_silent_s: float | None = None
    """Its agent ended it, for no fault of its own, after so much silence."""
    step: int = 0
    block_steps: int = 0
    blocks: bool = False
    memory_peak_bytes: int = 0
    oom_killed: bool = False
    """Linux killed a process of this container for want of memory while it ran."""


def exit_report(ending: Ending) -> ExitReport:
    """The report that the coordinator gets."""
    failure = ending.failure
    code, message = _code_and_message(ending)
    exception = failure.exception if failure else ""
    if ending.last_error is not None and code in _BY_THE_PROGRAM:
        exception = ending.last_error.exception
    killed = ending.killed_silent_s is not None and code == ExitCode.KILLED
    out_of_memory = ending.oom_killed and code == ExitCode.KILLED and not killed
    if out_of_memory:
        message = f"out of memory: Linux killed it when it had {in_words(ending.memory_peak_bytes)}"
    silent_s = ending.hung_s if code == ExitCode.HANG else None
    if killed and ending.phase is Phase.TRAIN:
        silent_s = ending.killed_silent_s
    return ExitReport(
        attempt=ending.attempt,
        code=code,
        exception=exception,
        message=message,
        remedy=failure.remedy if failure and message == failure.message else "",
        traceback=failure.traceback if failure else "",
        step=ending.step,
        block_steps=ending.block_steps,
        blocks=ending.blocks,
        silent_s=silent_s or 0.0,
        killed_by_agent=killed,
        asked=ending.asked,
        bad_commit=failure.bad_commit if failure else None,
        memory_peak_bytes=ending.memory_peak_bytes,
        out_of_memory=out_of_memory,
        stacks=code == ExitCode.HANG and ending.hung_s is not None and _has_stacks(ending),
    )


def _has_stacks(ending: Ending) -> bool:
    """Whether a process that hung could write its stacks: a program of the user's own has no handler that does."""
    return not ending.command and not ending.stopped


def _code_and_message(ending: Ending) -> tuple[int, str]:
    status = ending.status
    if ending.asked and _ends_as_asked(ending):
        late = ending.killed_silent_s is not None
        return ExitCode.STOPPED, "the grace period was too short to save" if late else ""
    if ending.hung_s is not None:
        message = f"silent for {ending.hung_s:.0f} s in phase {ending.phase}"
        if ending.stopped:
            message += ", stopped by a signal (SIGSTOP)"
        return ExitCode.HANG, message + (", its log has the stacks of all threads" if _has_stacks(ending) else "")
    if ending.command:
        return _of_program(ending)
    return status, ending.failure.message if ending.failure else ""


def _of_program(ending: Ending) -> tuple[int, str]:
    """Of a program of the user's own that was neither asked to end nor hung."""
    status, told = ending.status, ""
    code = ExitCode.SCRIPT_FAILED if 0 < status < _SIGNALS and status not in _CODES else status
    if ending.last_error is not None and code in _BY_THE_PROGRAM:
        told = ending.last_error.message
        if not ending.last_error.exception and status != code:
            told += f" (exit code {status})"
    return code, told or (f"it ended with exit code {status}" if status != code else "")


def _ends_as_asked(ending: Ending) -> bool:
    """Whether this is what may follow on a SIGTERM. A program that caught it may well end with 0, and is not done."""
    if ending.command:
        return (ending.status < _SIGNALS and ending.status not in FINAL_CODES) or ending.status == ExitCode.KILLED
    return ending.status in (ExitCode.KILLED, ExitCode.LOST_PEER)
