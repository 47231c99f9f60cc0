"""The writer killed before and after every request of a save, all of them in turn: no acknowledged commit is ever lost.

One run directory goes through one attempt after another. Each saves once undisturbed, which is the proof that what the kill
before it left is no obstacle, and is killed in its second save.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from support_checkpoints import WriterProcess, assert_holds, attempt, begin, ref, writer_process
from support_gcs import FakeGcs, Proxy, Verdict, healthy

from trainer import faults
from trainer.checkpoint import retention
from trainer.rundir.attempts import CommitRef
from trainer.rundir.commits import DATA_PREFIX, list_commits, parse_data_name, read_commit
from trainer.rundir.open import open_store
from trainer.rundir.store import Store
from trainer.wire.writer import Retained, Saved

KEEP = 2


class Attempts:
    """The attempts of one job, whose writers are killed."""

    def __init__(self, url: str, environment: Mapping[str, str]) -> None:
        """`environment`: of the writers."""
        self.url = url
        self.store: Store = open_store(url)
        self._environment = environment
        self._number = 1
        self._newest = ref(KEEP, 1)
        begin(self.store, attempt(1))
        with writer_process(url, 1, keep=KEEP) as writer:
            for step in range(1, KEEP + 1):
                assert isinstance(writer.save(step), Saved)

    def run(self, arm: Callable[[WriterProcess], None]) -> bool:
        """One attempt: a save, then another one in which `arm` has the writer killed; then all is looked at. Whether it was."""
        self._number += 1
        begin(self.store, attempt(self._number, self._newest))
        step = self._newest.step
        with writer_process(self.url, self._number, keep=KEEP, environment=self._environment) as writer:
            assert isinstance(writer.save(step + 1), Saved)
            assert isinstance(writer.answer(), Retained)
            self._assert_tidy()
            arm(writer)
            writer.snapshot(step + 2)
            answers = list(iter(writer.next_answer, None))
            killed = not any(isinstance(answer, Retained) for answer in answers)
            assert writer.process.wait(30) == (-9 if killed else 0)
        saved = any(isinstance(answer, Saved) for answer in answers)
        self._assert_whole(ref(step + 2 if saved else step + 1, self._number))
        return killed

    def _assert_whole(self, acknowledged: CommitRef) -> None:
        """Every commit has all its data, and the last acknowledged one, or the one after it, is the newest."""
        commits = list_commits(self.store)
        assert len(commits) >= KEEP
        listed = {entry.name: entry for entry in self.store.list(DATA_PREFIX)}
        for commit in commits:
            assert retention.verifies(read_commit(self.store, commit), listed)
        self._newest = max(commits, key=lambda commit: commit.step)
        assert self._newest.attempt == acknowledged.attempt
        assert self._newest.step >= acknowledged.step
        assert_holds(self.url, self._newest)

    def _assert_tidy(self) -> None:
        """After the next attempt's save: what is to be kept, and nothing else, no temporary file either."""
        commits = list_commits(self.store)
        assert len(commits) == KEEP
        assert {parse_data_name(entry.name) for entry in self.store.list(DATA_PREFIX)} == set(commits)
        if not self.url.startswith("gs://"):
            assert not list(Path(self.url).glob("tmp/*"))


class Killer:
    """Kills a writer at its n-th request from now on, before the server sees the request or after it has answered it."""

    def __init__(self, proxy: Proxy, request: int, *, forward: bool) -> None:
        self._proxy, self._left, self._forward = proxy, request, forward

    def arm(self, writer: WriterProcess) -> None:
        """Count from now on."""
        self._writer = writer
        self._proxy.rule = self._rule

    def _rule(self, method: str, path: str, body: bytes) -> Verdict:
        self._left -= 1
        if self._left:
            return None
        self._proxy.rule = healthy
        if self._forward:
            return self._kill
        self._kill()
        return "reset"

    def _kill(self) -> None:
        self._writer.process.kill()
        self._writer.process.wait()


def test_writer_killed_at_every_point_of_a_local_save(tmp_path: Path) -> None:
    folder = tmp_path / "faults"
    folder.mkdir()
    attempts = Attempts(str(tmp_path / "run"), {faults.VARIABLE: str(folder)})
    # A save writes two shards, and retention deletes one commit and its two shards.
    points = [("shard", 2), ("commit", 1), ("delete", 3)]
    armed = [
        (f"writer.{when}-{what}", n) for what, times in points for n in range(times) for when in ("before", "after")
    ]

    def arm(point: str, passes: int, writer: WriterProcess) -> None:
        faults.arm(folder, point, "kill", passes=passes)

    for point, passes in [*armed, ("writer.before-read-back", 0)]:
        killed = attempts.run(partial(arm, point, passes))
        assert killed, f"{point} was not reached {passes + 1} times"


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.soak_ci
def test_writer_killed_before_and_after_every_request_of_a_save_on_gcs(gcs_server: FakeGcs, gcs_url: str) -> None:
    def kill_at_each(forward: bool) -> int:
        proxy = Proxy(gcs_server.url)
        try:
            attempts = Attempts(f"{gcs_url}-{forward}", {"STORAGE_EMULATOR_HOST": proxy.url})
            request = 1
            while attempts.run(Killer(proxy, request, forward=forward).arm):
                request += 1
            return request - 1
        finally:
            proxy.close()

    with ThreadPoolExecutor(2) as pool:
        before, after = pool.map(kill_at_each, (False, True))
    # Two shards, superseded?, commit, superseded?, read back, its shards; commits, data, superseded?, three deletes.
    assert (before, after) == (13, 13)
