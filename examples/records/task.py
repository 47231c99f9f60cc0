"""Records as training data. Any of them is read alone: each epoch has its own order over all of them, without a shuffle buffer;
a restart reads nothing again; and each worker reads its own part only. Files of one's own need `tfrecords` and a `parse`.
"""

import os
import tempfile
from contextlib import suppress

import tensorflow as tf

from trainer.data.examples import Examples
from trainer.data.records import tfrecords
from trainer.tasks.digits import Digits

FILE = os.path.join(tempfile.gettempdir(), "orch-digits.tfrecord")


class RecordedDigits(Digits):
    """Which digit is it? A record holds 64 bytes of pixels, 0 to 16, and one of the label."""

    def train_data(self) -> Examples:
        if not os.path.exists(FILE):
            write(FILE, *super().train_data())
        return tfrecords(FILE, parse)


def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A record as an example: an image float32 [8, 8] in 0..1, and its label int32 []."""
    numbers = tf.ensure_shape(tf.io.decode_raw(record, tf.uint8), [65])
    return tf.cast(tf.reshape(numbers[:64], [8, 8]), tf.float32) / 16, tf.cast(numbers[64], tf.int32)


def write(path: str, images, labels) -> None:
    """The file appears whole, and a worker beside this one may have been first: it stays as it is then."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        with tf.io.TFRecordWriter(f"{folder}/records") as writer:
            for image, label in zip(images, labels, strict=True):
                writer.write((image * 16).astype("uint8").tobytes() + bytes([label]))
        with suppress(FileExistsError):
            os.link(f"{folder}/records", path)
