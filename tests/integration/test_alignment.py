"""Workers stay aligned to the end: one at a tenth of its speed, a stop request at one of them, saves by the clock."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from support_run import OrchRun

pytestmark = pytest.mark.slow
TASKS = Path(__file__).parents[1] / "support_tasks.py"

JOB = """
name: aligned
train:
  task: support_tasks.py:Paced
  params: {pause_s: 0.4}
  steps: 800
  global_batch_size: 64
  seed: 5
  evaluate: {every: 150}
checkpoint: {every: 2s}
"""


class Slowed:
    """Lets a process run a tenth of the time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                os.kill(self._pid, signal.SIGSTOP)
                time.sleep(0.045)
                os.kill(self._pid, signal.SIGCONT)
                time.sleep(0.005)
        except ProcessLookupError:
            return

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.soak
def test_slow_worker_a_stop_request_and_saves_by_the_clock_keep_all_aligned(tmp_path: Path) -> None:
    shutil.copy(TASKS, tmp_path)
    job_file = tmp_path / "job.yaml"
    job_file.write_text(JOB)
    runs = [OrchRun(job_file, "--workers", "2", "--directory", str(tmp_path / "whole"), cwd=tmp_path)]
    try:
        whole = runs[0].result()
        runs.append(OrchRun(job_file, "--workers", "2", cwd=tmp_path))
        run = runs[1]
        run.wait_for_step(50)
        slowed = Slowed(run.trainer(1))
        run.wait_for_step(150)
        slowed.stop()
        # The platform takes worker 1: it stops after a block, all save together, its successor joins them.
        os.kill(run.agent(1), signal.SIGTERM)
        run.wait_for_step(1, attempt=2)
        result = run.result()
    finally:
        for each in runs:
            each.close()
    assert result["state"] == "succeeded"
    assert result["weights_sha256"] == whole["weights_sha256"]
    assert result["attempts"] == 2
    assert result["metrics"] == whole["metrics"]


def test_a_reader_that_stops_reading_never_stops_training(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(
        "from trainer.tasks.digits import Digits\n"
        "class Chatty(Digits):\n"
        "    def callbacks(self):\n"
        "        import keras\n"
        "        return [keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: print('x' * 60000))]\n"
    )
    (tmp_path / "job.yaml").write_text(
        JOB.replace("support_tasks.py:Paced\n  params: {pause_s: 0.4}", "chatty.py:Chatty")
    )
    run = OrchRun(
        tmp_path / "job.yaml", "--set", "train.evaluate.every=50", "--set", "train.steps=200", cwd=tmp_path, read=False
    )
    try:
        end = tmp_path / "runs/aligned/attempts/2.json"
        deadline = time.monotonic() + 90
        while not end.exists():
            assert time.monotonic() < deadline, "training stopped while nobody read"
            time.sleep(0.1)
        result = run.result()
        assert result["state"] == "succeeded"
        assert "lines dropped" in run.log
    finally:
        run.close()
