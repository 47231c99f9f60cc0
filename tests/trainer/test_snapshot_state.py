"""Copying a training's state and giving it back, with two replicas in one process and in two."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.checkpoint.snapshot import (
    ALIGNMENT_BYTES,
    NamedArray,
    NotEnoughMemory,
    SnapshotMemory,
    available_bytes,
)
from trainer.errors import ConfigError

PROGRAM = Path(__file__).parent.parent / "support_state_program.py"
ROOT = PROGRAM.parent.parent


def names_of(mode: str) -> list[str]:
    """The checks of the program, without loading TensorFlow here."""
    return re.findall(rf'@check\("{mode}"\)\ndef (\w+)', PROGRAM.read_text())


@pytest.fixture(scope="module")
def mirrored_results() -> dict[str, str]:
    """All checks with two replicas in one process: started once, TensorFlow being slow to start."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "mirrored"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        timeout=300,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("promise", names_of("mirrored"))
def test_with_two_replicas(promise: str, mirrored_results: dict[str, str]) -> None:
    assert mirrored_results[promise] == "ok"


@pytest.mark.slow
def test_two_workers_agree_and_resume_bit_identically(tmp_path: Path) -> None:
    sockets = [socket.socket() for _ in range(2)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{item.getsockname()[1]}" for item in sockets]
    for item in sockets:
        item.close()
    workers = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), "workers", str(tmp_path)],
            env=os.environ
            | {
                "PYTHONPATH": str(ROOT),
                "TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}),
            },
            stdout=subprocess.PIPE,
        )
        for index in range(2)
    ]
    try:
        for worker in workers:
            output, _ = worker.communicate(timeout=300)
            assert list(json.loads(output.splitlines()[-1]).values()) == ["ok"]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert (tmp_path / "moving-0").read_bytes() == (tmp_path / "moving-1").read_bytes()


def test_arrays_lie_aligned_and_whole_in_the_memory() -> None:
    fd = os.memfd_create("test")
    try:
        memory = SnapshotMemory(fd)
        arrays = [
            NamedArray("model/0", "a", np.arange(5, dtype=np.int8)),
            NamedArray("model/1", "b", np.asarray(2.5, np.float64)),
            NamedArray("model/2", "c", np.zeros((0, 4), np.float32)),
            NamedArray("model/3", "d", np.arange(12, dtype=np.float32).reshape(3, 4).T),
        ]
        layout, size = memory.write(arrays)
        data = os.pread(fd, size, 0)
        for tensor, named in zip(layout, arrays, strict=True):
            assert tensor.offset % ALIGNMENT_BYTES == 0
            assert data[tensor.offset : tensor.offset + tensor.size_bytes] == named.array.tobytes()
            assert tuple(tensor.shape) == named.array.shape
        larger = [NamedArray("model/0", "a", np.arange(100_000))]
        layout, size = memory.write(larger)
        assert os.pread(fd, size, 0) == larger[0].array.tobytes()
    finally:
        os.close(fd)


def test_memory_that_is_not_there_is_an_error_and_nothing_is_allocated() -> None:
    # Refused by arithmetic alone. Were it tried, the kernel would hand out pages until it kills whatever runs here.
    fd = os.memfd_create("test")
    try:
        with pytest.raises(NotEnoughMemory, match=r"resources\.memory"):
            SnapshotMemory(fd).reserve(1 << 62)
        assert os.fstat(fd).st_blocks == 0
    finally:
        os.close(fd)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_containers_limit_counts_and_its_page_cache_does_not(tmp_path: Path, version: str) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 9000000 kB\n")
    folder = tmp_path / "memory" if version == "v1" else tmp_path
    folder.mkdir(exist_ok=True)
    limit, used = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == "v1" else ("memory.max", "memory.current")
    )
    (folder / limit).write_text("1000000\n")
    (folder / used).write_text("700000\n")
    (folder / "memory.stat").write_text("anon 600000\ninactive_file 60000\nactive_file 40000\n")
    assert available_bytes(tmp_path / "meminfo", tmp_path) == 400_000


def test_types_that_no_checkpoint_holds_are_refused() -> None:
    fd = os.memfd_create("test")
    try:
        with pytest.raises(ConfigError, match="str32"):
            SnapshotMemory(fd).write([NamedArray("model/0", "a", np.asarray("a"))])
    finally:
        os.close(fd)
