"""`orch checkpoints`: real commits of a real writer, on a local path and in a bucket, seen through the command line."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support_checkpoints import attempt, begin, ref, state_of_step, writer_process

from orchestrator.cli.main import run
from orchestrator.runs import export as checkpoint_export
from orchestrator.runs.checkpoints import State, judge
from trainer.checkpoint.snapshot import NamedArray
from trainer.rundir.commits import list_commits, read_commit
from trainer.rundir.open import open_store
from trainer.rundir.store import Store

REPLICAS = [
    NamedArray("model/0", "dense/kernel", np.arange(6, dtype=np.float32).reshape(2, 3)),
    NamedArray("model/1", "twice", np.asarray([1, 2], np.int8)),
    NamedArray("model/2", "twice", np.asarray(7.5, np.float64)),
    NamedArray("model/3@replica/0", "norm/mean", np.asarray([1.0, 3.0], np.float32)),
    NamedArray("model/3@replica/1", "norm/mean", np.asarray([2.0, 7.0], np.float32)),
    NamedArray("task/0@replica/0", "seed", np.asarray([4, 5], np.int64)),
    NamedArray("task/0@replica/1", "seed", np.asarray([8, 9], np.int64)),
]


def orch(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["checkpoints", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def orch_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code, out, _ = orch(capsys, *arguments, "-o", "json")
    return code, json.loads(out)


def make_run(url: str) -> Store:
    """Attempt 1 saves 10, 20 and 30, attempt 2 goes on from 20 and saves 40, attempt 3 found that bad and saves 35 and 45."""
    store = open_store(url)
    begin(store, attempt(1))
    with writer_process(url, 1, keep=5) as writer:
        for step in (10, 20, 30):
            writer.save(step)
    begin(store, attempt(2, ref(20, 1)))
    with writer_process(url, 2, keep=9) as writer:
        writer.snapshot(40)
        writer.answer()
        # Before its retention sweeps what is stale.
        writer.process.kill()
    begin(store, attempt(3, ref(20, 1), bad=("step-40.attempt-2",)))
    with writer_process(url, 3, keep=9) as writer:
        writer.save(35)
        writer.save(45)
        assert writer.finish() == 0
    return store


def damage(store: Store, name: str) -> None:
    data = bytearray(store.get(name))
    data[-1] ^= 1
    store.put(name, bytes(data))


def shard_of(store: Store, step: int, attempt: int) -> str:
    return read_commit(store, ref(step, attempt)).shards[-1].name


def test_list_shows_every_commit_and_what_it_is_to_the_job(run_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_run(run_url)
    code, found = orch_json(capsys, "list", run_url)
    assert code == 0
    seen = {item["name"]: item["state"] for item in found["checkpoints"]}
    assert list(seen) == sorted(seen, key=lambda name: [-int(part.split("-")[1]) for part in name.split(".")[::-1]])
    assert seen["step-45.attempt-3"] == seen["step-20.attempt-1"] == "on the line"
    assert seen["step-40.attempt-2"] == "listed as bad"
    assert {item.name for item in list_commits(store)} == set(seen)
    assert found["restart"]["from"] == "step-45.attempt-3"
    newest = found["checkpoints"][0]
    assert newest["size_bytes"] == read_commit(store, ref(45, 3)).size_bytes
    assert newest["shards"] == 2

    store.delete(shard_of(store, 45, 3))
    code, text, _ = orch(capsys, "list", run_url)
    assert code == 0
    assert "is missing" in text
    assert text.splitlines()[-1] == "a restart would go on from step-35.attempt-3"
    assert [line.split()[1] for line in text.splitlines() if line.startswith("*")] == ["35"]


def test_verify_tells_damage_by_its_exit_code_and_what_a_restart_would_take(
    run_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_run(run_url)
    code, text, _ = orch(capsys, "verify", run_url)
    assert code == 0
    assert text.count("good") == 4
    damage(store, shard_of(store, 45, 3))
    code, found = orch_json(capsys, "verify", run_url)
    assert code == 1
    assert [item["name"] for item in found["checkpoints"] if not item["whole"]] == ["step-45.attempt-3"]
    assert found["restart"]["from"] == "step-35.attempt-3"
    assert "does not match its checksum" in found["checkpoints"][0]["damage"]
    code, text, _ = orch(capsys, "verify", run_url, "20")
    assert code == 0, "what was asked for is good"
    assert "not read now" in text
    code, _, error = orch(capsys, "verify", run_url, "21")
    assert code == 78
    assert "step-45.attempt-3" in error, "the error names those there are"
    for item in read_commit(store, ref(35, 3)).shards + read_commit(store, ref(20, 1)).shards:
        damage(store, item.name)
    damage(store, shard_of(store, 10, 1))
    code, text, _ = orch(capsys, "verify", run_url)
    assert code == 1
    assert text.splitlines()[-1].startswith("a restart would end with 78: no usable checkpoint is left")


def test_export_writes_the_tensors_by_their_paths(
    run_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(run_url)
    target = tmp_path / "out/weights.safetensors"
    code, found = orch_json(capsys, "export", run_url, "--to", str(target))
    assert code == 0
    expected = {item.path: item.array for item in state_of_step(45)}
    arrays = load_file(target)
    assert sorted(arrays) == sorted(expected)
    for path, array in expected.items():
        assert arrays[path].dtype == array.dtype
        assert np.array_equal(arrays[path], array)
    assert found["size_bytes"] == target.stat().st_size
    about = json.loads((tmp_path / "out/weights.json").read_text())
    assert (about["step"], about["attempt"], about["checkpoint"]) == (45, 3, "step-45.attempt-3")
    assert about["tensors"]["adam/m"]["keys"] == ["optimizer/0"]

    before = target.read_bytes()
    code, _, error = orch(capsys, "export", run_url, "20", "--to", str(target))
    assert code == 78
    assert "--force" in error
    assert target.read_bytes() == before
    assert orch(capsys, "export", run_url, "20", "--to", str(target), "--force")[0] == 0
    assert np.array_equal(load_file(target)["adam/m"], state_of_step(20)[2].array)

    assert orch(capsys, "export", run_url, "--to", str(tmp_path / "folder"))[0] == 0
    files = sorted((tmp_path / "folder").glob("*.safetensors"))
    assert len(files) == 2
    merged = {name: array for file in files for name, array in load_file(file).items()}
    assert all(np.array_equal(merged[path], array) for path, array in expected.items())


def test_export_of_a_damaged_checkpoint_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_run(str(tmp_path / "run"))
    damage(store, shard_of(store, 45, 3))
    code, _, error = orch(capsys, "export", str(tmp_path / "run"), "--to", str(tmp_path / "out/w.safetensors"))
    assert code == 75
    assert "does not match its checksum" in error
    assert list((tmp_path / "out").iterdir()) == []


def test_copies_of_replicas_become_their_mean_and_names_used_twice_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(tmp_path / "run")
    begin(open_store(url), attempt(1))
    # Shards of 16 bytes: the copies of one variable lie in different ones.
    with writer_process(url, 1, shard_size_bytes=16) as writer:
        writer.snapshot(5, arrays=REPLICAS, replicas=2)
        writer.answer()
    for to in ("mean.safetensors", "mean"):
        assert orch(capsys, "export", url, "--to", str(tmp_path / to))[0] == 0
    files = [tmp_path / "mean.safetensors", *(tmp_path / "mean").glob("*.safetensors")]
    assert len(files) > 3
    whole = load_file(files[0])
    parts = {name: array for file in files[1:] for name, array in load_file(file).items()}
    for arrays in (whole, parts):
        assert sorted(arrays) == ["dense/kernel", "model/1", "model/2", "norm/mean", "seed"]
        assert arrays["norm/mean"].tolist() == [1.5, 5.0]
        assert arrays["seed"].tolist() == [4, 5]
        assert arrays["model/2"] == 7.5
    orch(capsys, "export", url, "--to", str(tmp_path / "all.safetensors"), "--replicas")
    everything = load_file(tmp_path / "all.safetensors")
    assert everything["norm/mean@replica/1"].tolist() == [2.0, 7.0]
    assert everything["seed@replica/1"].tolist() == [8, 9]
    about = json.loads((tmp_path / "mean.json").read_text())
    assert about["tensors"]["norm/mean"]["mean"] is True


def test_one_shard_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    url = str(tmp_path / "run")
    store = open_store(url)
    begin(store, attempt(1))
    arrays = [NamedArray(f"model/{index}", f"v{index}", np.full(500_000, index, np.float32)) for index in range(8)]
    with writer_process(url, 1, shard_size_bytes=2_000_000) as writer:
        writer.snapshot(5, arrays=arrays)
        writer.answer()
    del arrays
    tracemalloc.start()
    try:
        done = checkpoint_export.export(
            store,
            ref(5, 1),
            tmp_path / "w.safetensors",
            replicas=False,
            force=False,
            progress=lambda done, total: None,
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert done.size_bytes > 16_000_000
    assert peak < 4_000_000, "two of eight shards at most"


def test_why_a_commit_does_not_count() -> None:
    records = [attempt(1), attempt(2, ref(10, 1)), attempt(3, fresh=True), attempt(4, ref(5, 3)), attempt(5, ref(5, 3))]
    refs = [ref(10, 1), ref(20, 1), ref(5, 3), ref(9, 3), ref(8, 4), ref(7, 9)]
    checkpoints, restart = judge(records, dict.fromkeys(refs, "unreadable"), {})
    why = {item.ref: (item.state, item.why) for item in checkpoints}
    assert why[ref(10, 1)] == (State.STALE, "from before attempt 3, which started from nothing")
    assert why[ref(9, 3)] == (State.STALE, "attempt 4 went on from step-5.attempt-3")
    assert why[ref(8, 4)] == (State.STALE, "attempt 5 went on from step-5.attempt-3")
    assert why[ref(7, 9)] == (State.STALE, "there is no record of attempt 9")
    assert why[ref(5, 3)] == (State.DAMAGED, "unreadable")
    assert restart.ref is None
    assert "would end with 78" in restart.text


def test_a_bare_name_is_a_folder_of_runs_and_nothing_is_said_of_an_empty_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(str(tmp_path / "runs/digits"))
    code, _, error = orch(capsys, "verify", "digits")
    assert code == 0
    assert "runs/digits" in error
    os.mkdir("empty")
    code, _, error = orch(capsys, "list", "./empty")
    assert code == 78
    assert "holds no run" in error
