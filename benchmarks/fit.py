"""A script with model.fit: plain Keras beside `orch run` with everything on, two workers beside a loop by hand, and kills.

    python benchmarks/fit.py [--repetitions 5] [--epochs 25] [--kills 5] [--parts rate,two,kill]

rate: steps/s of the same script, by plain Python and as train.script with checkpoints every 2 s, TensorBoard and metrics; the
time is that between the ends of epochs, as the script itself sees it, without the first.
two: the same with two workers of one computing thread each, beside a loop by hand over MultiWorkerMirroredStrategy: an epoch of
strategy.run in one tf.function, over a distributed dataset, with the loss and the accuracy that the script has.
kill: from SIGKILL to the next batch, and the steps that had to be done again, beside BackupAndRestore(save_freq=100) in a restart
loop. The contenders take turns; medians and their ratios are shown.
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

from trainer.agent.ports import free_port

EVERY = 100
MODEL = """
import json, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np
keras.utils.set_random_seed(1)
r = np.random.default_rng(0)
x = r.normal(size=(12800, 28, 28, 1)).astype("float32")
y = r.integers(0, 10, 12800).astype("int32")
def build():
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((28, 28, 1)), layers.Conv2D(16, 3, strides=2, activation="relu"), layers.Flatten(),
        layers.Dense(64, "relu"), layers.Dense(10),
    ])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model
EPOCHS = int(sys.argv[1])
"""
SCRIPT = (
    MODEL
    + """
