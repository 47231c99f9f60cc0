"""What a person can do about attempts that end again and again, and about a job that was given up for it. Needs no objects of
Kubernetes: the status of a run here asks it too.
"""

from trainer.exit_codes import CRASH_CODES, ExitCode
from trainer.rundir.attempts import AttemptEnd

MEMORY_REMEDY = "raise resources.memory, or train with smaller batches"


def remedy_of_code(job: str, code: int, worker: int | None, *, memory: bool = False) -> str:
    """What to do about an end that comes again and again."""
    logs = f"orch logs {job}" + (f" --worker {worker}" if worker is not None else "")
    if memory:
        return MEMORY_REMEDY
    if code == ExitCode.HANG:
        return f"{logs} shows the stacks of all threads at that moment: what the task waits for there (data, a lock, a peer)"
    if code == ExitCode.SCRIPT_FAILED:
        return f"{logs} shows why the script failed"
    return f"{logs} shows the last lines before it; the same step of the same data ends it each time"


def of_cause(job: str, cause: AttemptEnd) -> str:
    """What to do about a job that was given up for this end of an attempt; empty where that says nothing."""
    if not cause.out_of_memory and cause.code not in CRASH_CODES:
        return ""
    return remedy_of_code(job, cause.code, cause.worker, memory=cause.out_of_memory)
