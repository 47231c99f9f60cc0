"""What dies or stands still comes back, in whatever order it is noticed; the reason names who and why."""

import functools
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support_faults import Disturbed
from support_run import environment_of

from trainer.faults import arm

pytestmark = [pytest.mark.slow, pytest.mark.soak]

STEPS = 200

JOB = """
name: recovery
train:
  task: support_tasks.py:{task}
  params: {params}
  steps: {steps}
  global_batch_size: 64
  seed: 3
  evaluate: {{every: 100}}
checkpoint: {{every: 20}}
restarts: {{max: {budget}, hang_timeout: {hang}}}
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Disturbed]]:
    with Disturbed.room(tmp_path, JOB) as begin:
        yield begin


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Gives the weights_sha256 after STEPS steps by the number of workers."""

    @functools.cache
    def of(workers: int) -> str:
        with Disturbed.room(tmp_path_factory.mktemp("undisturbed"), JOB) as begin:
            run = begin("Paced", workers=workers, steps=STEPS, params={"pause_s": 0.0})
            return str(run.result()["weights_sha256"])

    return of


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_writer_that_ends_or_stands_still_is_replaced_and_no_step_is_lost(
    start: Callable[..., Disturbed], undisturbed: Callable[[int], str], number: signal.Signals
) -> None:
    run = start("Paced", workers=1, steps=STEPS, params={"pause_s": 0.8 if number == signal.SIGSTOP else 0.2})
    run.wait_for_commit(40)
    os.kill(run.writer(), number)
    run.wait_until(lambda: "another one takes its place" in run.log, "the writer to be replaced")
    run.wait_for_commit(int(run.figure("orch_last_commit_step")) + 20)
    result = run.result()
    assert result["weights_sha256"] == undisturbed(1)
    assert (result["attempts"], result["restarts"]) == (1, 0)


@pytest.mark.parametrize("who", ["trainer", "agent 0", "agent 1"])
def test_whoever_stands_still_is_found_and_the_job_goes_on(
    start: Callable[..., Disturbed], undisturbed: Callable[[int], str], tmp_path: Path, who: str
) -> None:
    go = tmp_path / "go"
    run = start("Paced", workers=2, steps=STEPS, hang="120s", params={"hold_at": 100, "go": str(go)})
    run.wait_for_commit(40)
    frozen = run.trainer(1) if who == "trainer" else run.agent(int(who[-1]))
    os.kill(frozen, signal.SIGSTOP)
    run.wait_until(lambda: run.figure("orch_attempt") == 2, "the next attempt")
    go.touch()
    result = run.result()
    assert result["weights_sha256"] == undisturbed(2)
    assert result["attempts"] == 2
    if who == "trainer":
        assert "worker 1 hung" in run.log
        assert "stopped by a signal (SIGSTOP)" in run.log
    else:
        assert f"worker {who[-1]} was replaced: its agent or pod had ended" in run.log


@pytest.mark.soak_ci
def test_an_attempt_begins_with_the_processes_that_have_imported_tensorflow_before(
    start: Callable[..., Disturbed], undisturbed: Callable[[int], str], tmp_path: Path
) -> None:
    go = tmp_path / "go"
    run = start("Paced", workers=2, steps=STEPS, hang="120s", params={"hold_at": 100, "go": str(go)})
    spares = [run.spare(worker) for worker in (0, 1)]
    os.kill(run.trainer(1), signal.SIGKILL)
    run.wait_until(lambda: run.figure("orch_attempt") == 2, "the next attempt")
    assert [run.trainer(worker) for worker in (0, 1)] == spares
    assert run.spare(0) != spares[0]
    # One that is gone when it is needed is not missed.
    os.kill(run.spare(0), signal.SIGKILL)
    os.kill(run.trainer(0), signal.SIGKILL)
    run.wait_until(lambda: run.figure("orch_attempt") == 3, "the next attempt")
    go.touch()
    result = run.result()
    assert result["weights_sha256"] == undisturbed(2)
    assert result["attempts"] == 3


