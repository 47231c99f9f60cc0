"""`orch run` while its store makes trouble: training goes on, the trouble shows at once, and the next save is made."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_gcs import FakeGcs, Proxy, Verdict, always, healthy
from support_mounts import small_disk
from support_run import OrchRun

from orchestrator.cli import main
from trainer import faults
from trainer.rundir.attempts import AttemptRecord, read_record
from trainer.rundir.open import open_store

pytestmark = pytest.mark.slow

TASKS = Path(__file__).parents[1] / "support_tasks.py"
ENDLESS = 10**9
OUTAGES_S = 500.0
"""For several outages one after the other, beside other tests."""
JOB = """
name: outages
train: {{task: "support_tasks.py:Strolls", steps: {steps}, global_batch_size: 64, compile: graph}}
checkpoint: {{every: {every}, last_save_timeout: 1s}}
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., OrchRun]]:
    """Runs with fault points in tmp_path/faults; none outlives the test."""
    (tmp_path / "faults").mkdir()
    shutil.copy(TASKS, tmp_path)
    runs: list[OrchRun] = []

    def begin(*arguments: str, steps: int = ENDLESS, every: str = "200ms", **environment: str) -> OrchRun:
        (tmp_path / "job.yaml").write_text(JOB.format(steps=steps, every=every))
        environment |= {faults.VARIABLE: str(tmp_path / "faults")}
        run = OrchRun(tmp_path / "job.yaml", *arguments, cwd=tmp_path, environment=environment, deadline_s=OUTAGES_S)
        runs.append(run)
        return run

    yield begin
    for run in runs:
        run.close()


def wait_for_trouble(run: OrchRun) -> str:
    """Until figures tell of a save in trouble, and training has gone on with it; what the agent's report says of it."""
    run.wait_until(lambda: run.figure("orch_last_save_failed") == 1, "a save in trouble")
    run.wait_until(lambda: bool(run.state().workers[0].save_error), "a report of it")
    report = run.state().workers[0]
    run.wait_for_step(report.step + 50)
    assert run.figure("orch_last_save_failed") == 1
    return report.save_error


def wait_for_recovery(run: OrchRun) -> None:
    """Until a later step than the present one is committed."""
    step = run.figure("orch_step")
    run.wait_until(
        lambda: run.figure("orch_last_save_failed") == 0 and run.figure("orch_last_commit_step") > step, "a new commit"
    )


def interrupted(run: OrchRun) -> dict[str, Any]:
    """The result of a run that is ended as by Ctrl-C."""
    os.kill(run.process.pid, signal.SIGINT)
    result = run.result()
    assert result["code"] == 130
    return result


def on_saves(verdict: Verdict) -> Callable[[str, str, bytes], Verdict]:
    return lambda method, path, body: verdict if "checkpoints" in path or b"/checkpoints/" in body[:500] else None


def test_training_goes_on_while_the_bucket_makes_trouble(
    start: Callable[..., OrchRun], gcs_server: FakeGcs, gcs_url: str, tmp_path: Path
) -> None:
    proxy = Proxy(gcs_server.url, always(403))
    try:
        run = start("--directory", gcs_url, STORAGE_EMULATOR_HOST=proxy.url)
        run.wait_until(lambda: run.state().reason.startswith("waiting for the store since "), "the reason of the wait")
        assert "storage.objects.list" in run.state().reason
        proxy.rule = healthy
        run.wait_for_commit(1)
        for verdict in (503, "reset", 403):
            proxy.rule = on_saves(verdict)
            error = wait_for_trouble(run)
            assert gcs_url in error
            assert verdict == "reset" or str(verdict) in error
            assert error in run.log
            proxy.rule = healthy
            wait_for_recovery(run)

        # Writers that die, and one that fails: not one attempt is lost by them.
        faults.arm(tmp_path / "faults", "writer.before-commit", "kill")
        run.wait_until(lambda: "another one takes its place" in run.log, "another writer")
        failed = run.figure(
            "orch_saves_failed_total"
        )  # an outage may have lasted for longer than a save is tried again
        faults.arm(tmp_path / "faults", "writer.before-shard", "raise")
        run.wait_until(lambda: run.figure("orch_saves_failed_total") > failed, "a save that failed")
        wait_for_recovery(run)
        assert run.state().attempt == 1

        # The store goes away while the next attempt restores.
        refused: list[str] = []

        def rule(method: str, path: str, body: bytes) -> Verdict:
            if method == "GET" and "alt=media" in path and "shard" in path:
                refused.append(path)
                return 503
            return None

        committed = run.figure("orch_last_commit_step")
        proxy.rule = rule
        os.kill(run.trainer(0), signal.SIGKILL)
        run.wait_until(lambda: len(refused) >= 3, "a restore that waits")
        proxy.rule = healthy
        run.wait_for_commit(int(committed) + 1)
        record = read_record(open_store(gcs_url), 2)
        assert isinstance(record, AttemptRecord)
        assert (record.bad, record.restore is not None and record.restore.step >= committed) == ([], True)
        assert interrupted(run)["attempts"] == 2
    finally:
        proxy.close()


