"""tf.summary as keras.callbacks.TensorBoard uses it, with event files that are known as this job's, so that a restart can
cut them back to what its checkpoint knew. Without the tensorboard package, which tf.summary asks for, too.
"""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

_BUCKETS = 30


class Summary:
    """Stands for the module tf.summary. What it lacks itself is TensorFlow's."""

    def __init__(self, mark: str) -> None:
        """`mark` ends the names of the event files."""
        self._mark = mark
        self._whole = importlib.util.find_spec("tensorboard") is not None

    def __getattr__(self, name: str) -> Any:
        return getattr(tf.summary, name)

    def create_file_writer(self, logdir: str) -> Any:
        """As TensorFlow's, with the mark."""
        return tf.summary.create_file_writer(logdir, filename_suffix=self._mark)

    def scalar(self, name: str, data: Any, step: Any = None) -> Any:
        """One number. As TensorFlow, of more than one it raises."""
        if self._whole:
            return tf.summary.scalar(name, data, step=step)
        value = tf.reshape(tf.cast(data, tf.float32), [])
        return tf.summary.write(name, value, step=step, metadata=_metadata("scalars"))

    def histogram(self, name: str, data: Any, step: Any = None) -> Any:
        """The values' distribution in 30 buckets."""
        if self._whole:
            return tf.summary.histogram(name, data, step=step)
        values = np.asarray(data, np.float64).ravel()
        counts, edges = np.histogram(values, _BUCKETS) if values.size else (np.zeros(0), np.zeros(1))
        buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
        return tf.summary.write(name, tf.constant(buckets), step=step, metadata=_metadata("histograms"))

    def image(self, name: str, data: Any, step: Any = None) -> Any:
        """Images float [batch, height, width, channels] in 0..1, three of them at most."""
        if self._whole:
            return tf.summary.image(name, data, step=step)
        pixels = tf.image.convert_image_dtype(data[:3], tf.uint8, saturate=True)
        encoded = [tf.io.encode_png(image) for image in tf.unstack(pixels)]
        size = [tf.as_string(pixels.shape[2]), tf.as_string(pixels.shape[1])]
        return tf.summary.write(name, tf.stack(size + encoded), step=step, metadata=_metadata("images"))


def mark_of(run: str) -> str:
    """What ends the names of a job's event files."""
    import hashlib

    return f".orch-{hashlib.blake2b(run.encode(), digest_size=6).hexdigest()}"


def sizes(folder: str, mark: str) -> dict[str, int]:
    """The job's event files below `folder`, by their path in it, in bytes."""
    found: dict[str, int] = {}
    for place, _, names in tf.io.gfile.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if name.endswith(mark):
                found[os.path.relpath(path, folder)] = tf.io.gfile.stat(path).length
    return found


def cut_back(folder: str, mark: str, known: Mapping[str, int]) -> None:
    """Cut the job's event files to the sizes of `known`; those that are not in it go."""
    for name, size_bytes in sizes(folder, mark).items():
        path = os.path.join(folder, name)
        if name not in known:
            tf.io.gfile.remove(path)
        elif known[name] < size_bytes:
            cut_file(path, known[name])


def cut_file(path: str, size_bytes: int) -> None:
    """Keep the first `size_bytes` of a file, here or in a bucket."""
    with tf.io.gfile.GFile(path, "rb") as file:
        data = file.read(size_bytes)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(data)


def _metadata(plugin: str) -> Any:
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    return metadata
