"""What a save costs: how long training stands still, and how much slower the job gets, beside TensorFlow's own ways.

    python benchmarks/checkpoint.py [--size-mb 300] [--saves 6] [--repetitions 2]
    python benchmarks/checkpoint.py --memory [--size-mb 2000]

A model of an Embedding and Dense layers trains with Adam, whose moments count: `--size-mb` is weights and moments together.
Three ways to save it take turns, each in a process of its own, on the same disk:

  orch run                       a real one, on a local run directory: copy into shared memory, written by another process
  tf.train.Checkpoint            as it is: everything is written before training goes on
  tf.train.Checkpoint, async     its option enable_async, with plain variables (with Keras' objects its second save fails)

Stall: training stands still. Slowdown: a window of steps that begins with a save takes so much longer than the next window of
as many steps without one; this holds the stall, and what writing in the background takes from training. Restore: from reading to
the last variable, in a new process; files are in the system's cache for all. orch alone flushes to the disk (fsync) and verifies
checksums of all it reads. `--memory` measures something else: the memory of a run that is killed and resumed.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

HERE = Path(__file__).resolve().parent
EXAMPLES, TOKENS, WIDTH, BATCH = 4096, 16, 1000, 32
STALL_MS = 50.0
"""What is promised for 300 MB; it is printed as it is for other sizes too."""


@dataclass
class Figures:
    """What was measured of one way to save, over all repetitions."""

    stall_s: list[float] = field(default_factory=list)
    slowdown_s: list[float] = field(default_factory=list)
    save_s: list[float] = field(default_factory=list)
    """From the beginning of a save until it is on its way no more: committed, or written."""
    restore_s: list[float] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, other: dict[str, Any]) -> None:
        for name in ("stall_s", "slowdown_s", "save_s", "restore_s"):
            getattr(self, name).extend(other[name])
        self.size_bytes = other["size_bytes"]


# --- what all train


def layers_of(size_mb: float) -> tuple[int, int]:
    """(rows of the Embedding, number of Dense layers) for so much state: weights and two moments of float32."""
    parameters = int(size_mb * 1e6 / 12)
    dense = max(1, round(parameters * 0.8 / (WIDTH * (WIDTH + 1))))
    return max(100, (parameters - dense * WIDTH * (WIDTH + 1)) // WIDTH), dense


def model(size_mb: float) -> Any:
    import keras

    keras.utils.set_random_seed(0)
    rows, dense = layers_of(size_mb)
    return keras.Sequential(
        [
            keras.Input((TOKENS,), dtype="int32"),
            keras.layers.Embedding(rows, WIDTH),
            keras.layers.GlobalAveragePooling1D(),
            *(keras.layers.Dense(WIDTH, activation="relu") for _ in range(dense)),
            keras.layers.Dense(10),
        ]
    )


def data(size_mb: float) -> tuple[Any, Any]:
    """x int32 [4096, 16], y int32 [4096]."""
    import numpy as np

    random = np.random.default_rng(0)
    rows, _ = layers_of(size_mb)
    return random.integers(0, rows, (EXAMPLES, TOKENS)).astype(np.int32), random.integers(0, 10, EXAMPLES).astype(
        np.int32
    )


def loss() -> Any:
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


TASK = """
import sys
sys.path.append({here!r})
import checkpoint
from trainer.task import Task

class Large(Task):
    def model(self):
        return checkpoint.model({size_mb})
    def train_data(self):
        return checkpoint.data({size_mb})
    def loss(self):
        return checkpoint.loss()
