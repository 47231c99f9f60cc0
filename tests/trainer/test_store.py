"""The two stores keep the same promises: a local directory, and GCS over HTTP."""

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support_gcs import FakeGcs, Proxy, always, healthy, times

from trainer.errors import ConfigError, ObjectExists, ObjectNotFound, StoreDenied, StoreUnavailable
from trainer.rundir.checksum import crc32c
from trainer.rundir.deadline import Call
from trainer.rundir.local_store import LocalStore
from trainer.rundir.open import open_store
from trainer.rundir.store import buffers, check_name, check_prefix


def test_objects_are_created_once_and_read_back(run_url: str) -> None:
    store = open_store(run_url)
    entry = store.put_if_absent("attempts/1.json", b"first")
    with pytest.raises(ObjectExists):
        store.put_if_absent("attempts/1.json", b"second")
    assert store.get("attempts/1.json") == b"first"
    assert store.list("attempts/") == [entry]
    assert (entry.name, entry.size_bytes) == ("attempts/1.json", 5)
    assert entry.crc32c in (None, crc32c([b"first"]))


def test_of_many_writers_one_wins_and_its_bytes_are_whole(run_url: str) -> None:
    def write(index: int) -> int | None:
        try:
            open_store(run_url).put_if_absent("race", [b"%d" % index] * 1000)
        except ObjectExists:
            return None
        return index

    with ThreadPoolExecutor(8) as pool:
        winners = [index for index in pool.map(write, range(8)) if index is not None]
    assert len(winners) == 1
    assert open_store(run_url).get("race") == b"%d" % winners[0] * 1000


def test_put_replaces(run_url: str) -> None:
    store = open_store(run_url)
    first = store.put("logs/a", b"one")
    second = store.put("logs/a", b"two!")
    assert store.get("logs/a") == b"two!"
    assert first.generation != second.generation
    with pytest.raises(ObjectNotFound):
        store.get("logs/a", generation=first.generation)
    assert store.get("logs/a", generation=second.generation) == b"two!"


def test_missing_objects(run_url: str) -> None:
    store = open_store(run_url)
    assert store.list("") == []
    store.put("a/b", b"")
    for name in ("c", "a", "a/b/c", "a/bb"):
        with pytest.raises(ObjectNotFound):
            store.get(name)
    store.delete("c")
    store.delete("a/b/c")
    assert store.get("a/b") == b""


def test_listing_is_by_prefix_and_in_order_of_name(run_url: str) -> None:
    store = open_store(run_url)
    for name in ("a/2", "a/10", "a/1/x", "ab", "b/1"):
        store.put_if_absent(name, name.encode())
    assert [entry.name for entry in store.list("a/")] == ["a/1/x", "a/10", "a/2"]
    assert [entry.name for entry in store.list("a")] == ["a/1/x", "a/10", "a/2", "ab"]
    assert [entry.name for entry in store.list("a/1")] == ["a/1/x", "a/10"]
    assert [entry.name for entry in store.list("")] == ["a/1/x", "a/10", "a/2", "ab", "b/1"]
    assert store.list("nothing/here") == []


def test_buffers_are_joined(run_url: str) -> None:
    store = open_store(run_url)
    parts = [b"head", memoryview(bytearray(range(200))).cast("B"), b"", memoryview(b"tail")[1:]]
    entry = store.put_if_absent("shard", parts)
    expected = b"head" + bytes(range(200)) + b"ail"
    assert store.get("shard") == expected
    assert entry.size_bytes == len(expected)


def test_objects_of_several_chunks_are_whole(run_url: str) -> None:
    store = open_store(run_url)
    parts = [os.urandom(5_000_000), os.urandom(36_000_000)]
    entry = store.put_if_absent("large", parts)
    assert crc32c([store.get("large")]) == crc32c(parts)
    assert entry.crc32c in (None, crc32c(parts))


def test_deleted_names_can_be_created_again(run_url: str) -> None:
    store = open_store(run_url)
    entry = store.put_if_absent("a/b/c", b"1")
    store.delete("a/b/c", generation=entry.generation)
    store.delete("a/b/c", generation=entry.generation)
    assert store.list("") == []
    assert store.put_if_absent("a/b/c", b"2").size_bytes == 1


def test_names_cannot_leave_the_run_directory() -> None:
    for name in ("", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "./a", "a\nb"):
        with pytest.raises(ValueError, match="name"):
            check_name(name)
    for prefix in ("/", "../", "a/../", "a//"):
        with pytest.raises(ValueError, match="prefix"):
            check_prefix(prefix)
    assert check_prefix("a/b") == "a/b"


