"""A program that trains the tasks of examples/recipes, one after the other: `support_task_recipes.py FOLDER`.

Each is trained for a few steps, as graph, which compiles soonest, by the trainer's own prepare, loop and finish; those that
keep something of their own once more with a kill. Prints a line of JSON for each. The recipe of several replicas has two, on
logical CPUs.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import tensorflow as tf

from tests.conformance import room
from trainer import exported

ROOT = Path(__file__).parents[1]
RECIPES: dict[str, dict[str, Any]] = {
    "arrays:Arrays": {},
    "by_number:Next": {},
    "dataset:Waves": {},
    "generator:Walks": {},
    "pydataset:Products": {},
    "table:Rents": {},
    "text:Reviews": {},
    "images:Pictures": {},
    "layers:Regularised": {},
    "own_step:Clipped": {},
    "two_networks:Forger": {},
    "callbacks:Watched": {"epochs": 3, "global_batch_size": 500, "evaluate": {"every": "epoch"}},
    "evaluation:Denoise": {"evaluate": {"every": 3}, "stop_when": {"metric": "val_psnr", "mode": "max"}},
    "exports:Digits": {"evaluate": {"every": 3}},
    "replicas:Pairs": {},
}
KEEP_SOMETHING = ("by_number", "layers", "two_networks", "callbacks")
SAVED_EVERY, KILLED_AT = 2, 5


def main(folder: Path) -> None:
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    pictures(folder / "pictures")
    for name, train in RECIPES.items():
        strategy = two if name.startswith("replicas:") else tf.distribute.get_strategy()
        try:
            print(json.dumps({"recipe": name} | trained(folder, name, train, strategy)), flush=True)
        except Exception:
            print(json.dumps({"recipe": name, "error": traceback.format_exc()}), flush=True)


def pictures(folder: Path) -> None:
    """16 images of each of two classes."""
    for kind in ("dark", "light"):
        (folder / kind).mkdir(parents=True)
        for number in range(16):
            image = np.random.default_rng(number).integers(0, 128, (16, 16, 3)) + 127 * (kind == "light")
            tf.io.write_file(str(folder / kind / f"{number}.png"), tf.io.encode_png(image.astype("uint8")))


def trained(folder: Path, name: str, train: dict[str, Any], strategy: tf.distribute.Strategy) -> dict[str, Any]:
    file, _, task = name.partition(":")
    section = {
        "task": f"examples/recipes/{file}.py:{task}",
        "global_batch_size": 16,
        "seed": 3,
        "compile": "graph",
        **train,
    }
    section |= {} if "epochs" in train else {"steps": 8}
    section |= {"params": {"folder": str(folder / "pictures")}} if file == "images" else {}
    export = {"best": "val_loss"} if file == "exports" else None
    run = folder / file / "undisturbed"
    told = one(run, section, strategy, export=export)
    (result,) = [message for message in told if message.type == "result"]
    model = exported.load(str(run / "run"), task_root=str(ROOT))
    return {
        "step": result.step,
        "metrics": result.metrics,
        "evaluations": [message.step for message in told if message.type == "evaluated"],
        "sha256": result.weights_sha256,
        "sha256_of_killed": killed(folder / file / "killed", section, strategy) if file in KEEP_SOMETHING else None,
        "exported": Path(result.export or "").name,
        "loaded": type(model).__name__,
        "best": (run / "run/export/attempt-1/best.keras").is_file(),
    }


def killed(folder: Path, train: dict[str, Any], strategy: tf.distribute.Strategy) -> str:
    """The weights of a job that was killed, and went on from its last checkpoint."""
    try:
        one(folder, train, strategy, every=SAVED_EVERY, kill_at=KILLED_AT)
    except room.Killed:
        told = one(folder, train, strategy, number=2)
        return next(message.weights_sha256 for message in told if message.type == "result")
    raise AssertionError("it came to its end before it was killed")


def one(folder: Path, train: dict[str, Any], strategy: tf.distribute.Strategy, **options: Any) -> list[Any]:
    """One attempt to its end: what the process told."""
    keras.utils.clear_session()
    with room.attempt(folder, train, strategy, **options) as (training, channel):
        assert training.loop.run()
        training.finish()
        return channel.messages


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)
