"""Which commits count, under random histories of attempts, stale writers, damage and fresh starts."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from support_checkpoints import attempt, end, ref

from trainer.rundir.attempts import AttemptRecord, CommitRef, EndRecord
from trainer.rundir.lineage import NoGoodCommit, first_attempt, line, restore_point


@dataclass
class History:
    """What a run directory holds, and the truth about it."""

    records: list[AttemptRecord | EndRecord] = field(default_factory=list)
    commits: list[CommitRef] = field(default_factory=list)
    stale: set[CommitRef] = field(default_factory=set)
    bad: set[str] = field(default_factory=set)
    hidden: set[CommitRef] = field(default_factory=set)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Attempts that restore what `restore_point` says, with commits that stale writers add at any later time."""
    history = History()
    zombies: dict[int, int] = {}  # attempt -> the next step it would save
    number = 0
    for _ in range(draw(st.integers(1, 7))):
        number += 1
        point = restore_point(history.records, history.commits)
        fresh = draw(st.integers(0, 9)) == 0
        if isinstance(point, NoGoodCommit) or fresh:
            point, fresh = None, True
        if point is None:
            history.hidden.update(history.commits)
        history.records.append(attempt(number, point, fresh=fresh, bad=tuple(sorted(history.bad))))
        step = point.step if point else 0
        for _ in range(draw(st.integers(0, 4))):
            step += draw(st.integers(1, 3))
            history.commits.append(ref(step, number))
            if zombies and draw(st.booleans()):
                ghost = draw(st.sampled_from(sorted(zombies)))
                late = ref(zombies[ghost], ghost)
                zombies[ghost] += 1
                history.commits.append(late)
                history.stale.add(late)
        zombies[number] = step + 1
        if history.commits and draw(st.integers(0, 3)) == 0:
            history.bad.add(draw(st.sampled_from(history.commits)).name)
        if draw(st.integers(0, 9)) == 0:
            number += 1
            history.records.append(end(number))
    return history


@given(histories())
def test_commits_of_stale_writers_are_never_on_the_line(history: History) -> None:
    assert not history.stale & set(line(history.records, history.commits))


@given(histories(), st.randoms())
def test_the_line_falls_in_steps_and_attempts_and_knows_no_order_of_listing(history: History, random: object) -> None:
    found = line(history.records, history.commits)
    steps = [commit.step for commit in found]
    assert steps == sorted(set(steps), reverse=True)
    attempts = [commit.attempt for commit in found]
    assert attempts == sorted(attempts, reverse=True)
    shuffled = list(history.commits)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert line(history.records[::-1], shuffled) == found


@given(histories())
def test_a_bad_commit_is_never_on_the_line(history: History) -> None:
    listed = {name for record in history.records for name in record.bad}
    assert not listed & {commit.name for commit in line(history.records, history.commits)}
    point = restore_point(history.records, history.commits, bad=history.bad)
    assert not isinstance(point, CommitRef) or point.name not in history.bad


@given(histories())
def test_a_fresh_start_hides_all_before_it(history: History) -> None:
    assert not history.hidden & set(line(history.records, history.commits))
    first = first_attempt(history.records)
    assert all(commit.attempt >= first for commit in line(history.records, history.commits))


@given(histories())
def test_progress_is_never_silently_given_up(history: History) -> None:
    newest = max(record.number for record in history.records if isinstance(record, AttemptRecord))
    record = next(record for record in history.records if record.number == newest)
    assert isinstance(record, AttemptRecord)
    point = restore_point(history.records, history.commits, bad=history.bad)
    if point is None:
        assert record.restore is None
        assert not any(commit.attempt == newest for commit in history.commits)


def test_no_records_no_line() -> None:
    assert line([], [ref(1, 1)]) == []
    assert restore_point([], []) is None
    assert first_attempt([]) == 1


def test_the_line_goes_back_through_what_each_attempt_restored() -> None:
    records = [attempt(1), attempt(2, ref(20, 1)), end(3), attempt(4, ref(30, 2))]
    commits = [ref(10, 1), ref(20, 1), ref(30, 1), ref(30, 2), ref(40, 2), ref(35, 4)]
    assert line(records, commits) == [ref(35, 4), ref(30, 2), ref(20, 1), ref(10, 1)]
    assert restore_point(records, commits) == ref(35, 4)
    assert restore_point(records, commits, bad=["step-35.attempt-4"]) == ref(30, 2)


def test_nothing_but_damage_is_told_apart_from_nothing_yet() -> None:
    records = [attempt(1)]
    assert restore_point(records, []) is None
    found = restore_point(records, [ref(10, 1), ref(20, 1)], bad=["step-10.attempt-1", "step-20.attempt-1"])
    assert found == NoGoodCommit(damaged=("step-10.attempt-1", "step-20.attempt-1"), restored=None)
    assert "step-20.attempt-1" in found.reason


def test_deleted_commits_are_no_reason_to_start_from_zero() -> None:
    found = restore_point([attempt(1), attempt(2, ref(20, 1))], [])
    assert found == NoGoodCommit(damaged=(), restored=ref(20, 1))
    assert "was deleted" in found.reason