@pytest.mark.soak_ci
def test_an_attempt_takes_what_the_one_before_it_compiled(start: Callable[..., Disturbed], tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = start("Paced", workers=1, steps=STEPS, params={"hold_at": 20, "go": str(go)})
    run.wait_until(lambda: run.figure("orch_step") >= 20, "the first steps")

    def kept() -> dict[str, int]:
        folder = Path(environment_of(run.trainer(0))["ORCH_COMPILED"])
        return {path.name: path.stat().st_ino for path in folder.iterdir()}

    before = kept()
    assert before, "the block's program"
    os.kill(run.trainer(0), signal.SIGKILL)
    run.wait_until(
        lambda: run.figure("orch_attempt") == 2 and run.figure("orch_step") >= 20, "steps of the next attempt"
    )
    assert kept().items() >= before.items(), "what is compiled anew is written anew"
    go.touch()
    assert run.result()["attempts"] == 2


@pytest.mark.soak_ci
def test_a_hang_shows_all_stacks_and_ends_in_one_new_attempt(
    start: Callable[..., Disturbed], undisturbed: Callable[[int], str], tmp_path: Path
) -> None:
    run = start("Hangs", workers=2, steps=STEPS, hang="4s", params={"folder": str(tmp_path), "step": 50})
    result = run.result()
    assert result["weights_sha256"] == undisturbed(2)
    assert result["attempts"] == 2
    worker_1 = run.logged(1)
    assert "in wait_for_ever" in worker_1, "the user's own line, on the worker that hangs"
    assert "stacks of the agent" in worker_1
    assert worker_1.count("Current thread") + worker_1.count("Thread 0x") >= 4
    worker_0 = run.logged(0)
    assert "stacks of the agent" in worker_0, "also of the one that only waits for the other, in a collective"
    assert "in agree" in worker_0
    end = json.loads((run.directory / "attempts/2.json").read_text())["previous"]
    assert end["code"] == 76


def test_who_waits_for_its_data_or_a_callback_does_not_hang_and_neither_do_its_peers(
    start: Callable[..., Disturbed],
) -> None:
    run = start("Waits", workers=2, steps=80, hang="auto", params={"seconds": 13.0})
    result = run.result()
    assert (result["state"], result["attempts"]) == ("succeeded", 1)
    phases = [line for path in run.directory.glob("metrics/attempt-1/*") for line in path.read_text().splitlines()]
    assert any('"phase": "data"' in line for line in phases)


def test_faults_in_the_middle_of_recoveries_end_in_recovery(
    start: Callable[..., Disturbed], undisturbed: Callable[[int], str]
) -> None:
    """Each of these fires in the recovery from the one before."""
    run = start("Paced", workers=2, steps=STEPS, params={"pause_s": 0.1})
    run.wait_for_commit(40)
    chain = [("process.imported", 1), ("process.rendezvous", 0), ("process.restored", 1), ("process.compiled", 0)]
    armed = [arm(run.faults, point, "kill", worker=worker) for point, worker in chain]
    last = arm(run.faults, "coordinator.after-append", "kill")
    os.kill(run.trainer(0), signal.SIGKILL)
    run.wait_until(lambda: not any(path.exists() for path in (*armed, last)), "all faults to have happened")
    result = run.result()
    assert result["weights_sha256"] == undisturbed(2)
    assert result["restarts"] >= len(chain) + 1


def test_a_task_that_raises_on_one_worker_ends_the_job_with_its_traceback(start: Callable[..., Disturbed]) -> None:
    run = start("Raises", workers=2)
    result = run.result()
    assert (result["state"], result["code"], result["restarts"]) == ("failed", 70, 0)
    assert "worker 1: task error: KeyError" in result["reason"]
    end = json.loads((run.directory / "attempts/2.json").read_text())
    assert "support_tasks.py" in end["traceback"]
    assert "a slip of the user's" in end["traceback"]
    assert "UnavailableError" not in end["traceback"], "the culprit's traceback, not its peer's"


def test_the_same_crash_at_the_same_step_three_times_is_the_end(start: Callable[..., Disturbed]) -> None:
    result = start("Crashes", workers=2).result()
    assert (result["state"], result["code"]) == ("failed", 77)
    assert "crash loop: 3 attempts ended alike" in result["reason"]
    assert "worker 1: aborted" in result["reason"]
    assert result["restarts"] == 2


def test_restarts_after_progress_are_free(start: Callable[..., Disturbed], undisturbed: Callable[[int], str]) -> None:
    run = start("Paced", workers=1, steps=STEPS, budget=0, params={"pause_s": 0.2})
    for attempt in (1, 2):
        run.wait_until(lambda: run.figure("orch_attempt") == attempt, "the attempt to begin")  # noqa: B023
        run.wait_for_commit(60 * attempt)
        os.kill(run.trainer(0), signal.SIGKILL)
    result = run.result()
    assert result["weights_sha256"] == undisturbed(1)
    assert result["attempts"] == 3