"""


def write_job(folder: Path, size_mb: float, *, steps: int, every: int, keep: int = 2, task: str = TASK) -> None:
    """A job file and its task."""
    (folder / "task.py").write_text(task.format(here=str(HERE), size_mb=size_mb))
    job = {
        "name": "large",
        "train": {"task": "task.py:Large", "steps": steps, "global_batch_size": BATCH},
        "checkpoint": {"every": every, "keep": keep},
    }
    (folder / "job.yaml").write_text(json.dumps(job))


# --- orch


def orch(size_mb: float, window: int, saves: int) -> dict[str, Any]:
    """A run that saves every second window, and a second one that resumes it."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("ORCH_BENCHMARK_FOLDER")) as name:
        folder = Path(name)
        every = 2 * window
        write_job(folder, size_mb, steps=every * (saves + 1), every=every)
        log = orch_run(folder)
        found = re.findall(r"saved commit=step-(\d+)\S* size_mb=(\S+) seconds=(\S+) stall_ms=(\S+)", log)
        saved = [found_one for found_one in found if int(found_one[0]) <= every * saves]
        at = times_of_steps(folder / "runs/large/metrics")
        write_job(folder, size_mb, steps=every * (saves + 1) + 1, every=every)
        restored = re.search(r"restored commit=\S+ size_mb=\S+ seconds=(\S+)", orch_run(folder))
        assert restored is not None
        assert len(saved) == saves, log
    windows = [
        (at(step + window) - at(step)) - (at(step + every) - at(step + window))
        for step in (every * (index + 1) for index in range(saves))
    ]
    return {
        "stall_s": [float(one[3]) / 1e3 for one in saved],
        "slowdown_s": windows,
        "save_s": [float(one[2]) for one in saved],
        "restore_s": [float(restored[1])],
        "size_bytes": float(saved[0][1]) * 1e6,
    }


