"""How long a job stands still when a training process is killed or frozen, and what is lost: orch beside Keras' own way.

    python benchmarks/recovery.py [--kills 20] [--stops 5] [--soon 5] [--peer-kills 10]

Measured is the time from the signal to the end of the first block (orch) or batch (Keras) that is trained afterwards, and the
steps that were done before the signal and had to be done again. The peer is the same model on the same data in model.fit with
BackupAndRestore(save_freq=100), in a loop that starts the process again when it ends; orch saves every 100 steps, too. It has
one process, since fit of Keras 3.15 fails under MultiWorkerMirroredStrategy (it cannot reduce its own logs); orch is shown with
one worker and with two. A frozen process is never noticed by a plain loop: that is shown after a minute. Signals come 10 to 25 s
after training has gone on; also shown are those that come within 4 s.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support_run import OrchRun

EVERY = 100
JOB = f"""
name: recovery
train: {{task: trainer.tasks.digits:Digits, steps: 10000000, global_batch_size: 64, seed: 3}}
checkpoint: {{every: {EVERY}}}
restarts: {{max: 1000}}
"""
PEER = """
import json, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, tensorflow as tf
from trainer.tasks.digits import Digits
task = Digits()
x, y = task.train_data()
keras.utils.set_random_seed(3)
model = task.model()
model.compile(task.optimizer(), loss=task.loss(), metrics=task.metrics())
data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(2000, 3).repeat().batch(64)
class Tell(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        with open("told.tmp", "w") as file:
            json.dump({"pid": os.getpid(), "step": self.epoch * 500 + batch + 1, "time": time.time()}, file)
        os.replace("told.tmp", "told.json")
model.fit(data, epochs=1000000, steps_per_epoch=500, verbose=0,
          callbacks=[Tell(), keras.callbacks.BackupAndRestore("backup", save_freq=100)])
"""
NEVER_S = 60.0
Row = tuple[str, signal.Signals, int, tuple[float, float]]
"""What it is called, the signal, how often, and how long training goes on before each, in seconds."""


class Orch:
    """`orch run`."""

    def __init__(self, folder: Path, workers: int) -> None:
        (folder / "job.yaml").write_text(JOB)
        self._metrics = folder / "runs/recovery/metrics"
        self._workers = workers
        self._run = OrchRun(folder / "job.yaml", "--workers", str(workers), cwd=folder, deadline_s=7200)
        self._run.wait_for_step(200)

    def disturb(self, turn: int, number: signal.Signals) -> tuple[float, int]:
        """Seconds until the first block afterwards, and steps done twice. Each worker in its turn."""
        attempt, before = int(self._run.figure("orch_attempt")), self._last_step()
        began = time.time()
        os.kill(self._run.trainer(turn % self._workers), number)
        while (first := self._first(attempt + 1)) is None:
            time.sleep(0.05)
        record = json.loads((self._metrics.parent / f"attempts/{attempt + 1}.json").read_text())
        restored = record["restore"]["step"] if record["restore"] else 0
        # What was done between the look and the signal is known from the record of the end.
        return first - began, max(before, record["previous"]["step"]) - restored

    def _blocks(self, attempt: int) -> list[dict[str, object]]:
        lines = [
            json.loads(line)
            for path in sorted((self._metrics / f"attempt-{attempt}").glob("*.jsonl"))
            for line in path.read_text().splitlines()
        ]
        return [line for line in lines if line.get("type") == "block"]

    def _first(self, attempt: int) -> float | None:
        blocks = self._blocks(attempt)
        return float(str(blocks[0]["time"])) if blocks else None

    def _last_step(self) -> int:
        return int(self._run.figure("orch_step"))

    def close(self) -> None:
        self._run.kill_everything()


class Keras:
    """A process of model.fit, started again when it ends; from nothing where it cannot read its own backup any more."""

    unreadable = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "fit.py").write_text(PEER)
        self._start()
        self._first()
        time.sleep(3.0)

    def _start(self) -> None:
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen([sys.executable, "fit.py"], cwd=self._folder, stdout=quiet, stderr=quiet)

    def _told(self) -> dict[str, float]:
        try:
            told: dict[str, float] = json.loads((self._folder / "told.json").read_text())
        except OSError:
            return {"pid": 0, "step": 0, "time": 0}
        return told

    def _first(self) -> dict[str, float]:
        """What the process that runs now tells first."""
        while (told := self._told())["pid"] != self._process.pid:
            if self._process.poll() is not None:
                if not (self._folder / "backup").exists():
                    raise SystemExit(f"model.fit ended with {self._process.returncode} before its first batch")
                shutil.rmtree(self._folder / "backup")
                Keras.unreadable += 1
                self._start()
            time.sleep(0.005)
        return told

    def disturb(self, turn: int, number: signal.Signals) -> tuple[float, int]:
        """As Orch.disturb; the time is infinite where nobody notices."""
        before, began = int(self._told()["step"]), time.time()
        self._process.send_signal(number)
        while self._process.poll() is None:
            if time.time() - began > NEVER_S:
                return float("inf"), 0
            time.sleep(0.005)
        self._start()
        told = self._first()
        return told["time"] - began, max(0, before - int(told["step"]) + 1)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=5)
    parser.add_argument("--soon", type=int, default=5)
    parser.add_argument("--peer-kills", type=int, default=10)
    arguments = parser.parse_args()
    choice = random.Random(0)
    rows: list[tuple[str, list[tuple[float, int]]]] = []
    kills, stops, soon, peer = arguments.kills, arguments.stops, arguments.soon, arguments.peer_kills
    late, early = (10.0, 25.0), (2.0, 4.0)
    kill, stop = signal.SIGKILL, signal.SIGSTOP
    plans: tuple[tuple[str, Callable[[Path], Orch | Keras], list[Row]], ...] = (
        (
            "orch, 2 workers",
            lambda folder: Orch(folder, 2),
            [("SIGKILL", kill, kills, late), ("SIGSTOP", stop, stops, late), ("SIGKILL within 4 s", kill, soon, early)],
        ),
        (
            "orch, 1 worker",
            lambda folder: Orch(folder, 1),
            [("SIGKILL", kill, peer, late), ("SIGSTOP", stop, stops, late), ("SIGKILL within 4 s", kill, soon, early)],
        ),
        (
            "Keras fit + BackupAndRestore, 1 process",
            Keras,
            [("SIGKILL", kill, peer, early), ("SIGSTOP", stop, 1, early)],
        ),
    )
    for name, start, series in plans:
        with tempfile.TemporaryDirectory() as folder:
            job = start(Path(folder))
            try:
                for told, number, count, pause_s in series:
                    figures = []
                    for turn in range(count):
                        time.sleep(choice.uniform(*pause_s))
                        figures.append(job.disturb(turn, number))
                        print(f"{name} {told} {turn + 1}/{count}: {figures[-1][0]:.2f} s", file=sys.stderr)
                    rows.append((f"{name}, {told}", figures))
            finally:
                job.close()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; from the signal to the next step")
    print(f"{'':48} {'times':>5} {'median':>8} {'worst':>8} {'steps lost, median':>19} {'worst':>6}")
    for name, figures in rows:
        seconds, lost = [entry[0] for entry in figures], [entry[1] for entry in figures]
        if not seconds:
            continue
        middle, worst = (
            f"{value:6.2f} s" if value != float("inf") else "never"
            for value in (statistics.median(seconds), max(seconds))
        )
        print(f"{name:48} {len(seconds):5d} {middle:>8} {worst:>8} {statistics.median(lost):19.0f} {max(lost):6d}")
    print(f"Keras' backups that could not be read after a kill, and were deleted by hand: {Keras.unreadable}")
    for (name, figures), limit in zip(rows[:2], (5.0, 15.0), strict=True):
        if figures:
            worst = max(entry[0] for entry in figures)
            print(f"expected: {name} <= {limit:.0f} s at worst: {'yes' if worst <= limit else 'NO'}")


if __name__ == "__main__":
    main()