def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_store(str(tmp_path)).url == str(tmp_path)
    assert open_store(f"file://{tmp_path}/with%20space").url == f"{tmp_path}/with space"
    monkeypatch.chdir(tmp_path)
    assert open_store("runs/a").url == str(tmp_path / "runs" / "a")
    for url in ("s3://bucket/a", "gs://", "gs:///a", "file://host/a", "", "http://x/y"):
        with pytest.raises(ConfigError):
            open_store(url)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    assert open_store("gs://bucket").url == "gs://bucket"
    assert open_store("gs://bucket/a/b/").url == "gs://bucket/a/b"


def test_a_local_store_loads_no_cloud_library() -> None:
    program = "import sys, trainer.rundir.open as s; s.open_store('/x'); print([m for m in sys.modules if 'google.cloud' in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_checksum_is_that_of_gcs() -> None:
    assert crc32c([]) == "AAAAAA=="
    assert crc32c([b"hello"]) == crc32c([b"he", b"", memoryview(bytearray(b"llo"))]) == "mnG7TA=="
    assert [view.nbytes for view in buffers([b"a", b"", memoryview(b"abcd").cast("I")])] == [1, 4]


# --- the local store alone


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        LocalStore(tmp_path / "run").put_if_absent("a/b", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run" / "a" / "b").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "run" / "a").stat().st_mode) == 0o750


def test_emptied_folders_go_and_the_run_directory_stays(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "run")
    store.put_if_absent("a/b/c", b"")
    store.put_if_absent("a/d", b"")
    store.delete("a/b/c")
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == ["a", "d"]
    store.delete("a/d")
    assert (tmp_path / "run").is_dir()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("unnamed", [True, False])
def test_creators_and_deleters_in_one_folder_do_not_disturb_each_other(tmp_path: Path, unnamed: bool) -> None:
    store = LocalStore(tmp_path / "run")
    store._unnamed_files = unnamed and store._unnamed_files
    stop = threading.Event()
    failures: list[BaseException] = []

    def delete() -> None:
        try:
            while not stop.is_set():
                for entry in store.list("a/b/"):
                    store.delete(entry.name)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        for number in range(150):
            store.put_if_absent(f"a/b/c/{number}", b"x")
            store.put(f"a/b/log-{number}", b"x")
    finally:
        stop.set()
        thread.join()
    assert failures == []


def test_file_systems_without_unnamed_files_use_named_ones(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "run")
    store._unnamed_files = False
    store.put_if_absent("a/b", b"whole")
    with pytest.raises(ObjectExists):
        store.put_if_absent("a/b", b"again")
    assert store.get("a/b") == b"whole"
    assert list((tmp_path / "run" / "tmp").iterdir()) == []
    assert [entry.name for entry in store.list("")] == ["a/b"]


def test_only_old_temporary_files_are_cleared(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.clear_temporary()
    (tmp_path / "tmp").mkdir()
    for name in ("old", "young"):
        (tmp_path / "tmp" / name).touch()
    os.utime(tmp_path / "tmp" / "old", (1, 1))
    store.clear_temporary()
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["young"]


def test_temporary_files_of_killed_processes_are_cleared_at_once(tmp_path: Path) -> None:
    program = (
        "import os, sys; from trainer.rundir.local_store import LocalStore; "
        "LocalStore(sys.argv[1])._named_temporary(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -9
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    store = LocalStore(tmp_path)
    ours, descriptor = store._named_temporary()
    os.close(descriptor)
    store.clear_temporary()
    assert list((tmp_path / "tmp").iterdir()) == [ours]


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "run")
    (tmp_path / "run").touch()
    with pytest.raises(StoreDenied, match="in the way"):
        store.put_if_absent("a/b", b"")
    for number, text in ((errno.ENOSPC, "Free space"), (errno.EACCES, "right to"), (errno.EROFS, "read-only")):
        error = store._as_store_error("write", tmp_path, OSError(number, os.strerror(number)))
        assert isinstance(error, StoreDenied)
        assert text in error.remedy
    assert isinstance(store._as_store_error("write", tmp_path, OSError(errno.EIO, "broken")), StoreUnavailable)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_a_refusal_that_names_the_place() -> None:
    # The one device at hand that is always full; the path of an object leads there by a link.
    store = LocalStore("/dev")
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(StoreDenied, match="Free space") as caught:
            with store._errors("write", Path("/dev/full")):
                store._write(descriptor, b"x" * 10_000)
    finally:
        os.close(descriptor)
    assert "/dev/full" in caught.value.message


# --- GCS alone


def test_a_bucket_that_does_not_exist_is_named(gcs_url: str) -> None:
    store = open_store("gs://no-such-bucket/run", timeout_s=5)
    for action in (lambda: store.get("a"), lambda: store.list(""), lambda: store.put_if_absent("a", b"")):
        with pytest.raises(StoreDenied, match="no-such-bucket"):
            action()


@pytest.mark.parametrize(
    "status, expected, text",
    [
        (401, StoreDenied, "give the pod a service account"),
        (403, StoreDenied, "storage.objects.create"),
        (400, StoreDenied, "refuses"),
        (408, StoreUnavailable, "cannot write"),
        (429, StoreUnavailable, "cannot write"),
        (500, StoreUnavailable, "cannot write"),
        (503, StoreUnavailable, "cannot write"),
    ],
)
def test_answers_become_errors_that_say_what_to_do(
    gcs_server: FakeGcs,
    gcs_url: str,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    expected: type[Exception],
    text: str,
) -> None:
    proxy = Proxy(gcs_server.url, lambda method, path, body: status)
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        with pytest.raises(expected, match=text):
            open_store(gcs_url, timeout_s=0.5).put_if_absent("a", b"")
    finally:
        proxy.close()


def test_one_bad_answer_is_tried_again(gcs_server: FakeGcs, gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [503, 429, 500]
    proxy = Proxy(gcs_server.url, lambda method, path, body: bad.pop() if bad else None)
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        open_store(gcs_url, timeout_s=30).put_if_absent("a", b"x")
        assert bad == []
    finally:
        proxy.close()


def test_a_lost_acknowledgement_looks_like_an_object_that_exists(
    gcs_server: FakeGcs, gcs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = ["lose"]
    proxy = Proxy(gcs_server.url, lambda method, path, body: once.pop() if method == "POST" and once else None)
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        store = open_store(gcs_url)
        with pytest.raises(ObjectExists):
            store.put_if_absent("a", b"ours")
        assert store.get("a") == b"ours"
    finally:
        proxy.close()


def test_a_server_that_is_away_or_silent_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeGcs(tmp_path)
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        store = open_store(server.make_bucket("bucket") + "/run", timeout_s=1)
        store.put("a", b"")
        server.pause()
        with pytest.raises(StoreUnavailable):
            store.get("a")
        server.resume()
        assert store.get("a") == b""
        server.stop()
        with pytest.raises(StoreUnavailable):
            store.list("")
    finally:
        server.stop()


@pytest.fixture
def proxy(gcs_server: FakeGcs, gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Between the tests' store and the server."""
    proxy = Proxy(gcs_server.url)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("verdict", [429, 503, "reset", "lose", "stall", "trickle", "cut"])
def test_every_call_ends_in_time_and_is_unavailable_while_the_trouble_lasts(
    proxy: Proxy, gcs_url: str, verdict: str | int
) -> None:
    said: list[str] = []
    store = open_store(gcs_url, timeout_s=0.6, on_trouble=said.append)
    store.put_if_absent("a", b"whole" * 100)
    proxy.rule = always(verdict)
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: store.get("a"),
        "list": lambda: store.list(""),
        "put": lambda: store.put("b", b"x"),
        "put_if_absent": lambda: store.put_if_absent("c", b"x"),
    }
    for name, call in calls.items():
        # A lost acknowledgement of put_if_absent is found by the second try.
        with pytest.raises((StoreUnavailable, ObjectExists) if (verdict, name) == ("lose", name) else StoreUnavailable):
            call()
    proxy.rule = healthy
    assert store.get("a") == b"whole" * 100
    if verdict not in ("stall", "trickle"):  # these take the whole time of a call
        assert said
        assert gcs_url in said[0]
        proxy.rule = times(1, verdict)
        assert open_store(gcs_url, timeout_s=20).get("a") == b"whole" * 100


def test_a_server_that_takes_bytes_slowly_is_unavailable(proxy: Proxy, gcs_url: str) -> None:
    store = open_store(gcs_url, timeout_s=1)
    proxy.slow_uploads = True
    with pytest.raises(StoreUnavailable, match="no whole answer within 1 s"):
        store.put_if_absent("large", bytes(40_000_000))


def test_bytes_that_move_give_a_call_more_time() -> None:
    with Call(0.05) as call:
        call.moved(10_000_000)
        assert not call.is_over