def orch_run(folder: Path) -> str:
    """A real `orch run` of the folder's job; what its workers and its agent printed."""
    command = [sys.executable, "-m", "orchestrator.cli.main"]
    done = subprocess.run([*command, "run", "job.yaml"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr + done.stdout)
    logs = subprocess.run([*command, "logs", "runs/large"], cwd=folder, capture_output=True, text=True, check=True)
    return logs.stdout


def times_of_steps(metrics: Path) -> Any:
    """The time at which a step was done, by the blocks of attempt 1: between two of them by proportion."""
    import numpy as np

    lines = [json.loads(line) for path in sorted(metrics.rglob("attempt-1/*.jsonl")) for line in path.open()]
    blocks = [line for line in lines if line.get("type") == "block"]
    # The beginning of each block as well: a save lies between the end of one and the beginning of the next, and counts for
    # the window that it begins.
    steps = [edge for block in blocks for edge in (block["step"] - block["steps"] + 1e-6, block["step"])]
    times = [edge for block in blocks for edge in (block["time"] - block["seconds"], block["time"])]
    return lambda step: float(np.interp(step, steps, times))


# --- TensorFlow's own


def tensorflow(size_mb: float, window: int, saves: int, *, asynchronous: bool) -> dict[str, Any]:
    """The same model in a loop of one compiled call a window."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory(dir=os.environ.get("ORCH_BENCHMARK_FOLDER")) as folder:
        train, variables, size_bytes = by_hand(size_mb)
        train(2)
        checkpoint = tf.train.Checkpoint(variables=variables)
        manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=2)
        options = tf.train.CheckpointOptions(enable_async=asynchronous)
        stalls, slowdowns, whole = [], [], []
        seconds_of(train, window)
        for _ in range(saves):
            began = time.perf_counter()
            manager.save(options=options)
            stalls.append(time.perf_counter() - began)
            with_save = stalls[-1] + seconds_of(train, window)
            slowdowns.append(with_save - seconds_of(train, window))
            if not asynchronous:
                whole.append(stalls[-1])
        if asynchronous:
            began = time.perf_counter()
            manager.save(options=options)
            checkpoint.sync()
            whole.append(time.perf_counter() - began)
        command = [sys.executable, __file__, "--restore", str(manager.latest_checkpoint), "--size-mb", str(size_mb)]
        restored = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        "stall_s": stalls,
        "slowdown_s": slowdowns,
        "save_s": whole,
        "restore_s": [float(restored.stdout.split()[-1])],
        "size_bytes": size_bytes,
    }


def restore_tensorflow(size_mb: float, path: str) -> float:
    """Seconds of a restore in this process."""
    import tensorflow as tf

    _, variables, _ = by_hand(size_mb)
    began = time.perf_counter()
    tf.train.Checkpoint(variables=variables).restore(path).assert_existing_objects_matched()
    return time.perf_counter() - began


def by_hand(size_mb: float) -> tuple[Any, list[Any], int]:
    """(train(steps), plain variables of model and optimizer, their bytes)."""
    import keras
    import tensorflow as tf

    x, y = map(tf.constant, data(size_mb))
    trained, loss_function, optimizer = model(size_mb), loss(), keras.optimizers.Adam()
    optimizer.build(trained.trainable_variables)

    @tf.function(autograph=False)
    def train(steps: Any, seed: Any) -> Any:
        def body(step: Any, total: Any) -> Any:
            rows = tf.random.stateless_uniform((BATCH,), (seed, step), 0, EXAMPLES, tf.int32)
            with tf.GradientTape() as tape:
                value = loss_function(tf.gather(y, rows), trained(tf.gather(x, rows), training=True))
            weights = trained.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))
            return step + 1, total + value

        return tf.while_loop(lambda step, total: step < steps, body, (tf.constant(0), tf.constant(0.0)))[1]

    seeds = iter(range(1 << 30))
    variables = [variable.value for variable in [*trained.variables, *optimizer.variables]]
    size_bytes = sum(variable.dtype.size * variable.shape.num_elements() for variable in variables)
    return lambda steps: float(train(tf.constant(steps), tf.constant(next(seeds)))), variables, size_bytes


def seconds_of(train: Any, steps: int) -> float:
    began = time.perf_counter()
    train(steps)
    return time.perf_counter() - began


# --- the table

CONTENDERS = {
    "orch run": orch,
    "tf.train.Checkpoint": lambda *arguments: tensorflow(*arguments, asynchronous=False),
    "tf.train.Checkpoint, async": lambda *arguments: tensorflow(*arguments, asynchronous=True),
}


def compare(size_mb: float, window: int, saves: int, repetitions: int) -> None:
    """Let all contenders take turns, and print."""
    figures = {name: Figures() for name in CONTENDERS}
    for repetition in range(repetitions):
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--only", name, "--size-mb", str(size_mb)]
            command += ["--window", str(window), "--saves", str(saves)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr + done.stdout)
            figures[name].add(json.loads(done.stdout.splitlines()[-1]))
            print(f"{repetition + 1}/{repetitions} {name}", file=sys.stderr, flush=True)
    print(table(figures))


def table(figures: dict[str, Figures]) -> str:
    """The figures, and whether what is promised holds."""
    ours, asynchronous = figures["orch run"], figures["tf.train.Checkpoint, async"]
    lines = [
        f"{ours.size_bytes / 1e6:.0f} MB of state, {len(ours.stall_s)} saves each; median (worst)",
        f"{'':28}{'stall ms':>18}{'slowdown ms':>18}{'save MB/s':>18}{'restore s':>18}",
    ]
    for name, found in figures.items():
        rates = [found.size_bytes / 1e6 / seconds for seconds in found.save_s]
        cells = [
            _cell([1e3 * value for value in found.stall_s], max, ".0f"),
            _cell([1e3 * value for value in found.slowdown_s], max, ".0f"),
            _cell(rates, min, ".0f"),
            _cell(found.restore_s, max, ".2f"),
        ]
        lines.append(f"{name:28}" + "".join(f"{cell:>18}" for cell in cells))
    stall_ms = 1e3 * statistics.median(ours.stall_s)
    slower, theirs = (1e3 * statistics.median(found.slowdown_s) for found in (ours, asynchronous))
    lines += [
        f"{f'stall at most {STALL_MS:.0f} ms:':35}{_verdict(stall_ms <= STALL_MS)}   ({stall_ms:.0f} ms)",
        f"slowdown below that of tf's async: {_verdict(slower < theirs)}   ({slower:.0f} ms, {theirs:.0f} ms)",
    ]
    return "\n".join(lines)


def _cell(values: list[float], worst: Any, form: str) -> str:
    return f"{statistics.median(values):{form}} ({worst(values):{form}})"


def _verdict(holds: bool) -> str:
    return "yes" if holds else "NO"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mb", type=float, default=300.0, help="weights and Adam's moments together")
    parser.add_argument("--saves", type=int, default=6, help="saves that are measured, each repetition")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--window", type=int, default=30, help="steps of a window, with a save or without")
    parser.add_argument("--memory", action="store_true", help="measure the memory of a run that is killed and resumed")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--restore", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(CONTENDERS[arguments.only](arguments.size_mb, arguments.window, arguments.saves)))
    elif arguments.restore:
        print(restore_tensorflow(arguments.size_mb, arguments.restore))
    elif arguments.memory:
        from checkpoint_memory import measure

        with tempfile.TemporaryDirectory(dir=os.environ.get("ORCH_BENCHMARK_FOLDER")) as folder:
            print(measure(Path(folder), arguments.size_mb).text())
    else:
        compare(arguments.size_mb, arguments.window, arguments.saves, arguments.repetitions)


if __name__ == "__main__":
    main()
