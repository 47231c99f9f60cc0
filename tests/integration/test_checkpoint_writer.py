"""The writer as a process, on a local path and on GCS over HTTP: whatever happens, only whole commits are there."""

import os
import signal
import threading
from pathlib import Path

import pytest
from support_checkpoints import WriterProcess, assert_holds, attempt, begin, ref, writer_process
from support_gcs import FakeGcs, Proxy

from trainer.checkpoint import restore
from trainer.errors import DamagedCheckpoint, StoreUnavailable
from trainer.rundir.attempts import append_record, parse_record, read_record
from trainer.rundir.commits import DATA_PREFIX, commit_name, list_commits, parse_data_name, read_commit
from trainer.rundir.open import open_store
from trainer.wire.writer import Retained, Saved, SaveFailed, SaveTrouble


def test_saved_state_comes_back_as_it_was(run_url: str) -> None:
    store = open_store(run_url)
    begin(store, attempt(1))
    with writer_process(run_url, 1) as writer:
        saved = writer.save(10)
        assert isinstance(saved, Saved)
        assert writer.finish() == 0
    assert list_commits(store) == [ref(10, 1)]
    commit = read_commit(store, ref(10, 1))
    assert len(commit.shards) == 2
    assert saved.size_bytes == commit.size_bytes
    assert commit.examples_seen == 320
    assert_holds(run_url, ref(10, 1))


def test_only_the_newest_commits_are_kept(run_url: str) -> None:
    store = open_store(run_url)
    begin(store, attempt(1))
    with writer_process(run_url, 1, keep=2) as writer:
        for step in (1, 2, 3, 10):
            assert isinstance(writer.save(step), Saved)
        assert writer.finish() == 0
    assert list_commits(store) == [ref(3, 1), ref(10, 1)]
    assert {parse_data_name(entry.name) for entry in store.list(DATA_PREFIX)} == {ref(3, 1), ref(10, 1)}
    for commit in list_commits(store):
        assert_holds(run_url, commit)


def test_superseded_writer_commits_and_deletes_nothing(run_url: str) -> None:
    store = open_store(run_url)
    begin(store, attempt(1))
    with writer_process(run_url, 1, keep=2) as writer:
        for step in (1, 2):
            assert isinstance(writer.save(step), Saved)
        begin(store, attempt(2, ref(1, 1)))
        before = [entry.name for entry in store.list("checkpoints/commits/")]
        answer = writer.save(3)
        assert isinstance(answer, SaveFailed)
        assert answer.superseded
        assert [entry.name for entry in store.list("checkpoints/commits/")] == before
        assert writer.finish() == 0


def test_next_attempt_sweeps_what_a_stale_writer_left(run_url: str) -> None:
    store = open_store(run_url)
    begin(store, attempt(1))
    with writer_process(run_url, 1, keep=5) as writer:
        for step in (1, 2, 3):
            assert isinstance(writer.save(step), Saved)
        begin(store, attempt(2, ref(2, 1)))
        assert isinstance(writer.save(4), SaveFailed)  # leaves data without a commit
    with writer_process(run_url, 2, keep=5) as writer:
        writer.snapshot(3)
        assert isinstance(writer.answer(), Saved)
        assert writer.answer() == Retained(deleted=["step-3.attempt-1"])
        assert writer.finish() == 0
    assert set(list_commits(store)) == {ref(1, 1), ref(2, 1), ref(3, 2)}
    assert {parse_data_name(entry.name) for entry in store.list(DATA_PREFIX)} == {ref(1, 1), ref(2, 1), ref(3, 2)}


def test_the_same_step_saved_twice_is_one_commit(run_url: str) -> None:
    begin(open_store(run_url), attempt(1))
    with writer_process(run_url, 1) as writer:
        first = writer.save(5)
        assert isinstance(first, Saved)
        assert writer.save(5, "stop") == first
        assert writer.finish() == 0


def test_non_finite_host_state_comes_back(run_url: str) -> None:
    store = open_store(run_url)
    begin(store, attempt(1))
    with writer_process(run_url, 1) as writer:
        writer.snapshot(5, host_state={"best": float("inf"), "waited": 2})
        assert isinstance(writer.answer(), Saved)
    assert read_commit(store, ref(5, 1)).host_state == {"best": float("inf"), "waited": 2}


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing", "empty"])
@pytest.mark.parametrize("what", ["shard-1-of-2", "shard-2-of-2", "commit"])
def test_damage_is_found_and_named(tmp_path: Path, what: str, how: str) -> None:
    run = tmp_path / "run"
    store = open_store(str(run))
    begin(store, attempt(1))
    with writer_process(str(run), 1) as writer:
        assert isinstance(writer.save(7), Saved)
    path = run / commit_name(ref(7, 1)) if what == "commit" else next(run.glob(f"checkpoints/data/**/{what}.*"))
    damage(path, how)
    with pytest.raises(DamagedCheckpoint) as caught:
        restore.load(store, ref(7, 1), patience_s=5)
    assert caught.value.commit == "step-7.attempt-1"


