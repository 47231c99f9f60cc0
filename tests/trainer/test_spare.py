"""The process that imports TensorFlow before it is needed: when there is one, and when it has to go."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainer.agent.spare import AFTER_S, Prepared, Spare
from trainer.agent.stopped import STOPPED_S
from trainer.config import TrainConfig

GIB = 1 << 30
TRAINS = {"task": "trainer.tasks.digits:Digits", "steps": 10, "global_batch_size": 8}


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


def train(spare: Spare, attempt: int = 1, *, now_bytes: int = GIB) -> None:
    """Let the attempt go on for longer than AFTER_S."""
    for now in (0.0, AFTER_S + 0.1):
        spare.tick(attempt, training=True, peak_bytes=GIB, now_bytes=now_bytes, now=now)


def end(process: Prepared) -> None:
    process.close()
    os.waitpid(process.child.pid, 0)


def test_a_spare_is_started_while_an_attempt_trains_and_taken_once(make: Callable[..., Spare]) -> None:
    spare = make()
    spare.tick(1, training=False, peak_bytes=GIB, now_bytes=GIB, now=0.0)
    spare.tick(1, training=False, peak_bytes=GIB, now_bytes=GIB, now=100.0)
    assert spare.take() is None, "before the first block"
    train(spare)
    taken = spare.take()
    assert taken is not None
    assert taken.memory_fd is not None, "the chief's"
    assert spare.take() is None
    scratch = Path(taken.scratch.name)
    assert scratch.is_dir()
    end(taken)
    assert not scratch.exists()


def policies(pid: int) -> list[int]:
    """Of every thread."""
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(ProcessLookupError):
            found.append(os.sched_getscheduler(int(thread)))
    return found


def policies_until_imported(process: Prepared) -> list[int]:
    seen, deadline = [], time.monotonic() + 120
    name = Path(f"/proc/{process.child.pid}/comm")
    while name.read_text().strip() != "orch-spare":
        assert time.monotonic() < deadline
        seen += policies(process.child.pid)
        time.sleep(0.05)
    return seen


def test_one_that_still_imports_gives_way_to_one_at_full_speed(make: Callable[..., Spare]) -> None:
    spare = make()
    train(spare)
    slow = spare._process
    assert slow is not None
    spare.needed()
    os.waitpid(slow.child.pid, 0)
    fast = spare.take()
    assert fast is not None
    assert fast is not slow
    assert os.SCHED_IDLE not in policies_until_imported(fast)
    end(fast)


def test_one_that_has_imported_is_taken_as_it_is(make: Callable[..., Spare]) -> None:
    spare = make()
    train(spare)
    process = spare._process
    assert process is not None
    policies_until_imported(process)
    spare.needed()
    assert spare.take() is process
    end(process)


def test_it_waits_with_tensorflow_imported_and_under_a_name_of_its_own(make: Callable[..., Spare]) -> None:
    spare = make(index=1)
    train(spare)
    taken = spare.take()
    assert taken is not None
    assert taken.memory_fd is None
    assert taken.imports_beside_training()
    give_way = [thread for thread in policies_until_imported(taken) if thread == os.SCHED_IDLE]
    assert give_way, "it imports where nothing else wants the core"
    assert not taken.imports_beside_training()
    pid = taken.child.pid
    assert "libtensorflow" in Path(f"/proc/{pid}/maps").read_text()
    assert os.SCHED_IDLE not in policies(pid), "what it does as a training process it does at the usual priority"
    end(taken)


@pytest.mark.parametrize(
    "fields", [{"limit_bytes": 2 * GIB - (100 << 20)}, {"tpu": True}, {"train": {"command": ["true"]}}]
)
def test_no_spare_where_memory_is_short_where_import_takes_the_tpu_and_for_programs(
    make: Callable[..., Spare], fields: dict[str, object]
) -> None:
    spare = make(**fields)
    train(spare)
    assert spare.take() is None


def test_it_ends_when_memory_gets_short(make: Callable[..., Spare]) -> None:
    spare = make()
    train(spare)
    spare.tick(1, training=True, peak_bytes=4 * GIB, now_bytes=4 * GIB, now=9.0)
    assert spare.take() is None


def test_one_that_a_signal_has_stopped_is_of_no_use(make: Callable[..., Spare]) -> None:
    spare = make()
    train(spare)
    process = spare._process
    assert process is not None
    os.kill(process.child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.child.pid, os.WSTOPPED)
    for now in (9.0, 9.1 + STOPPED_S):
        spare.tick(1, training=True, peak_bytes=GIB, now_bytes=GIB, now=now)
    assert spare.take() is None
    os.waitpid(process.child.pid, 0)


def test_one_that_died_is_not_replaced_in_the_same_attempt(make: Callable[..., Spare]) -> None:
    spare = make()
    train(spare)
    process = spare._process
    assert process is not None
    os.kill(process.child.pid, signal.SIGKILL)
    spare.reaped(*os.waitpid(process.child.pid, 0))
    assert spare.take() is None
    train(spare)
    assert spare.take() is None
    train(spare, attempt=2)
    taken = spare.take()
    assert taken is not None
    end(taken)
