"""Steps per second of training on data that is read as it trains: Keras' best `fit` on tf.data beside `orch run`.

    python benchmarks/data.py [--repetitions 3] [--seconds 15] [--parts images] [--peer-only]

images: 2,000 JPEG files of 224x224 pixels, resized to 96x96 in batches of 32, through a small CNN. The peer is fit with
read_file, decode_jpeg, antialiased resize and AUTOTUNE, its paths shuffled each epoch; the better of steps_per_execution 1 and
16. `orch run` is the same model on `trainer.data.images`, with metrics and checkpoints every 2 s, by the steps of its second
half. The contenders take turns, each in a process of its own; medians and their ratio are shown.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import steps

FILES, PIXELS, SIZE, BATCH, CLASSES = 2000, 224, 96, 32, 10


def write_images(folder: Path) -> None:
    """JPEG files of smooth noise, in a folder for each class; about 10 KB each."""
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    for number in range(FILES):
        coarse = random.integers(0, 256, (28, 28, 3)).astype(np.float32)
        smooth = tf.image.resize(coarse, (PIXELS, PIXELS), method="bicubic")
        path = folder / str(number % CLASSES) / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_jpeg(tf.saturate_cast(smooth, tf.uint8), quality=90).numpy())


def model() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    body = [layers.Conv2D(width, 3, strides=2, activation="relu") for width in (16, 32, 32)]
    return keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), *body, layers.GlobalAveragePooling2D(), layers.Dense(CLASSES)]
    )


def loss() -> Any:
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def keras_fit(folder: Path, seconds: float) -> float:
    """Steps per second of the better of the two."""
    return max(_fit(folder, at_once, seconds / 2) for at_once in (1, 16))


def _fit(folder: Path, steps_per_execution: int, seconds: float) -> float:
    """Steps per second after the first epoch, which compiles."""
    import keras
    import tensorflow as tf

    paths = sorted(str(path) for path in folder.glob("*/*.jpg"))
    labels = [int(Path(path).parent.name) for path in paths]

    def load(path: Any, label: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.image.resize(image, (SIZE, SIZE), antialias=True) / 255, label

    data = tf.data.Dataset.from_tensor_slices((paths, labels)).shuffle(len(paths), seed=0)
    data = data.map(load, tf.data.AUTOTUNE).batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    began = end = 0.0
    epochs = 0

    class Clock(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            nonlocal began, end, epochs
            end = time.perf_counter()
            began = began or end
            epochs = epoch
            self.model.stop_training = bool(epoch) and end > began + seconds

    trained = model()
    trained.compile("adam", loss(), metrics=["accuracy"], steps_per_execution=steps_per_execution)
    trained.fit(data, epochs=100_000, verbose=0, callbacks=[Clock()])
    return epochs * (len(paths) // BATCH) / (end - began)


TASK = """
import sys
sys.path.append({here!r})
import data
from trainer.data import images
from trainer.task import Task

class Pictures(Task):
    def __init__(self, folder):
        self.folder = folder
    def model(self):
        return data.model()
    def train_data(self):
        return images(self.folder, (data.SIZE, data.SIZE))
    def loss(self):
        return data.loss()
    def metrics(self):
        return ["accuracy"]
"""


def orch_run(folder: Path, count: int) -> float:
    """The same of `count` steps of `orch run`."""
    train = {"task": "task.py:Pictures", "params": {"folder": str(folder)}, "steps": count, "global_batch_size": BATCH}
    return steps.rate_of_blocks(steps.lines_of_a_run(TASK, train))


def measure_images(repetitions: int, seconds: float, peer_only: bool) -> None:
    rates: dict[str, list[float]] = {"fit": [], "orch run": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder)
        for _ in range(repetitions):
            command = [sys.executable, __file__, "--only", name, "--seconds", str(seconds)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            rates["fit"].append(float(done.stdout.split()[-1]))
            if not peer_only:
                rates["orch run"].append(orch_run(folder, int(rates["fit"][-1] * 2 * seconds)))
            print(*(f"{who}: {values[-1]:.1f}" for who, values in rates.items() if values), file=sys.stderr, flush=True)
    fit = statistics.median(rates["fit"])
    print(f"images: fit {fit:.1f} steps/s", end="")
    if not peer_only:
        ours = statistics.median(rates["orch run"])
        print(f"; orch run {ours:.1f} steps/s; ratio {ours / fit:.2f}", end="")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="of fit, for each repetition; orch run as long at least"
    )
    parser.add_argument("--parts", default="images")
    parser.add_argument("--peer-only", action="store_true", help="leave out orch run")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(keras_fit(Path(arguments.only), arguments.seconds))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if "images" in arguments.parts.split(","):
        measure_images(arguments.repetitions, arguments.seconds, arguments.peer_only)


if __name__ == "__main__":
    main()
