"""Which commits and which data may go: a pure decision, and its thin execution.

Kept are the newest verified commits of the line, never fewer than two, and what these need. Swept is what stale processes
left: commits off the line, and data without a commit. Never touched are later attempts, what lies before the line's first
attempt, and commits listed as bad.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainer import faults
from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord
from trainer.rundir.commits import Commit, commit_name, parse_data_name
from trainer.rundir.lineage import first_attempt, line
from trainer.rundir.store import Entry, Store

LEAST_KEPT = 2


@dataclass(frozen=True)
class Deletions:
    """What is to be deleted. The commits go first: one without its data would be a damaged checkpoint."""

    commits: tuple[CommitRef, ...]
    data: tuple[Entry, ...]


def verifies(commit: Commit, listed: Mapping[str, Entry]) -> bool:
    """Whether all shards of `commit` are in the listing (by name) as they were written: size, generation, crc32c."""
    for shard in commit.shards:
        entry = listed.get(shard.name)
        if entry is None or entry.size_bytes != shard.size_bytes or entry.generation != shard.generation:
            return False
        if entry.crc32c is not None and entry.crc32c != shard.crc32c:
            return False
    return True


def decide(
    records: Sequence[AttemptRecord | EndRecord],
    own_attempt: int,
    commits: Iterable[CommitRef],
    data: Iterable[Entry],
    verified: Collection[CommitRef],
    keep: int,
    needed: Collection[CommitRef] = (),
) -> Deletions:
    """What the writer of attempt `own_attempt` may delete.

    `records`, `commits` and `data` are all that exist. `verified` are commits of the line whose shards verify: at least
    the newest `keep` of them, if there are as many. `needed`: commits that those need.
    """
    records = [record for record in records if record.number <= own_attempt]
    if not any(isinstance(record, AttemptRecord) and record.number == own_attempt for record in records):
        return Deletions((), ())  # without our own record nobody can tell what is on the line
    commits = list(commits)
    on_line = line(records, commits)
    first = first_attempt(records)
    bad = {name for record in records for name in record.bad}

    good = [ref for ref in on_line if ref in verified]
    kept_good = good[: max(keep, LEAST_KEPT)]
    if len(kept_good) < LEAST_KEPT:
        outdated: list[CommitRef] = []
    else:
        outdated = on_line[on_line.index(kept_good[-1]) + 1 :] if len(kept_good) >= keep else []
    ours = [ref for ref in commits if first <= ref.attempt <= own_attempt and ref.name not in bad]
    stray = [ref for ref in ours if ref not in on_line]
    doomed = {*outdated, *stray}.difference(needed)

    remaining = {ref for ref in commits if ref not in doomed}
    oldest_kept = kept_good[-1].step if kept_good else 0
    doomed_data = []
    for entry in data:
        owner = parse_data_name(entry.name)
        if owner is None or owner in remaining or not first <= owner.attempt <= own_attempt or owner.name in bad:
            continue
        # Data of our own attempt without a commit may belong to a commit whose acknowledgement is still on its way.
        if owner.attempt == own_attempt and owner not in doomed and owner.step >= oldest_kept:
            continue
        doomed_data.append(entry)
    order = sorted(doomed, key=lambda ref: (ref.attempt, ref.step))
    return Deletions(tuple(order), tuple(doomed_data))


def execute(store: Store, plan: Deletions) -> None:
    """Delete what `plan` names. Interrupted anywhere, it leaves whole commits only; the next time it goes on.

    Raises:
        StoreError: the store did not answer, or refuses to delete.
    """
    names: list[tuple[str, int | None]] = [(commit_name(ref), None) for ref in plan.commits]
    names += [(entry.name, entry.generation) for entry in plan.data]
    for name, generation in names:
        faults.reach("writer.before-delete")
        store.delete(name, generation=generation)
        faults.reach("writer.after-delete")
