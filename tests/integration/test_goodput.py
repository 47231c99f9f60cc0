"""A run that loses a process accounts for its time, and every place where a person looks tells what happened."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from support_run import OrchRun

from orchestrator.cli import main
from trainer.rundir.attempts import read_records
from trainer.rundir.open import open_store

pytestmark = pytest.mark.slow

JOB = """
name: goodput
train:
  task: trainer.tasks.digits:Digits
  steps: 3000
  global_batch_size: 64
  evaluate: {every: 1000}
checkpoint: {every: 2000}
"""


@pytest.mark.soak
def test_a_killed_process_shows_in_the_ledger_in_status_and_in_the_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def orch(*arguments: str) -> str:
        assert main.run(arguments) == 0
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    run = OrchRun(tmp_path / "job.yaml", "--workers", "2", "-o", "text", cwd=tmp_path)
    try:
        victim = run.trainer(1)
        living: dict[str, Any] = json.loads(orch("goodput", "goodput", "-o", "json"))
        run.wait_for_step(300)
        os.kill(victim, signal.SIGKILL)
        printed = run.printed()
    finally:
        run.close()
    assert run.process.returncode == 0, run.log
    assert sum(living["seconds"].values()) == pytest.approx(living["total_s"])
    assert living["restarts"] == 0

    # The ledger: all of the time, and steps that were done twice.
    records = read_records(open_store(str(tmp_path / "runs/goodput")))
    told = json.loads(orch("goodput", "goodput", "-o", "json"))
    seconds = told["seconds"]
    assert sum(seconds.values()) == pytest.approx(told["total_s"])
    assert told["total_s"] == pytest.approx((records[-1].created - records[0].created).total_seconds())
    assert (told["steps_kept"], told["restarts"], told["attempts"]) == (3000, 1, 2)
    assert told["steps_lost"] >= 300
    for row in ("start", "import", "rendezvous", "restore", "compile", "steps kept", "steps lost", "evaluation",
                "checkpoint stall", "last save, export", "down"):  # fmt: skip
        assert seconds[row] > 0, row
    assert seconds["unknown"] == seconds["hang"] == seconds["stopped"] == 0
    assert told["saves"] == 2
    assert told["longest_stall_s"] > 0

    # Status, for programs and for people.
    status = json.loads(orch("status", "goodput", "-o", "json"))
    assert status["goodput"] == told["goodput"] == pytest.approx(seconds["steps kept"] / told["total_s"])
    assert status["save_error"] == ""
    [restart] = status["history"]
    assert (restart["attempt"], restart["worker"], restart["code"]) == (1, 1, 137)
    assert restart["steps_lost"] == told["steps_lost"]
    words = rf"worker 1: killed \(SIGKILL\) \(step \d+\); went on from the start, {told['steps_lost']} steps lost"
    line = rf"\d\d:\d\d:\d\d UTC attempt 1: {words}"
    shown = orch("status", "goodput")
    assert re.search(line, shown), shown
    assert f"goodput {100 * told['goodput']:.1f} %, {told['steps_lost']} steps lost" in shown

    # While it ran, and at its end.
    assert re.search(f"attempt 2: {words.replace('went', 'going')}", run.log), run.log
    assert re.search(f"restarts of this launch:\n  {line}\ngoodput ", printed), printed


@pytest.mark.soak
@pytest.mark.soak_ci
def test_saves_that_fail_show_in_status_while_the_job_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB.replace("every: 2000", "every: 100").replace("3000", "1000000"))
    # Where the shards are to go there is a file: nothing else of the run directory is in trouble.
    (tmp_path / "runs/goodput/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/goodput/checkpoints/data").write_text("in the way")
    run = OrchRun(tmp_path / "job.yaml", cwd=tmp_path)

    def status() -> dict[str, Any]:
        assert main.run(["status", "goodput", "-o", "json"]) == 0
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return told

    try:
        run.wait_for_step(200)
        run.wait_until(lambda: bool(status()["save_error"]), "the failed save to show")
        before = status()
        run.wait_until(lambda: status()["step"] > before["step"], "training to go on")
        assert main.run(["status", "goodput"]) == 0
        shown = capsys.readouterr().out
        assert f"saves fail: {before['save_error'].splitlines()[0]}" in shown
        assert "what to do: training goes on and the next save tries again" in shown
        assert f"of {before['total_steps']}, " in shown
        (row,) = status()["workers"]
        assert (row["index"], row["attempt"]) == (0, 1)
        assert row["step"] >= before["step"]
        # Once nothing is in the way any more, one that succeeds ends the trouble.
        (tmp_path / "runs/goodput/checkpoints/data").unlink()
        run.wait_until(lambda: not status()["save_error"], "a save to succeed")
    finally:
        run.close()