def test_damage_on_gcs_is_found(gcs_server: FakeGcs, gcs_url: str) -> None:
    begin(open_store(gcs_url), attempt(1))
    with writer_process(gcs_url, 1) as writer:
        assert isinstance(writer.save(7), Saved)
    bucket = gcs_url.removeprefix("gs://").split("/")[0]
    damage(next(path for path in (gcs_server.folder / bucket).rglob("*shard-1-of-2.safetensors")), "flipped")
    with pytest.raises(DamagedCheckpoint, match="shard-1-of-2"):
        restore.load(open_store(gcs_url), ref(7, 1), patience_s=5)


def test_a_copied_run_directory_restores(tmp_path: Path) -> None:
    begin(open_store(str(tmp_path / "run")), attempt(1))
    with writer_process(str(tmp_path / "run"), 1) as writer:
        assert isinstance(writer.save(7), Saved)
    moved = tmp_path / "copy"
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            target = moved / path.relative_to(tmp_path / "run")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert_holds(str(moved), ref(7, 1))


def test_unreachable_store_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeGcs(tmp_path / "gcs")
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        url = server.make_bucket("bucket") + "/run"
        begin(open_store(url), attempt(1))
        with writer_process(url, 1) as writer:
            assert isinstance(writer.save(7), Saved)
        server.stop()
        with pytest.raises(StoreUnavailable):
            restore.load(open_store(url, timeout_s=0.5), ref(7, 1), patience_s=2)
        restart = threading.Timer(1.0, server.start)
        restart.start()
        assert restore.load(open_store(url, timeout_s=0.5), ref(7, 1), patience_s=30).commit.step == 7
        restart.join()
    finally:
        server.stop()


def test_last_save_outlives_an_outage_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeGcs(tmp_path / "gcs")
    down = threading.Event()
    proxy = Proxy(server.url, lambda method, path, body: 503 if down.is_set() and method == "POST" else None)
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        url = server.make_bucket("bucket") + "/run"
        begin(open_store(url), attempt(1))
        with writer_process(url, 1, call_timeout_s=1) as writer:
            down.set()
            writer.snapshot(9, "last")
            trouble = writer.answer()
            assert isinstance(trouble, SaveTrouble)
            assert "503" in trouble.error
            down.clear()
            while isinstance(answer := writer.answer(), SaveTrouble):
                pass
            assert isinstance(answer, Saved)
            assert writer.finish() == 0
        assert_holds(url, ref(9, 1))
    finally:
        proxy.close()
        server.stop()


def test_lost_acknowledgement_of_a_commit_is_a_commit(
    gcs_server: FakeGcs, gcs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[str] = []

    def lose_the_first_commit(method: str, path: str, body: bytes) -> str | None:
        if method == "POST" and b"checkpoints/commits/" in body and not lost:
            lost.append(path)
            return "lose"
        return None

    proxy = Proxy(gcs_server.url, lose_the_first_commit)
    try:
        begin(open_store(gcs_url), attempt(1))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        with writer_process(gcs_url, 1) as writer:
            assert isinstance(writer.save(3), Saved)
            assert writer.finish() == 0
        assert lost
        assert_holds(gcs_url, ref(3, 1))
    finally:
        proxy.close()


def test_lost_acknowledgement_of_a_shard_is_a_shard(
    gcs_server: FakeGcs, gcs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[str] = []

    def lose_the_first_shard(method: str, path: str, body: bytes) -> str | None:
        if method == "POST" and b"shard-1-of-2" in body and not lost:
            lost.append(path)
            return "lose"
        return None

    proxy = Proxy(gcs_server.url, lose_the_first_shard)
    try:
        begin(open_store(gcs_url), attempt(1))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        with writer_process(gcs_url, 1) as writer:
            assert isinstance(writer.save(3), Saved)
        assert lost
        assert_holds(gcs_url, ref(3, 1))
    finally:
        proxy.close()


def test_lost_acknowledgement_of_a_record_is_our_record(
    gcs_server: FakeGcs, gcs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[str] = []

    def lose_the_first_record(method: str, path: str, body: bytes) -> str | None:
        if method == "POST" and b"attempts/" in body and not lost:
            lost.append(path)
            return "lose"
        return None

    proxy = Proxy(gcs_server.url, lose_the_first_record)
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        store = open_store(gcs_url)
        ours = attempt(1)
        assert append_record(store, ours) is ours
        assert lost
        assert read_record(store, 1) == ours
        theirs = parse_record(ours.model_dump_json().replace("nonce-1", "another").encode())
        assert append_record(store, theirs) == ours
    finally:
        proxy.close()


def test_writer_ends_when_its_agent_is_gone(tmp_path: Path) -> None:
    writer = WriterProcess(str(tmp_path / "run"), 1)
    try:
        begin(open_store(str(tmp_path / "run")), attempt(1))
        assert isinstance(writer.save(1), Saved)
        os.kill(writer.process.pid, signal.SIGINT)  # Ctrl-C reaches agents, not their writers
        assert isinstance(writer.save(2), Saved)
        writer._channel.shutdown(2)
        assert writer.process.wait(30) == 0
    finally:
        writer.close()
