"""Which commits are true: those that led to the newest attempt. Pure: records and names of commits in, names out.

A commit that a stale process made after a later attempt had restored from an earlier one exists, but leads nowhere: it
is off the line. A record that restores nothing hides all that lies before it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord


@dataclass(frozen=True)
class NoGoodCommit:
    """The job has made progress, and none of its commits can be used: end with 78, never start silently from zero."""

    damaged: tuple[str, ...]
    """Names of the commits found damaged, in the order in which they were found."""
    restored: CommitRef | None
    """What the newest attempt restored from, whether it still exists or not."""

    @property
    def reason(self) -> str:
        """For a person: what is wrong."""
        if self.damaged:
            return "no usable checkpoint is left: damaged are " + ", ".join(self.damaged)
        assert self.restored is not None
        return f"no checkpoint is left: {self.restored.name}, from which the job went on, was deleted"


def line(records: Sequence[AttemptRecord | EndRecord], commits: Iterable[CommitRef]) -> list[CommitRef]:
    """The commits that led to the newest attempt of `records`, newest first, without those listed as bad.

    These are the newest attempt's own, then the commit it restored from and those before it in that attempt, and so on
    until an attempt that restored nothing.
    """
    bad = _bad(records)
    return [ref for ref in _line_with_bad(records, commits) if ref.name not in bad]


def restore_point(
    records: Sequence[AttemptRecord | EndRecord], commits: Iterable[CommitRef], *, bad: Iterable[str] = ()
) -> CommitRef | NoGoodCommit | None:
    """What the next attempt starts from: the newest commit of the line; None when the job has made none yet.

    `bad` names commits found damaged since the newest record was written.
    """
    whole = _line_with_bad(records, commits)
    given = list(bad)
    bad = _bad(records).union(given)
    good = [ref for ref in whole if ref.name not in bad]
    if good:
        return good[0]
    newest = _newest(records)
    if whole or (newest is not None and newest.restore is not None):
        found = tuple(dict.fromkeys(name for names in (*(record.bad for record in records), given) for name in names))
        return NoGoodCommit(damaged=found, restored=newest.restore if newest else None)
    return None


def first_attempt(records: Sequence[AttemptRecord | EndRecord]) -> int:
    """The number of the attempt that began the line by restoring nothing. What belongs to lower numbers is left alone.

    Where the records between are missing, the lowest attempt that can still be reached.
    """
    walk = _walk(records)
    return walk[-1][0] if walk else 1


def steps_that_count(records: Sequence[AttemptRecord | EndRecord]) -> dict[int, tuple[int, int | None]]:
    """Attempt -> (first, last): its steps after the first count, up to the last one or all of them (None).

    Of attempts that are not named nothing counts: what they did was done again.
    """
    return {attempt: (since, until) for attempt, since, until in _walk(records)}


def _line_with_bad(records: Sequence[AttemptRecord | EndRecord], commits: Iterable[CommitRef]) -> list[CommitRef]:
    by_attempt: dict[int, list[CommitRef]] = {}
    for ref in commits:
        by_attempt.setdefault(ref.attempt, []).append(ref)
    found: list[CommitRef] = []
    for attempt, since, until in _walk(records):
        own = [ref for ref in by_attempt.get(attempt, []) if ref.step >= since and (until is None or ref.step <= until)]
        found += sorted(own, key=lambda ref: ref.step, reverse=True)
    return found


def _walk(records: Sequence[AttemptRecord | EndRecord]) -> list[tuple[int, int, int | None]]:
    """(attempt, its first step, the last of its steps that counts or None for all), newest first."""
    attempts = {record.number: record for record in records if isinstance(record, AttemptRecord)}
    newest = _newest(records)
    walk: list[tuple[int, int, int | None]] = []
    number, until = newest.number if newest else 0, None
    while (record := attempts.get(number)) is not None:
        restore = None if record.fresh else record.restore
        walk.append((number, restore.step if restore else 0, until))
        # A restore from an attempt that is no earlier one cannot be written by us; it must not make this walk endless.
        if restore is None or restore.attempt >= number:
            break
        number, until = restore.attempt, restore.step
    return walk


def _newest(records: Sequence[AttemptRecord | EndRecord]) -> AttemptRecord | None:
    return max(
        (record for record in records if isinstance(record, AttemptRecord)),
        key=lambda record: record.number,
        default=None,
    )


def _bad(records: Sequence[AttemptRecord | EndRecord]) -> frozenset[str]:
    return frozenset(name for record in records for name in record.bad)
