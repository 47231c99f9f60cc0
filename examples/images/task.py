"""Images of files: each folder in `folder` is a class. Read in parallel, each step the same images after any restart."""

import shutil
import uuid
from pathlib import Path

import keras
import tensorflow as tf

from trainer.data import Images, images
from trainer.task import Task
from trainer.tasks.digits import load_digits


def write(folder: Path) -> None:
    """Stands for a folder of your own: the digits that orch brings along, as PNG files. Another worker may write them too."""
    part = folder.with_name(f"{folder.name}-{uuid.uuid4().hex}")
    for number, (pixels, label) in enumerate(zip(*load_digits(), strict=True)):
        path = part / ("held_out" if number % 5 == 0 else "train") / str(label) / f"{number:04}.png"
        tf.io.write_file(str(path), tf.io.encode_png(tf.cast(pixels[..., None] * 255, tf.uint8)))
    part.rename(folder) if not folder.exists() else shutil.rmtree(part)


class Pictures(Task):
    def __init__(self, folder: str = "runs/digits-png") -> None:
        self.folder = Path(folder)
        if not self.folder.exists():
            write(self.folder)

    def model(self) -> keras.Model:
        conv, pool = keras.layers.Conv2D(16, 3, activation="relu"), keras.layers.MaxPooling2D()
        return keras.Sequential([keras.Input((16, 16, 1)), conv, pool, keras.layers.Flatten(), keras.layers.Dense(10)])

    def train_data(self) -> Images:
        return images(self.folder / "train", (16, 16), channels=1)

    def evaluation_data(self) -> Images:
        return images(self.folder / "held_out", (16, 16), channels=1)

    def loss(self) -> keras.losses.Loss:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
