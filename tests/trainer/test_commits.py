"""Commits: their names, their sealed text, and one winner of each name."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_checkpoints import ref

from trainer.errors import ConfigError, DamagedCheckpoint, ObjectExists, ObjectNotFound
from trainer.rundir import commits
from trainer.rundir.checksum import crc32c
from trainer.rundir.commits import Commit, Shard, StoredTensor
from trainer.rundir.open import open_store


def commit(step: int = 200, attempt: int = 3, nonce: str = "mine") -> Commit:
    return Commit(
        step=step,
        attempt=attempt,
        nonce=nonce,
        created=datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        epoch=4,
        examples_seen=step * 32,
        seed=17,
        global_batch_size=32,
        world_size=2,
        replicas=2,
        versions={"tensorflow": "2.21.0"},
        host_state={"best": float("inf"), "note": 'a "quoted"\n}text', "third": 1 / 3},
        shards=[Shard(name="checkpoints/data/x", generation=2**60, size_bytes=9, crc32c="AAAAAA==")],
        tensors=[StoredTensor(key="model/0", path="dense/kernel", dtype="float32", shape=[3, 4], shard=0)],
    )


def test_a_commit_comes_back_as_it_was() -> None:
    assert commits.parse(commits.serialise(commit()), ref(200, 3)) == commit()


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_any_flipped_bit_is_found(place: int, bit: int) -> None:
    data = bytearray(commits.serialise(commit()))
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(DamagedCheckpoint) as caught:
        commits.parse(bytes(data), ref(200, 3))
    assert caught.value.commit == "step-200.attempt-3"


@given(st.integers(0, 10**6))
def test_any_cut_is_found(length: int) -> None:
    data = commits.serialise(commit())
    with pytest.raises(DamagedCheckpoint):
        commits.parse(data[: length % len(data)], ref(200, 3))


def test_the_text_of_another_commit_is_damage() -> None:
    with pytest.raises(DamagedCheckpoint, match=r"step-100\.attempt-3 holds the text of step-200\.attempt-3"):
        commits.parse(commits.serialise(commit()), ref(100, 3))


def test_an_unknown_format_is_no_damage() -> None:
    text = commits.serialise(commit()).partition(b',"crc32c":')[0].replace(b'"format":1', b'"format":2') + b"}"
    sealed = text[:-1] + b',"crc32c":"' + crc32c([text]).encode() + b'"}'
    with pytest.raises(ConfigError, match="this version cannot read it"):
        commits.parse(sealed, ref(200, 3))


def test_names_are_unpadded_and_only_those_are_commits() -> None:
    assert commits.commit_name(ref(200, 3)) == "checkpoints/commits/step-200.attempt-3.json"
    assert commits.parse_commit_name("checkpoints/commits/step-200.attempt-3.json") == ref(200, 3)
    for name in ("step-0200.attempt-3.json", "step-200.attempt-0.json", "step-200.attempt-3.json.tmp", "x", "a/step-1"):
        assert commits.parse_commit_name(f"checkpoints/commits/{name}") is None
    assert commits.parse_commit_name("step-200.attempt-3.json") is None
    name = commits.shard_name(ref(200, 3), 0, 2)
    assert name == "checkpoints/data/attempt-3/step-200/shard-1-of-2.safetensors"
    assert commits.parse_data_name(name) == ref(200, 3)
    assert commits.parse_data_name("checkpoints/data/attempt-3/other") is None


def test_listing_sorts_numbers_as_numbers(run_url: str) -> None:
    store = open_store(run_url)
    for step, attempt in ((1000, 1), (200, 10), (200, 9), (30, 1)):
        commits.write_commit(store, commit(step, attempt))
    store.put("checkpoints/commits/notes.txt", b"")
    assert commits.list_commits(store) == [ref(30, 1), ref(200, 9), ref(200, 10), ref(1000, 1)]


def test_a_name_has_one_winner_who_may_write_again(run_url: str) -> None:
    store = open_store(run_url)
    with pytest.raises(ObjectNotFound):
        commits.read_commit(store, ref(200, 3))
    commits.write_commit(store, commit())
    commits.write_commit(store, commit())
    with pytest.raises(ObjectExists, match="another writer"):
        commits.write_commit(store, commit(nonce="theirs"))
    assert commits.read_commit(store, ref(200, 3)) == commit()
