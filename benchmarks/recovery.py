"""How long a job of two workers stands still when one of them is killed or frozen, and what is lost: orch beside Keras' own way.

    python benchmarks/recovery.py [--kills 20] [--stops 5] [--peer-kills 5] [--peer-stops 2]

Measured is the time from the signal to the end of the first block (orch) or of the first batch (Keras) that is trained
afterwards on both workers, and the steps that were done before the signal and had to be done again. The peer is the same model
on the same data in model.fit under MultiWorkerMirroredStrategy with BackupAndRestore(save_freq=100), in a loop that starts both
processes again when one of them ends. orch saves every 100 steps, too. Signals go to worker 0 and worker 1 in turn, at random
moments of a run that goes on.
"""

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
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
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()
import keras
from trainer.tasks.digits import Digits
folder, index = sys.argv[1], json.loads(os.environ["TF_CONFIG"])["task"]["index"]
task = Digits()
x, y = task.train_data()
with strategy.scope():
    keras.utils.set_random_seed(3)
    model = task.model()
    model.compile(task.optimizer(), task.loss(), task.metrics())
data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(2000, 3).repeat().batch(64)
class Tell(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        with open(f"{folder}/worker-{index}.tmp", "w") as file:
            json.dump({"pid": os.getpid(), "step": self.epoch * 500 + batch + 1, "time": time.time()}, file)
        os.replace(f"{folder}/worker-{index}.tmp", f"{folder}/worker-{index}.json")
backup = keras.callbacks.BackupAndRestore(f"{folder}/backup-{index}", save_freq=100)
model.fit(data, epochs=1000000, steps_per_epoch=500, verbose=0, callbacks=[Tell(), backup])
"""


class Orch:
    """`orch run` of two workers."""

    def __init__(self, folder: Path) -> None:
        (folder / "job.yaml").write_text(JOB)
        self._metrics = folder / "runs/recovery/metrics"
        self._run = OrchRun(folder / "job.yaml", "--workers", "2", cwd=folder, deadline_s=7200)
        self._run.wait_for_step(200)

    def disturb(self, worker: int, number: signal.Signals) -> tuple[float, int]:
        """Seconds until the first block afterwards, and steps done twice."""
        attempt, before = int(self._run.figure("orch_attempt")), self._last_step()
        began = time.time()
        os.kill(self._run.trainer(worker), number)
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
    """Two processes of model.fit, started again when one of them ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "fit.py").write_text(PEER)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start()
        self._wait_for_both(0.0)

    def _start(self) -> None:
        ports = [_free_port(), _free_port()]
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        self._processes = [
            subprocess.Popen(
                [sys.executable, str(self._folder / "fit.py"), str(self._folder)],
                env=os.environ
                | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for index in range(2)
        ]

    def _told(self, index: int) -> dict[str, float]:
        try:
            told: dict[str, float] = json.loads((self._folder / f"worker-{index}.json").read_text())
        except OSError:
            return {"pid": 0, "step": 0, "time": 0}
        return told

    def _wait_for_both(self, since: float) -> tuple[float, int]:
        """When the first batch of both after `since` ended, and its step; restarts whoever ends meanwhile."""
        while True:
            told = [self._told(index) for index in range(2)]
            mine = [told[index]["pid"] == process.pid for index, process in enumerate(self._processes)]
            if all(mine) and all(entry["time"] > since for entry in told):
                return max(entry["time"] for entry in told), int(told[0]["step"])
            if any(process.poll() is not None for process in self._processes):
                self.close()
                self._start()
            time.sleep(0.02)

    def disturb(self, worker: int, number: signal.Signals) -> tuple[float, int]:
        """As Orch.disturb."""
        before, began = int(self._told(0)["step"]), time.time()
        old = self._processes[worker].pid
        os.kill(old, number)
        while self._processes[worker].pid == old:
            if any(process.poll() is not None for process in self._processes):
                self.close()
                self._start()
            time.sleep(0.02)
        until, step = self._wait_for_both(began)
        return until - began, max(0, before - step + 1)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=5)
    parser.add_argument("--peer-kills", type=int, default=5)
    parser.add_argument("--peer-stops", type=int, default=2)
    arguments = parser.parse_args()
    choice = random.Random(0)
    rows: list[tuple[str, list[tuple[float, int]]]] = []
    plans = (
        ("orch", Orch, arguments.kills, arguments.stops),
        ("Keras fit + BackupAndRestore", Keras, arguments.peer_kills, arguments.peer_stops),
    )
    for name, contender, kills, stops in plans:
        with tempfile.TemporaryDirectory() as folder:
            job = contender(Path(folder))
            try:
                for number, count in ((signal.SIGKILL, kills), (signal.SIGSTOP, stops)):
                    figures = []
                    for turn in range(count):
                        time.sleep(choice.uniform(2.0, 4.0))
                        figures.append(job.disturb(turn % 2, number))
                        print(f"{name} {number.name} {turn + 1}/{count}: {figures[-1][0]:.2f} s", file=sys.stderr)
                    rows.append((f"{name}, {number.name}", figures))
            finally:
                job.close()
    print(f"2 workers, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; from the signal to the next step on both")
    print(f"{'':42} {'times':>5} {'median':>8} {'worst':>8} {'steps lost, median':>19} {'worst':>6}")
    for name, figures in rows:
        seconds, lost = [entry[0] for entry in figures], [entry[1] for entry in figures]
        if seconds:
            print(
                f"{name:42} {len(seconds):5d} {statistics.median(seconds):6.2f} s {max(seconds):6.2f} s "
                f"{statistics.median(lost):19.0f} {max(lost):6d}"
            )
    for (name, figures), limit in zip(rows[:2], (5.0, 15.0), strict=True):
        if figures:
            worst = max(entry[0] for entry in figures)
            print(f"expected: {name} <= {limit:.0f} s at worst: {'yes' if worst <= limit else 'NO'}")


if __name__ == "__main__":
    main()
