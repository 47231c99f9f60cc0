"""SIGTERM in any phase: an orderly end within the grace period, saved where there is time, never a torn state."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support_faults import Disturbed, verified_commits

from trainer.faults import arm
from trainer.rundir.attempts import read_records
from trainer.rundir.metrics import read_signs
from trainer.rundir.open import open_store

pytestmark = [pytest.mark.slow, pytest.mark.soak]

JOB = """
name: preemption
train:
  task: support_tasks.py:{task}
  params: {params}
  steps: {steps}
  global_batch_size: 64
  seed: 3
  evaluate: {{every: 100}}
checkpoint: {{every: 20}}
preemption: {{grace: {grace}}}
restarts: {{max: {budget}}}
"""

GRACE_S = 20
# Where a process is held when SIGTERM comes to its agent.
PHASES = [
    ("process.imported", 1),
    ("process.rendezvous", 0),
    ("process.restored", 1),
    ("process.compiled", 0),
    ("process.block", 1),
    ("process.before-copy", 0),
    ("process.after-copy", 0),
    ("process.evaluated", 1),
    ("process.last-saved", 0),
    ("process.exported", 0),
]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Disturbed]]:
    with Disturbed.room(tmp_path, JOB) as begin:
        yield begin


def restored_step(run: Disturbed, attempt: int) -> int:
    record = json.loads((run.directory / f"attempts/{attempt}.json").read_text())
    return int(record["restore"]["step"]) if record["restore"] else 0


# Who is told to leave after the last save still reports the result: nothing comes after that.
@pytest.mark.parametrize(
    "phases",
    [pytest.param(PHASES[:-2], marks=pytest.mark.soak_ci), PHASES[-2:-1], PHASES[-1:]],
    ids=["all until the last save", "last save", "export"],
)
def test_sigterm_in_any_phase_ends_in_order_and_the_job_goes_on(
    start: Callable[..., Disturbed], phases: list[tuple[str, int]]
) -> None:
    whole = start("Paced", workers=2, steps=200, grace=f"{GRACE_S}s", params={"pause_s": 0.0}).result()
    run = start("Paced", "--directory", "taken", workers=2, steps=200, grace=f"{GRACE_S}s", deadline_s=600)
    run.directory = run.directory.parent.parent / "taken"
    for point, worker in phases:
        armed = arm(run.faults, point, "sleep 1.5", worker=worker)
        run.wait_until(lambda: not armed.exists(), f"the job to reach {point}")  # noqa: B023
        attempt, step = int(run.figure("orch_attempt")), int(run.figure("orch_step"))
        agent = run.agent(worker)
        os.kill(agent, signal.SIGTERM)
        told = time.monotonic()
        run.wait_until(lambda: not Path(f"/proc/{agent}").exists(), f"the agent to leave in {point}")  # noqa: B023
        assert time.monotonic() - told < GRACE_S, "else Kubernetes would have killed it"
        if point == "process.block":
            next_record = run.directory / f"attempts/{attempt + 1}.json"
            run.wait_until(next_record.exists, "the next attempt")
            assert restored_step(run, attempt + 1) >= step, "what was done when SIGTERM came was saved"
    result = run.result()
    assert result["weights_sha256"] == whole["weights_sha256"]
    assert run.log.count("its agent ended (stopped)") == len(phases)
    # `orch run` sends SIGTERM too, to agents that a job that is over needs no more.
    assert run.log.count("s of the grace period unused") >= len(phases)
    assert "a block takes up to" in run.log, "what an orderly end takes was measured"
    assert verified_commits(run.directory), "every commit verifies"


@pytest.mark.soak_ci
def test_sigterm_while_a_worker_waits_for_its_peers_ends_at_once(start: Callable[..., Disturbed]) -> None:
    run = start("Paced", "--directory", "waiting", workers=2, steps=60, grace=f"{GRACE_S}s", params={"pause_s": 0.0})
    run.directory = run.directory.parent.parent / "waiting"
    held = arm(run.faults, "process.imported", "sleep 8", worker=0)
    waits = arm(run.faults, "process.rendezvous", "sleep 0.01", worker=1)
    run.wait_until(lambda: not held.exists() and not waits.exists(), "worker 1 to wait for worker 0")
    agent = run.agent(1)
    os.kill(agent, signal.SIGTERM)
    told = time.monotonic()
    run.wait_until(lambda: not Path(f"/proc/{agent}").exists(), "the agent to leave")
    assert time.monotonic() - told < GRACE_S
    result = run.result()
    assert (result["state"], result["restarts"]) == ("succeeded", 1)
    assert "worker 1 was told to leave (SIGTERM)" in run.log


@pytest.mark.soak_ci
def test_an_evaluation_is_cut_short_and_what_was_trained_is_saved(
    start: Callable[..., Disturbed], tmp_path: Path
) -> None:
    go = tmp_path / "go"
    settings = ("--set", "train.evaluate.batch_size=2", "--set", "train.evaluate.every=epoch")
    common = {"workers": 2, "steps": 50, "grace": f"{GRACE_S}s", "params": {"go": str(go)}}
    run = start("LongEvaluation", "--directory", "evaluating", *settings, **common)
    run.directory = run.directory.parent.parent / "evaluating"
    run.wait_until(go.with_suffix(".begun").exists, "an evaluation")
    agent = run.agent(1)
    os.kill(agent, signal.SIGTERM)
    told = time.monotonic()
    run.wait_until((run.directory / "attempts/2.json").exists, "the next attempt")
    assert time.monotonic() - told < GRACE_S
    # 1,437 examples in batches of 64: epochs end with steps 23 and 45.
    assert restored_step(run, 2) == 23, "the commit before it was of step 20"
    go.touch()
    assert run.result()["state"] == "succeeded"
    store = open_store(str(run.directory))
    signs = read_signs(store, read_records(store))
    evaluated = {number: [sign.step for sign in of if sign.type == "evaluated"] for number, of in signs.items()}
    assert evaluated == {1: [], 2: [23, 45, 50]}
    whole = start("LongEvaluation", *settings, **common)
    whole.result()
    disturbed, undisturbed = (
        sorted(line.partition("EPOCH ")[2] for line in job.log.splitlines() if "EPOCH " in line) for job in (run, whole)
    )
    # Training ends within the third one, which callbacks are told of all the same: else its metrics were lost to them.
    assert [line[:2] for line in undisturbed] == ["0 ", "0 ", "1 ", "1 ", "2 ", "2 "]
    assert disturbed == undisturbed, "callbacks saw each epoch once, with its evaluation"


def test_all_workers_stopped_at_once_save_what_differs_between_replicas(start: Callable[..., Disturbed]) -> None:
    whole = start("Normalised", workers=2, steps=200, grace="20s", params={"pause_s": 0.0}).result()
    first = start("Normalised", "--directory", "stopped", workers=2, steps=200, grace="20s")
    first.wait_for_step(50)
    step = int(first.figure("orch_step"))
    os.kill(first.process.pid, signal.SIGTERM)
    stopped = first.result()
    assert (stopped["state"], stopped["code"]) == ("stopped", 143)
    assert stopped["step"] >= step
    result = start("Normalised", "--directory", "stopped", workers=2, steps=200, grace="20s").result()
    assert result["weights_sha256"] == whole["weights_sha256"]


def test_a_save_at_a_stop_has_all_of_the_grace_period(start: Callable[..., Disturbed]) -> None:
    run = start(
        *("Paced", "--directory", "long", "--set", "checkpoint.every=100000"),
        workers=1, steps=3000, grace="60s", params={"pause_s": 0.2},
    )  # fmt: skip
    run.directory = run.directory.parent.parent / "long"
    run.wait_for_step(100)
    arm(run.faults, "writer.before-commit", "sleep 35")
    agent, step = run.agent(0), int(run.figure("orch_step"))
    os.kill(agent, signal.SIGTERM)
    run.wait_until(lambda: not Path(f"/proc/{agent}").exists(), "the agent to leave")
    run.wait_until((run.directory / "attempts/2.json").exists, "the next attempt")
    assert restored_step(run, 2) >= step


def test_too_little_time_leaves_the_last_commit_standing(start: Callable[..., Disturbed]) -> None:
    whole = start("Paced", workers=1, steps=200, grace="20s", params={"pause_s": 0.0}).result()
    run = start("Paced", "--directory", "short", workers=1, steps=200, grace="3s", params={"pause_s": 0.2})
    run.directory = run.directory.parent.parent / "short"
    run.wait_for_commit(20)
    armed = arm(run.faults, "writer.before-commit", "sleep 20")
    run.wait_until(lambda: not armed.exists(), "a save that takes longer than the grace period")
    committed = int(run.figure("orch_last_commit_step"))
    agent = run.agent(0)
    os.kill(agent, signal.SIGTERM)
    run.wait_until(lambda: not Path(f"/proc/{agent}").exists(), "the agent to leave")
    run.wait_until((run.directory / "attempts/2.json").exists, "the next attempt")
    assert restored_step(run, 2) == committed
    assert run.result()["weights_sha256"] == whole["weights_sha256"]
