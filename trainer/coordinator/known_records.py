"""The records as one launch reads them: its attempts, who was named in them, what was found damaged. Pure, no I/O."""

from collections.abc import Iterable, Sequence

from trainer.coordinator.verdict import ends_of_launch
from trainer.rundir.attempts import AttemptEnd, AttemptRecord, EndRecord
from trainer.wire.coordinator import ExitReport

Record = AttemptRecord | EndRecord


class KnownRecords:
    """All records that a coordinator knows, oldest first; more are appended to `all`."""

    def __init__(self, records: Sequence[Record], launch: str) -> None:
        self.all = list(records)
        self._launch = launch

    @property
    def newest(self) -> Record | None:
        """The last one."""
        return self.all[-1] if self.all else None

    @property
    def number(self) -> int:
        """The newest record's number; 0 for none."""
        return self.all[-1].number if self.all else 0

    @property
    def attempt(self) -> AttemptRecord | None:
        """The newest attempt."""
        return next((record for record in reversed(self.all) if isinstance(record, AttemptRecord)), None)

    def is_own(self, record: Record) -> bool:
        """Whether this launch wrote it."""
        return record.launch.id == self._launch

    @property
    def has_own(self) -> bool:
        """Whether this launch has written anything."""
        return any(self.is_own(record) for record in self.all)

    @property
    def own_attempts(self) -> list[AttemptRecord]:
        """This launch's."""
        return [record for record in self.all if isinstance(record, AttemptRecord) and self.is_own(record)]

    @property
    def own_end(self) -> EndRecord | None:
        """This launch's end, which stands, whoever went on behind it."""
        return next((end for end in self.all if isinstance(end, EndRecord) and self.is_own(end)), None)

    @property
    def restarts(self) -> int:
        """Of this launch."""
        return max(len(self.own_attempts) - 1, 0)

    @property
    def budget_used(self) -> int:
        """Restarts of this launch that count, as of its newest attempt."""
        own = self.own_attempts
        return own[-1].budget_used if own else 0

    def earlier_ends(self) -> list[AttemptEnd]:
        """How attempts of this launch ended, as later records tell."""
        return ends_of_launch(self.all, self._launch)

    def is_of_launch(self, end: AttemptEnd) -> bool:
        """Whether an attempt of this launch ended so."""
        return any(record.number == end.attempt for record in self.own_attempts)

    def bad(self, ends: Iterable[ExitReport | None]) -> list[str]:
        """Names of the commits found damaged: those on record, and what processes reported since."""
        names = list(self.newest.bad) if self.newest else []
        names += [end.bad_commit for end in ends if end is not None and end.bad_commit]
        return list(dict.fromkeys(names))

    def names(self, uid: str) -> bool:
        """Whether an attempt of this launch had this agent as a member."""
        return any(member.uid == uid for record in self.own_attempts for member in record.members)

    def is_superseded(self, uid: str) -> bool:
        """A UID named in an earlier record and not in the newest one is out for good."""
        own = self.own_attempts
        newest = {member.uid for member in own[-1].members} if own else set()
        return uid not in newest and self.names(uid)

    def is_by_an_older_worker_0(self, record: Record) -> bool:
        """Whether a worker 0 wrote it that was there before this one: one that the records named already."""
        authors = [member.uid for member in record.members if member.index == 0] if record.kind == "attempt" else []
        return any(self.names(uid) for uid in authors)
