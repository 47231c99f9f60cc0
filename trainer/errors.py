"""The one family of errors. A message is written for a person: what happened, to which object, what to do next.

Commands print it as one red line and leave with `code`; a traceback beside it would be a bug of ours.
"""

from trainer.exit_codes import ExitCode


class OrchError(Exception):
    """Something a person can act on. `code` is the exit code of the process that meets it."""

    code: ExitCode = ExitCode.CONFIGURATION

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}\n{remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class ConfigError(OrchError):
    """The job file, the task, or a checkpoint that does not fit the model: another try changes nothing."""

    def __init__(self, message: str, *, remedy: str = "", cut: bool = False) -> None:
        """`cut`: there are more problems than the lines of the message."""
        super().__init__(message, remedy=remedy)
        self.cut = cut


class TaskError(OrchError):
    """The user's code raised. The traceback is the user's own and is shown first."""

    code = ExitCode.TASK_ERROR


class StoreError(OrchError):
    """The base of what a store answers."""

    code = ExitCode.LOST_PEER


class StoreUnavailable(StoreError):
    """No answer, or one that another try may change: time-outs, resets, 408, 429, 5xx."""


class StoreDenied(StoreError):
    """The store refused: no permission, no such bucket, no space left. Trying again may help once a person acted."""


class ObjectNotFound(StoreError):
    """No object of that name (or not of that generation)."""


class ObjectExists(StoreError):
    """put_if_absent found the name taken, by another writer's object or by our own lost acknowledgement."""


class SaveRefused(OrchError):
    """The last save, or the export, could not be stored: the job's result would be lost."""

    code = ExitCode.SAVE_REFUSED


class DamagedCheckpoint(OrchError):
    """Bytes of a commit or of a shard that do not verify, after a second read."""

    code = ExitCode.LOST_PEER

    def __init__(self, commit: str, message: str) -> None:
        super().__init__(message)
        self.commit = commit