@pytest.mark.soak
def test_a_run_that_has_succeeded_says_so_though_its_bucket_is_gone_by_then(
    start: Callable[..., OrchRun], gcs_server: FakeGcs, gcs_url: str, tmp_path: Path
) -> None:
    proxy = Proxy(gcs_server.url)
    try:
        armed = faults.arm(tmp_path / "faults", "agent.before-exit", "stop")
        run = start("--directory", gcs_url, steps=200, STORAGE_EMULATOR_HOST=proxy.url)
        agent = run.agent(0)
        run.wait_until(lambda: not armed.exists(), "the end of the agent")
        proxy.rule = always(403)
        os.kill(agent, signal.SIGCONT)
        result = run.result()
    finally:
        proxy.close()
    assert (result["state"], result["code"]) == ("succeeded", 0)


@pytest.mark.soak
@pytest.mark.soak_ci
def test_status_says_what_the_coordinator_does_while_the_bucket_is_silent(
    start: Callable[..., OrchRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = FakeGcs(tmp_path / "gcs")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    url = server.make_bucket(f"silent-{os.getpid()}") + "/run"
    command = [sys.executable, "-m", "orchestrator.cli.main", "status", url, "-w", "-o", "json"]
    seen: list[dict[str, Any]] = []

    def status() -> dict[str, Any]:
        assert main.run(["status", url, "-o", "json"]) == 0
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return told

    run = start("--directory", url)
    run.wait_for_commit(1)
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = watch.stdout
    assert lines is not None
    reader = threading.Thread(target=lambda: seen.extend(map(json.loads, lines)), daemon=True)
    reader.start()
    try:
        run.wait_until(lambda: bool(seen), "a first look")
        server.pause()
        before, after = status(), status()
        assert url in before["unread"]
        assert (before["state"], before["attempts"]) == ("running", 1)
        assert 0 < before["step"] < after["step"]
        run.wait_until(lambda: bool(seen[-1]["unread"]), "the watch to tell of the outage")
        server.resume()
        run.wait_until(lambda: not seen[-1]["unread"], "the watch to go on")
        assert not status()["unread"]
        interrupted(run)
    finally:
        watch.kill()
        reader.join()
        watch.wait()
        server.resume()
        server.stop()


@pytest.mark.soak
def test_training_goes_on_while_the_disk_is_full_or_read_only(start: Callable[..., OrchRun], tmp_path: Path) -> None:
    with small_disk(tmp_path / "runs/outages/checkpoints") as disk:
        run = start()
        run.wait_for_commit(1)
        disk.fill()
        assert "No space left on device. Free space on the file system of" in wait_for_trouble(run)
        disk.free()
        wait_for_recovery(run)
        disk.remount("ro")
        assert "Read-only file system" in wait_for_trouble(run)
        disk.remount("rw")
        wait_for_recovery(run)
        steps = interrupted(run)["step"] + 100

        # The disk is full when the last save comes: the job ends with 74.
        armed = faults.arm(tmp_path / "faults", "process.before-copy", "stop")
        run = start(steps=steps, every="1h")
        run.wait_until(lambda: not armed.exists(), "the last save")
        disk.fill()
        os.kill(run.trainer(0), signal.SIGCONT)
        result = run.result()
        assert (result["state"], result["code"]) == ("failed", 74)
        assert "the last checkpoint, of step" in result["reason"]
        assert "Free space on the file system of" in result["reason"]
