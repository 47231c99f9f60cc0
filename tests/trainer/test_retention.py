"""What a writer may delete: the decision under random run directories, and its execution interrupted anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_checkpoints import attempt, ref
from test_lineage import History, histories

from trainer.checkpoint.retention import Deletions, decide, execute, verifies
from trainer.errors import StoreUnavailable
from trainer.rundir.attempts import AttemptRecord, CommitRef
from trainer.rundir.commits import Shard, commit_name, parse_commit_name, parse_data_name, shard_name
from trainer.rundir.lineage import first_attempt, line
from trainer.rundir.local_store import LocalStore
from trainer.rundir.store import Entry


def data_of(*refs: CommitRef) -> list[Entry]:
    return [Entry(shard_name(ref, 0, 1), 9, 5, None) for ref in refs]


def owners(plan: Deletions) -> set[CommitRef | None]:
    return {parse_data_name(entry.name) for entry in plan.data}


def test_the_newest_stay_and_older_ones_go() -> None:
    commits = [ref(step, 1) for step in (10, 20, 30, 100)]
    plan = decide([attempt(1)], 1, commits, data_of(*commits), set(commits), keep=2)
    assert plan.commits == (ref(10, 1), ref(20, 1))
    assert owners(plan) == {ref(10, 1), ref(20, 1)}


def test_a_commit_that_does_not_verify_does_not_count() -> None:
    commits = [ref(step, 1) for step in (10, 20, 30, 40)]
    assert decide([attempt(1)], 1, commits, data_of(*commits), {ref(40, 1)}, keep=2) == Deletions((), ())
    plan = decide([attempt(1)], 1, commits, data_of(*commits), {ref(40, 1), ref(20, 1)}, keep=2)
    assert plan.commits == (ref(10, 1),)


def test_what_stale_writers_left_is_swept() -> None:
    records = [attempt(1), attempt(2, ref(10, 1))]
    commits = [ref(10, 1), ref(20, 1), ref(20, 2)]
    stored = data_of(*commits, ref(30, 1))
    plan = decide(records, 2, commits, stored, {ref(20, 2), ref(10, 1)}, keep=2)
    assert plan.commits == (ref(20, 1),)
    assert owners(plan) == {ref(20, 1), ref(30, 1)}


def test_data_whose_commit_may_still_be_on_its_way_stays() -> None:
    commits = [ref(step, 1) for step in (10, 20, 30)]
    stored = data_of(*commits, ref(5, 1), ref(25, 1), ref(35, 1))
    plan = decide([attempt(1)], 1, commits, stored, set(commits), keep=2)
    assert owners(plan) == {ref(5, 1), ref(10, 1)}


def test_a_record_that_is_missing_means_hands_off() -> None:
    commits = [ref(step, 2) for step in (10, 20, 30)]
    assert decide([attempt(1)], 2, commits, data_of(*commits), set(commits), keep=2) == Deletions((), ())


@given(histories(), st.integers(1, 9), st.integers(2, 4), st.data())
def test_whatever_happened_enough_is_left(history: History, own: int, keep: int, draw: st.DataObject) -> None:
    attempts = [record.number for record in history.records if isinstance(record, AttemptRecord)]
    own = attempts[own % len(attempts)]
    until = [record for record in history.records if record.number <= own]
    on_line = line(until, history.commits)
    verified = {commit for commit in on_line if draw.draw(st.booleans())}
    orphans = [ref(draw.draw(st.integers(1, 20)), draw.draw(st.sampled_from(attempts))) for _ in range(3)]
    stored = data_of(*dict.fromkeys([*history.commits, *orphans]))

    plan = decide(history.records, own, history.commits, stored, verified, keep)

    left = [commit for commit in on_line if commit not in plan.commits]
    good_before = [commit for commit in on_line if commit in verified]
    assert [commit for commit in left if commit in verified][: max(keep, 2)] == good_before[: max(keep, 2)]
    first = first_attempt(until)
    bad = {name for record in until for name in record.bad}
    for commit in [*plan.commits, *owners(plan)]:
        assert commit is not None
        assert first <= commit.attempt <= own
        assert commit.name not in bad
    # No commit is left without its data.
    assert not owners(plan) & (set(history.commits) - set(plan.commits))
    # And of what was deleted nothing is left behind.
    assert set(plan.commits) <= owners(plan)


class Failing(LocalStore):
    """Refuses after some deletions."""

    allowed = 0

    def delete(self, name: str, *, generation: int | None = None) -> None:
        if self.allowed == 0:
            raise StoreUnavailable("no more")
        self.allowed -= 1
        super().delete(name, generation=generation)


@pytest.mark.parametrize("allowed", range(8))
def test_interrupted_anywhere_it_leaves_whole_commits_and_goes_on_later(tmp_path: object, allowed: int) -> None:
    store = Failing(str(tmp_path))
    commits = [ref(step, 1) for step in (10, 20, 30, 40)]
    for commit in commits:
        store.put_if_absent(commit_name(commit), b"")
        for index in range(2):
            store.put_if_absent(shard_name(commit, index, 2), b"")

    def plan() -> Deletions:
        present = [found for entry in store.list("checkpoints/commits/") if (found := parse_commit_name(entry.name))]
        return decide([attempt(1)], 1, present, store.list("checkpoints/data/"), set(present), keep=2)

    store.allowed = allowed
    if allowed < 6:
        with pytest.raises(StoreUnavailable):
            execute(store, plan())
    else:
        execute(store, plan())
    data = [parse_data_name(entry.name) for entry in store.list("checkpoints/data/")]
    for entry in store.list("checkpoints/commits/"):
        assert data.count(parse_commit_name(entry.name)) == 2
    store.allowed = -1
    execute(store, plan())
    assert {parse_data_name(entry.name) for entry in store.list("checkpoints/data/")} == {ref(30, 1), ref(40, 1)}


def test_verification_by_listing_compares_all_that_a_store_tells() -> None:
    class One:
        shards = [Shard(name="a", generation=1, size_bytes=2, crc32c="x")]

    def listed(size: int, generation: int, crc32c: str | None) -> bool:
        return verifies(One(), {"a": Entry("a", size, generation, crc32c)})  # type: ignore[arg-type]

    assert listed(2, 1, "x")
    assert listed(2, 1, None)
    assert not listed(3, 1, "x")
    assert not listed(2, 2, "x")
    assert not listed(2, 1, "y")
    assert not verifies(One(), {})  # type: ignore[arg-type]
