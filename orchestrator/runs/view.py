"""A run directory as a person sees it: what became of the job. Local paths and gs:// alike. What was printed is in logs/."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from trainer.errors import ConfigError, ObjectNotFound
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord
from trainer.rundir.bucket import is_bucket
from trainer.rundir.commits import read_line
from trainer.rundir.open import open_store
from trainer.rundir.store import Store
from trainer.wire.coordinator import JobState

STOPPED_COMMAND = "stopped; orch saves nothing of a command: run again, and it runs from its start"
"""The reason of a command that was stopped."""
STORE_S = 15.0
"""So long a status waits for one answer of a bucket."""


@dataclass(frozen=True)
class RunView:
    """The records and the commits that count."""

    store: Store
    records: list[AttemptRecord | EndRecord]
    line: list[CommitRef]
    """The commits of the line, newest first."""
    name: str = ""

    @property
    def directory(self) -> str:
        """The run directory: an absolute path, or gs://bucket/prefix."""
        return self.store.url

    @property
    def in_bucket(self) -> bool:
        """Whether other machines may run it, of whom this one knows nothing."""
        return is_bucket(self.directory)

    @property
    def end(self) -> EndRecord | None:
        """The end record, when it is the newest."""
        newest = self.records[-1] if self.records else None
        return newest if isinstance(newest, EndRecord) else None

    @property
    def attempt(self) -> AttemptRecord | None:
        """The newest attempt."""
        return next((record for record in reversed(self.records) if isinstance(record, AttemptRecord)), None)

    @property
    def attempts(self) -> int:
        """Number of the newest attempt."""
        return self.attempt.number if self.attempt else 0

    @property
    def command(self) -> bool:
        """Whether the program is the user's own (train.command): orch saves nothing of it."""
        return self.attempt is not None and self.attempt.command

    @property
    def step(self) -> int:
        """The step a next attempt would start from."""
        if self.end is not None and self.end.state == "succeeded":
            return self.end.step
        return self.line[0].step if self.line else 0


def read_run(directory: str, *, timeout_s: float = 60.0, on_trouble: Callable[[str], None] | None = None) -> RunView:
    """Read a run directory. `timeout_s` and `on_trouble` are as for open_store.

    Raises:
        StoreError: it cannot be read.
    """
    store = open_store(directory, timeout_s=timeout_s, on_trouble=on_trouble)
    return replace(view_of(store), name=_name(store))


def view_of(store: Store) -> RunView:
    """The same of a store that is open; without a name, which is one more question.

    Raises:
        StoreError: it cannot be read.
    """
    return RunView(store, *read_line(store))


def _name(store: Store) -> str:
    try:
        return str(json.loads(store.get("job.json"))["name"])
    except (ObjectNotFound, ValueError, KeyError):
        return store.url.rstrip("/").rpartition("/")[2]


def no_run(directory: str) -> ConfigError:
    """The error for a run directory in which nothing ever ran."""
    return ConfigError(
        f"{directory} holds no run", remedy="Name a run directory, such as runs/digits or gs://bucket/prefix."
    )


def saved_in_words(live: JobState | None) -> str:
    """How far a job is saved, as far as its coordinator told: a later checkpoint may be there."""
    told = [report.last_commit.step for report in (live.workers if live else []) if report.last_commit is not None]
    return f"checkpoint at step {max(told)} or later" if told else "how far it is saved is unknown"
