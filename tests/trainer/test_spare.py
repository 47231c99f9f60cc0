"""The process that has imported TensorFlow before it is needed: when there is one, what it is, and when it has to go."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainer.agent.spare import Prepared, Spare
from trainer.agent.stopped import STOPPED_S
from trainer.config import TrainConfig
from trainer.lifeline import adopt_orphans

GIB = 1 << 30
TRAINS = {"task": "trainer.tasks.digits:Digits", "steps": 10, "global_batch_size": 8}
DEADLINE_S = 120


@pytest.fixture(autouse=True)
def agent() -> Iterator[None]:
    """This process takes copies as children, as an agent does."""
    adopt_orphans()
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Spare]]:
    made: list[Spare] = []

    def make_one(*, limit_bytes: int | None = 4 * GIB, index: int = 0, **fields: object) -> Spare:
        config = TrainConfig(
            **{"name": "test", "train": TRAINS, "run_directory": str(tmp_path), "workers": 1, **fields}
        )
        path = tmp_path / "config.json"
        path.write_text(config.model_dump_json())
        made.append(Spare(config, str(path), index, os.environ, limit_bytes))
        return made[-1]

    yield make_one
    for spare in made:
        spare.close()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def tick(spare: Spare, now_bytes: int = GIB, now: float = 0.0) -> None:
    spare.tick(peak_bytes=now_bytes, now_bytes=now_bytes, now=now)


def wait_for(spare: Spare) -> Prepared:
    """Until the copy is there."""
    deadline = time.monotonic() + DEADLINE_S
    while spare._process is None:
        assert time.monotonic() < deadline
        assert spare._ordered is not None
        tick(spare)
        time.sleep(0.05)
    return spare._process


def end(process: Prepared) -> int:
    process.close()
    return os.waitpid(process.child.pid, 0)[1]


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_a_process_leaves_a_copy_that_is_taken_once_and_leaves_one_itself(make: Callable[..., Spare]) -> None:
    spare = make()
    first = spare.prepared()
    copy = wait_for(spare)
    pid, scratch = copy.child.pid, Path(copy.belongings.scratch.name)
    assert "libtensorflow" in Path(f"/proc/{pid}/maps").read_text()
    assert (name_of(first.child.pid), name_of(pid)) == ("orch-train", "orch-spare")
    assert os.getsid(pid) == pid
    assert int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1]) == os.getpid(), (
        "a child of the agent's"
    )
    assert copy.belongings.memory_fd is not None, "the chief's"
    assert scratch.is_dir()
    end(first)
    assert spare.prepared() is copy
    second = wait_for(spare)
    assert second.child.pid != pid
    end(copy)
    assert not scratch.exists()
    assert spare.take() is second
    assert spare.take() is None
    end(second)


def test_a_copy_has_files_of_its_own(make: Callable[..., Spare]) -> None:
    spare = make()
    first = spare.prepared()
    copy = wait_for(spare)
    end(first)
    deadline = time.monotonic() + DEADLINE_S
    while first.child.pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        assert time.monotonic() < deadline
    files = [os.readlink(file) for file in Path(f"/proc/{copy.child.pid}/fd").iterdir()]
    assert sum(name.startswith("/memfd:orch-snapshot") for name in files) == 1
    assert sum(name.startswith("socket:") for name in files) == 1
    assert len({name for name in files if name.startswith("pipe:")}) == 1, (
        "stdout and stderr, and not those of the original"
    )
    end(copy)


def test_a_copy_ends_with_the_agent_that_called_it_off(make: Callable[..., Spare]) -> None:
    spare = make(index=1)
    first = spare.prepared()
    copy = wait_for(spare)
    assert copy.belongings.memory_fd is None
    copy.child.close()
    os.waitpid(copy.child.pid, 0)
    end(first)


@pytest.mark.parametrize("fields", [{"limit_bytes": GIB // 4}, {"tpu": True}, {"train": {"command": ["true"]}}])
def test_no_spare_where_memory_is_short_where_import_takes_the_tpu_and_for_programs(
    make: Callable[..., Spare], fields: dict[str, object]
) -> None:
    spare = make(**fields)
    first = spare.prepared()
    assert spare._ordered is None
    end(first)
    if "limit_bytes" not in fields:
        spare.needed()
    assert spare.take() is None


def test_it_ends_when_memory_gets_short_and_is_not_left_again(make: Callable[..., Spare]) -> None:
    spare = make()
    first = spare.prepared()
    copy = wait_for(spare)
    tick(spare, now_bytes=4 * GIB)
    assert os.WTERMSIG(os.waitpid(copy.child.pid, 0)[1]) == signal.SIGKILL
    assert spare.take() is None
    end(first)
    second = spare.prepared()
    assert spare._ordered is None
    end(second)


def test_one_that_a_signal_has_stopped_is_of_no_use(make: Callable[..., Spare]) -> None:
    spare = make()
    first = spare.prepared()
    copy = wait_for(spare)
    os.kill(copy.child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, copy.child.pid, os.WSTOPPED)
    for now in (9.0, 9.1 + STOPPED_S):
        tick(spare, now=now)
    assert spare.take() is None
    os.waitpid(copy.child.pid, 0)
    end(first)


def test_one_that_died_is_not_replaced_until_it_is_needed(make: Callable[..., Spare]) -> None:
    spare = make()
    first = spare.prepared()
    copy = wait_for(spare)
    os.kill(copy.child.pid, signal.SIGKILL)
    spare.reaped(*os.waitpid(copy.child.pid, 0))
    tick(spare)
    assert spare.take() is None
    end(first)
    spare.needed()
    another = spare.take()
    assert another is not None
    end(another)


def test_a_process_that_ends_before_it_left_a_copy_is_followed_by_one_that_imports(make: Callable[..., Spare]) -> None:
    spare = make()
    first = spare.prepared()
    end(first)
    spare.needed()
    another = spare.take()
    assert another is not None
    assert another.child.pid != first.child.pid
    end(another)