class Rate(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.began = time.time()
rate = Rate()
model = build()
model.fit(x, y, batch_size=64, epochs=1 + EPOCHS, callbacks=[rate], verbose=0)
print("RATE", EPOCHS * 200 / (time.time() - rate.began), flush=True)
"""
)
BY_HAND = (
    MODEL
    + """
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(2)
strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = build()
    optimizer = model.optimizer
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    seen = keras.metrics.SparseCategoricalAccuracy()
    total = keras.metrics.Mean()
    optimizer.build(model.trainable_variables)
data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(12800, 1).repeat().batch(64, drop_remainder=True).prefetch(2)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
data = strategy.experimental_distribute_dataset(data.with_options(options))
def one(batch):
    images, labels = batch
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        each = loss_of(labels, logits)
        loss = tf.reduce_sum(each) / 64
    optimizer.apply(tape.gradient(loss, model.trainable_variables))
    seen.update_state(labels, logits)
    total.update_state(each)
@tf.function
def epoch_of(batches):
    for _ in tf.range(200):
        strategy.run(one, (next(batches),))
batches = iter(data)
for epoch in range(1 + EPOCHS):
    if epoch == 1:
        began = time.time()
    epoch_of(batches)
print("RATE", EPOCHS * 200 / (time.time() - began), flush=True)
os._exit(0)
"""
)
KILLED = (
    MODEL
    + """
class Tell(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        with open("told.tmp", "w") as file:
            json.dump({"pid": os.getpid(), "step": self.epoch * 200 + batch + 1, "time": time.time()}, file)
        os.replace("told.tmp", "told.json")
callbacks = [Tell()]
if "--backup" in sys.argv:
    callbacks.append(keras.callbacks.BackupAndRestore("backup", save_freq=100))
build().fit(x, y, batch_size=64, epochs=100000, callbacks=callbacks, verbose=0)
"""
)


def rate_of(output: str) -> float:
    """What a script says at its end."""
    return float(next(line for line in output.splitlines() if "RATE " in line).split("RATE ")[1])


def by_python(program: str, epochs: int, workers: int = 1) -> float:
    """Steps a second of a program in plain Python, a process for each worker."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.py")
        path.write_text(program)
        ports = [free_port("127.0.0.1", index, workers) for index in range(workers)]
        processes = []
        for index in range(workers):
            cluster = {"cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]}}
            place = {"TF_CONFIG": json.dumps(cluster | {"task": {"type": "worker", "index": index}})}
            command = [sys.executable, str(path), str(epochs)]
            processes.append(
                subprocess.Popen(
                    command,
                    cwd=folder,
                    env=os.environ | (place if workers > 1 else {}),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
        outputs = [process.communicate(timeout=600)[0] for process in processes]
        return rate_of(outputs[0])


def by_orch(program: str, epochs: int, workers: int = 1) -> float:
    """The same as train.script."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "program.py").write_text(program)
        job = Path(folder, "job.yaml")
        job.write_text(
            f"name: fit\ntrain: {{script: program.py, args: ['{epochs}']}}\ncheckpoint: {{every: 2s}}\n"
            f"resources: {{workers: {workers}, cpu: {1 if workers > 1 else 2}}}\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli.main", "run", str(job)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        return rate_of(done.stdout + done.stderr)


class Killed:
    """A script that is killed again and again: as train.script, or started again by a loop, with BackupAndRestore."""

    def __init__(self, folder: Path, *, orch: bool) -> None:
        self._folder = folder
        self.unreadable = 0
        (folder / "program.py").write_text(KILLED)
        self._run: OrchRun | None = None
        if orch:
            (folder / "job.yaml").write_text(
                f"name: fit\ntrain: {{script: program.py, args: ['0']}}\ncheckpoint: {{every: {EVERY}}}\n"
                "restarts: {max: 1000}\n"
            )
            self._run = OrchRun(folder / "job.yaml", cwd=folder, deadline_s=7200)
        else:
            self._start()
        self._wait(lambda told: told["step"] > EVERY)

    def _start(self) -> None:
        quiet = subprocess.DEVNULL
        command = [sys.executable, "program.py", "0", "--backup"]
        self._process = subprocess.Popen(command, cwd=self._folder, stdout=quiet, stderr=quiet)

    def told(self) -> dict[str, float]:
        """What the script said last."""
        try:
            found: dict[str, float] = json.loads((self._folder / "told.json").read_text())
        except OSError:
            return {"pid": 0, "step": 0, "time": 0}
        return found

    def _wait(self, until: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        deadline = time.monotonic() + 120
        while not until(told := self.told()):
            if self._run is None and self._process.poll() is not None:  # it cannot read its own backup any more
                shutil.rmtree(self._folder / "backup", ignore_errors=True)
                self.unreadable += 1
                self._start()
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing was trained within 2 min in {self._folder}")
            time.sleep(0.002)
        return told

    def kill(self) -> tuple[float, int]:
        """Seconds until the next batch, and steps done again."""
        before, began = self.told(), time.time()
        os.kill(int(before["pid"]), signal.SIGKILL)
        if self._run is None:
            self._process.wait()
            self._start()
        after = self._wait(lambda told: told["pid"] != before["pid"])
        return after["time"] - began, max(0, int(before["step"] - after["step"] + 1))

    def close(self) -> None:
        """End it."""
        if self._run is not None:
            self._run.kill_everything()
        else:
            self._process.kill()
            self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--parts", default="rate,two,kill")
    arguments = parser.parse_args()
    parts, epochs = arguments.parts.split(","), arguments.epochs
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    pairs = {
        "rate": ("plain Keras", lambda: by_python(SCRIPT, epochs), "orch, 1 worker", lambda: by_orch(SCRIPT, epochs)),
        "two": (
            "a loop by hand, 2 workers",
            lambda: by_python(BY_HAND, epochs, 2),
            "orch, 2 workers",
            lambda: by_orch(SCRIPT, epochs, 2),
        ),
    }
    for part in (part for part in pairs if part in parts):
        peer, run_peer, ours, run_ours = pairs[part]
        rates: dict[str, list[float]] = {peer: [], ours: []}
        for turn in range(arguments.repetitions):
            for name, run in ((peer, run_peer), (ours, run_ours)) if turn % 2 else ((ours, run_ours), (peer, run_peer)):
                rates[name].append(run())
                print(f"{name}: {rates[name][-1]:.1f} steps/s", file=sys.stderr)
        first, second = (statistics.median(rates[name]) for name in (peer, ours))
        print(f"{peer}: {first:.1f} steps/s; {ours}: {second:.1f} steps/s; ratio {second / first:.2f}")
    if "kill" in parts:
        choice = random.Random(0)
        for name, orch in (("orch, 1 worker", True), ("fit + BackupAndRestore, restarted", False)):
            with tempfile.TemporaryDirectory() as folder:
                job = Killed(Path(folder), orch=orch)
                try:
                    figures = []
                    for _ in range(arguments.kills):
                        time.sleep(choice.uniform(6.0, 12.0))
                        figures.append(job.kill())
                finally:
                    job.close()
            times, again = zip(*figures, strict=True)
            print(
                f"{name}: {statistics.median(times):.2f} s from SIGKILL to the next batch (worst {max(times):.2f}), "
                f"steps done again: median {statistics.median(again):.0f}, worst {max(again)}; "
                f"backups that could not be read: {job.unreadable}"
            )


if __name__ == "__main__":
    main()
