"""A pod's termination message: what its agent last knew, written ahead, since it may not live to write it. Pure.

Kubernetes keeps 4 KiB of it. `orch status` reads it back where neither the coordinator nor the run directory can be asked.
"""

from trainer.exit_codes import ExitCode
from trainer.memory import is_full
from trainer.rundir.attempts import Wire

SIZE_MAX_BYTES = 4096
_REASON_CHARS = 1500
_TRACEBACK_CHARS = 1500
_REMEDY_CHARS = 300

_START_AGAIN = "start the job again (orch run, orch submit --replace)"
_AGAIN = f"{_START_AGAIN}: it goes on from the last checkpoint"
_COMMAND_AGAIN = f"{_START_AGAIN}: the command runs from its start"
_REMEDIES = {
    ExitCode.TASK_ERROR: f"correct the task (the traceback is in the worker's log), then {_AGAIN}",
    ExitCode.SAVE_REFUSED: f"see to it that the run directory can be written (space, quota, permissions), then {_AGAIN}",
    ExitCode.GIVEN_UP: f"look for the cause that the reason names in the workers' logs, then {_AGAIN}",
    ExitCode.CONFIGURATION: f"mend what the reason names (the job file, the task, a checkpoint), then {_AGAIN}",
}
_COMMAND_REMEDIES = {
    ExitCode.TASK_ERROR: f"correct the program (what it printed is in the worker's log), then {_COMMAND_AGAIN}",
    ExitCode.GIVEN_UP: f"look for the cause that the reason names in the workers' logs, then {_COMMAND_AGAIN}",
    ExitCode.CONFIGURATION: f"mend what the reason names (the job file, the program), then {_COMMAND_AGAIN}",
}
"""Of a program of the user's own, of which orch keeps no checkpoint."""
_BY_ITSELF = "nothing: the job goes on by itself"
_OUT_OF_MEMORY = f"raise resources.memory, or train with smaller batches, then {_AGAIN}"
_MEMORY = "nothing at first: the job goes on by itself; if it comes again, raise resources.memory"

UNREAD_CONFIG = "the configuration in ORCH_CONFIG cannot be read"
"""What an agent says, and no more, that cannot read its job: its image is of another version than the orch that submitted it.
So these words never change."""

ANEW = "train anew with another run.directory (orch run: --fresh or --directory)"
"""What a person can do about a run directory that holds the end of another job than the one that was started."""
OR_FURTHER = ", or go on from what is there with a larger train.steps or train.epochs"
"""And about one of a task, whose length the job file says."""

SAVE_REMEDY = (
    "training goes on and the next save tries again; see to the run directory (space, quota, permissions, network), "
    "since a job whose last save fails ends with 74"
)
"""What a person can do about saves that fail."""


class LastWords(Wire):
    """The message, as JSON."""

    code: int | None = None
    name: str = ""
    reason: str = ""
    step: int = 0
    attempt: int = 0
    traceback: str = ""
    remedy: str = ""
    """What to do next."""
    memory_peak_bytes: int = 0
    memory_limit_bytes: int | None = None
    out_of_memory: bool = False
    """Linux killed a process for want of memory: this agent's last one, or the one for which the job was given up."""

    def own_remedy(self, code: int) -> str:
        """What is to be done about an end with this code, where that is more than the code says anyway."""
        return self.remedy if self.code == code and self.remedy != general_remedy(code) else ""

    def encode(self) -> bytes:
        """JSON of at most 4 KiB: what is too long is cut, the traceback at its beginning, before all else."""
        room = 1.0
        while True:
            words = self.model_copy(
                update={
                    "reason": self.reason[: int(_REASON_CHARS * room)],
                    "traceback": self.traceback[len(self.traceback) - int(_TRACEBACK_CHARS * room) :]
                    if len(self.traceback) > int(_TRACEBACK_CHARS * room)
                    else self.traceback,
                    "remedy": self.remedy[:_REMEDY_CHARS],
                }
            )
            # One character may take six bytes.
            data = words.to_json()
            if len(data) <= SIZE_MAX_BYTES or room < 0.1:
                return data
            room *= 0.7


def remedy_for(
    code: int | None,
    own: str = "",
    *,
    out_of_memory: bool = False,
    memory_peak_bytes: int = 0,
    memory_limit_bytes: int | None,
    command: bool = False,
) -> str:
    """What to do next about an end with this code; empty while there was none.

    `own` is what the failed process itself said is to be done. `out_of_memory`: as of LastWords. `command`: it was a program of
    the user's own.
    """
    if code is None or code == ExitCode.DONE:
        return ""
    if own and code in (ExitCode.SAVE_REFUSED, ExitCode.CONFIGURATION):
        return own
    if code == ExitCode.KILLED and (out_of_memory or is_full(memory_peak_bytes, memory_limit_bytes)):
        return _MEMORY
    return general_remedy(code, out_of_memory=out_of_memory, command=command)


def general_remedy(code: int, *, out_of_memory: bool = False, command: bool = False) -> str:
    """What to do next about an end of which no more is known than its code, whether memory was the cause, and whether it was a
    program of the user's own."""
    if command:
        if code == ExitCode.GIVEN_UP and out_of_memory:
            return f"raise resources.memory, then {_COMMAND_AGAIN}"
        if own := next((text for known, text in _COMMAND_REMEDIES.items() if known == code), ""):
            return own
    if code == ExitCode.GIVEN_UP and out_of_memory:
        return _OUT_OF_MEMORY
    return next((text for known, text in _REMEDIES.items() if known == code), _BY_ITSELF)
