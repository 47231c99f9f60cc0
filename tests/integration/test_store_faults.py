"""A store that makes trouble, as writer and restore meet it: nothing good counts as damaged, and saves are tried again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support_checkpoints import assert_holds, attempt, begin, ref, state_of_step, writer_process
from support_gcs import FakeGcs, Proxy, Rule, Verdict, always, healthy

from trainer.checkpoint import restore
from trainer.errors import DamagedCheckpoint, OrchError, StoreDenied, StoreUnavailable
from trainer.exit_codes import ExitCode, code_of_exception
from trainer.rundir.attempts import append_record, read_record, read_records
from trainer.rundir.commits import list_commits
from trainer.rundir.open import open_store
from trainer.wire.writer import Retained, Saved, SaveFailed, SaveTrouble

TROUBLE: list[Verdict] = [429, 503, "reset", "lose", "stall", "trickle", "cut", "cut-quietly", 401, 403, 404]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGcs]:
    """A server with one checkpoint in gs://bucket/run."""
    server = FakeGcs(tmp_path_factory.mktemp("gcs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        server.make_bucket("bucket")
        begin(open_store("gs://bucket/run"), attempt(1))
        with writer_process("gs://bucket/run", 1) as writer:
            assert isinstance(writer.save(7), Saved)
    yield server
    server.stop()


@pytest.fixture
def proxy(server: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy(server.url)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    yield proxy
    proxy.close()


def on_reads_of(part: str, verdict: Verdict) -> Rule:
    """The verdict on all downloads of objects with `part` in their names."""
    return lambda method, path, body: verdict if method == "GET" and "alt=media" in path and part in path else None


@pytest.mark.parametrize("part", ["commits", "shard-2", ""])
@pytest.mark.parametrize("verdict", TROUBLE)
def test_trouble_during_restore_is_no_damage(proxy: Proxy, verdict: Verdict, part: str) -> None:
    store = open_store("gs://bucket/run", timeout_s=0.2)
    # With no part named the whole store is in trouble, its listings too.
    proxy.rule = on_reads_of(part, verdict) if part else always(verdict)
    with pytest.raises((StoreUnavailable, StoreDenied)) as caught:
        restore.load(store, ref(7, 1), patience_s=0)
    assert code_of_exception(caught.value) == ExitCode.LOST_PEER
    proxy.rule = healthy
    assert len(restore.load(store, ref(7, 1), patience_s=10).arrays) == len(state_of_step(7))


def test_damage_is_still_damage(proxy: Proxy) -> None:
    proxy.rule = on_reads_of("shard-2", "flip")
    with pytest.raises(DamagedCheckpoint, match="shard-2-of-2"):
        restore.load(open_store("gs://bucket/run"), ref(7, 1), patience_s=1)


def test_a_run_directory_that_is_not_mounted_is_no_damage(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(open_store(str(run)), attempt(1))
    with writer_process(str(run), 1) as writer:
        assert isinstance(writer.save(7), Saved)
    run.rename(tmp_path / "elsewhere")
    run.mkdir()
    with pytest.raises(StoreUnavailable, match="is it mounted"):
        restore.load(open_store(str(run)), ref(7, 1), patience_s=0)


@pytest.mark.parametrize("verdict", TROUBLE)
def test_records_are_read_right_or_not_at_all(proxy: Proxy, verdict: Verdict) -> None:
    store = open_store("gs://bucket/run", timeout_s=0.2)
    proxy.rule = always(verdict)
    for read in (lambda: read_records(store), lambda: append_record(store, attempt(1))):
        with pytest.raises(OrchError):
            read()
    if verdict != 404:  # of one object, that is an answer: nothing is decided by it alone
        with pytest.raises(OrchError):
            read_record(store, 1)
    proxy.rule = healthy
    assert [record.number for record in read_records(store)] == [1]
    assert list_commits(store) == [ref(7, 1)]


def test_saves_are_tried_again_and_the_next_one_commits_whatever_the_trouble_was(proxy: Proxy) -> None:
    url = "gs://bucket/writer"
    begin(open_store(url), attempt(1))
    with writer_process(url, 1, keep=2, call_timeout_s=0.2, last_save_timeout_s=1.5) as writer:
        for number, verdict in enumerate((503, "stall", "trickle", "cut-quietly", 403)):
            assert isinstance(writer.save(2 * number + 1), Saved)
            proxy.rule = always(verdict)
            writer.snapshot(2 * number + 2, "last")
            answers = []
            while not answers or not isinstance(answers[-1], Saved | SaveFailed):
                answers.append(writer.answer())
            told = [answer for answer in answers if not isinstance(answer, Retained)]
            assert isinstance(told[0], SaveTrouble), "it is told at once"
            assert isinstance(told[-1], SaveFailed)
            assert "(tried for " in told[-1].error
            if verdict == 403:
                assert "Grant storage.objects.create on the bucket bucket" in told[-1].error
            assert "\n" not in told[-1].error
            proxy.rule = healthy
        assert isinstance(writer.save(1000), Saved)
        assert writer.finish() == 0
    for commit in list_commits(open_store(url)):
        assert_holds(url, commit)
