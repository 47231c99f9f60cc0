"""Old processes that wake up after others took their place: nothing they do counts, and they end by themselves."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support_pods import Pods

from trainer import faults
from trainer.exit_codes import ExitCode
from trainer.rundir.attempts import AttemptRecord, EndRecord, read_records
from trainer.rundir.commits import DATA_PREFIX, parse_data_name

pytestmark = pytest.mark.slow

STEPS = 700
Make = Callable[..., Pods]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Pods] = []

    def pods(directory: str, workers: int = 2, **train: object) -> Pods:
        made.append(Pods(tmp_path / f"pods-{len(made)}", directory, workers, **(train or {"steps": STEPS})))
        return made[-1]

    yield pods
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("undisturbed")
    pods = Pods(folder / "pods", str(folder / "run"), 2, steps=STEPS)
    try:
        agents = [pods.start(index) for index in range(2)]
        assert [pods.leaves(agent) for agent in agents] == [ExitCode.DONE] * 2
        return end_of(pods).weights_sha256 or ""
    finally:
        pods.close()


def end_of(pods: Pods) -> EndRecord:
    end = read_records(pods.store)[-1]
    assert isinstance(end, EndRecord)
    return end


def everything(pods: Pods) -> dict[str, int]:
    """Name and generation of all records, commits and data."""
    entries = pods.store.list("attempts/") + pods.store.list("checkpoints/")
    return {entry.name: entry.generation for entry in entries}


@pytest.mark.soak
@pytest.mark.parametrize("index", [0, 1])
def test_a_worker_that_is_continued_after_it_was_replaced_changes_nothing(
    make: Make, undisturbed: str, tmp_path: Path, index: int
) -> None:
    pods = make(str(tmp_path / "run"))
    pods.train_until(250)
    agents = [pods.start(0), pods.start(1)]
    pods.wait_for_commits(1, attempt=1)
    old = agents[index]
    old.signal(signal.SIGSTOP)
    pods.train_until(450)
    agents[index] = pods.start(index)
    pods.wait_for_step(agents[0], 450, attempt=2)
    before = pods.needed()
    old.signal(signal.SIGCONT)
    assert pods.leaves(old) == ExitCode.STOPPED
    assert ("superseded: attempt 2" if index == 0 else "took the place of this one as worker 1") in old.log
    assert before.items() <= everything(pods).items()
    assert all(ref in pods.line() for ref in pods.commits())
    pods.train_until(10**9)
    assert [pods.leaves(agent) for agent in agents] == [ExitCode.DONE] * 2
    assert end_of(pods).weights_sha256 == undisturbed
    assert [record.kind for record in read_records(pods.store)] == ["attempt", "attempt", "end"]


@pytest.mark.soak
def test_a_worker_0_that_runs_on_after_it_was_replaced_loses_the_others_to_its_successor(
    make: Make, undisturbed: str, tmp_path: Path
) -> None:
    # Its kubelet is silent, nothing else is wrong with it: the connections to it hold, only the name leads elsewhere.
    pods = make(str(tmp_path / "run"))
    pods.train_until(250)
    old, other = pods.start(0), pods.start(1)
    pods.wait_for_commits(1, attempt=1)
    pods.train_until(450)
    new = pods.start(0)
    pods.wait_for_step(new, 450, attempt=2)
    assert pods.leaves(old) == ExitCode.STOPPED
    assert "superseded: attempt 2" in old.log
    assert all(ref in pods.line() for ref in pods.commits())
    pods.train_until(10**9)
    assert [pods.leaves(agent) for agent in (new, other)] == [ExitCode.DONE] * 2
    assert end_of(pods).weights_sha256 == undisturbed
    assert [record.kind for record in read_records(pods.store)] == ["attempt", "attempt", "end"]


@pytest.mark.soak
def test_a_writer_that_was_frozen_before_its_commit_commits_off_the_line(
    make: Make, undisturbed: str, gcs_url: str
) -> None:
    pods = make(gcs_url)
    pods.train_until(150)
    old, other = pods.start(0), pods.start(1)
    pods.wait_for_commits(1, attempt=1)
    faults.arm(pods.faults, "writer.before-commit", "stop")
    pods.train_until(250)
    writer = pods.wait_until_stopped(old, "trainer.checkpoint.writer")
    old.signal(signal.SIGSTOP)
    pods.train_until(550)
    new = pods.start(0)
    # Attempt 2 goes on from step 100: the commit of step 200 was not there.
    pods.wait_for_step(new, 550, attempt=2)
    second = read_records(pods.store)[1]
    assert isinstance(second, AttemptRecord)
    assert second.restore is not None
    assert second.restore.name == "step-100.attempt-1"
    before = pods.needed()

    # The writer alone: all it has still to do is the commit, and what follows a commit.
    os.kill(writer, signal.SIGCONT)
    pods.wait_for_commits(1, attempt=1, step=200)
    assert "step-200.attempt-1" not in {ref.name for ref in pods.line()}
    old.signal(signal.SIGCONT)
    assert pods.leaves(old) == ExitCode.STOPPED
    assert "attempt 1 is over: another worker 0 closed it" in old.log
    assert "superseded: attempt 2" in old.log
    assert before.items() <= everything(pods).items()

    pods.train_until(10**9)
    assert [pods.leaves(agent) for agent in (new, other)] == [ExitCode.DONE] * 2
    assert end_of(pods).weights_sha256 == undisturbed
    # The next attempt's retention has swept it, data and all.
    assert {ref.attempt for ref in pods.commits()} == {2}
    owners = {parse_data_name(entry.name) for entry in pods.store.list(DATA_PREFIX)}
    assert owners == set(pods.commits())


def test_a_worker_that_is_continued_after_a_later_launch_took_over_ends_with_78(make: Make, tmp_path: Path) -> None:
    pods = make(str(tmp_path / "run"), 1, command=["sh", "-c", f"test -e {tmp_path}/go || exec sleep 600"])
    old = pods.start(0, "first")
    pods.wait_until(lambda: old.child("sleep 600"), "the first script")
    old.signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    assert pods.leaves(pods.start(0, "second")) == ExitCode.DONE
    before = everything(pods)
    old.signal(signal.SIGCONT)
    assert pods.leaves(old) == ExitCode.CONFIGURATION
    assert "run directory taken over by launch second" in old.log
    assert everything(pods) == before
    assert [json.loads(pods.store.get(f"attempts/{number}.json"))["launch"]["id"] for number in (1, 2, 3)] == [
        "first",
        "second",
        "second",
    ]
