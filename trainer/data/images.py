"""Images of files, as Examples: which files there are, listed once in an order that is the same everywhere, and their labels.

How a file becomes pixels is in image_pixels.py.
"""

import glob
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from trainer.data.examples import Examples
from trainer.data.image_pixels import decoded, fitted
from trainer.errors import ConfigError

log = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
METHODS = ("bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic")
_LAYOUT = (
    "Images belong into one folder for each class, as folder/cat/1.jpg and folder/dog/2.jpg; for any other layout give a list: "
    "images(paths, size, labels=numbers)."
)


class Images(Examples):
    """Images by number. `class_names`: the class folders in order; number i of a label is class_names[i]. Empty for a list."""

    def __init__(self, paths: list[str], load: Callable[[Any], Any], class_names: list[str]) -> None:
        super().__init__(len(paths), load, where=paths.__getitem__)
        self.class_names = class_names


def images(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    size: tuple[int, int],
    *,
    labels: Any = None,
    channels: int = 3,
    resize: str = "bilinear",
    antialias: bool = True,
    crop: bool = False,
) -> Images:
    """Examples (image, label), or images alone: image float32 [height, width, channels] in 0..1, label int32 scalar.

    JPEG, PNG, GIF, BMP and WebP (with TensorFlow 2.20 and later) are told by what the file holds, not by its name. JPEG pixels
    are those that PIL has. Transparency is dropped, and the colour beneath shows; a palette becomes its colours, CMYK becomes
    RGB, and 16 bits a channel are kept as a fraction. Grey becomes three equal channels, colours become grey by their luminance,
    and channels=4 adds an opaque one where there is none. An animation is an error. A rotation that a camera noted in the EXIF
    data is not applied: rotate such files beforehand (PIL.ImageOps.exif_transpose).

    Args:
        source: a folder of class folders, or a list of files; each local, or gs://. In a folder the classes are numbered by the
            order of their names, and the files follow by class and name. Hidden files are left out, others that are no images
            are left out with a warning. Two folders, for training and for evaluation, agree on the numbers where they have the
            same class folders: compare `class_names`.
        size: (height, width) in pixels.
        labels: of a list of files: a number or an array of one shape for each. Whole numbers become int32, others float32. None:
            images alone.
        channels: 1, 3 or 4.
        resize: a method of tf.image.resize.
        antialias: average over all pixels where an image becomes smaller, as PIL does; without, some are skipped.
        crop: cut the largest part of the right shape out of the middle, rather than stretch the image.

    Raises:
        ConfigError: no class folder, no image, labels that do not fit, a size or method that is none. A file that cannot be read
            is named when it is read.
    """
    height, width = _checked(size, channels, resize)
    numbers: np.ndarray | None
    if isinstance(source, str | os.PathLike):
        if labels is not None:
            raise ConfigError(
                "labels come with a list of files; those of a folder are its class folders", remedy=_LAYOUT
            )
        paths, numbers, class_names = _of_folder(os.fspath(source).rstrip("/") or "/")
    else:
        paths, class_names = [os.fspath(path) for path in source], []
        if not paths:
            raise ConfigError("the list of images is empty", remedy="Give at least one path.")
        numbers = None if labels is None else _numbers(labels, len(paths))

    def shape(raw: Any) -> Any:
        return fitted(raw, height, width, resize, antialias, crop)

    return Images(paths, _loader(paths, numbers, channels, (height, width), shape), class_names)


def _loader(
    paths: list[str], numbers: np.ndarray | None, channels: int, size: tuple[int, int], shape: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """From a number to an example. `shape`: brings a decoded image to its size."""
    import tensorflow as tf

    # Constants of the graph would be copied into it, with a limit of 2 GB.
    with tf.init_scope(), tf.device("CPU:0"):
        files = tf.constant(paths)
        wanted = None if numbers is None else tf.constant(numbers)

    def load(number: Any) -> Any:
        image = tf.ensure_shape(decoded(tf.io.read_file(files[number]), channels, shape), (*size, channels))
        return image if wanted is None else (image, wanted[number])

    return load


def _checked(size: Any, channels: int, resize: str) -> tuple[int, int]:
    if not (
        isinstance(size, Sequence) and len(size) == 2 and all(isinstance(n, int | np.integer) and n > 0 for n in size)
    ):
        raise ConfigError(f"size of images: {size!r}", remedy="Give (height, width) in pixels.")
    if channels not in (1, 3, 4):
        raise ConfigError(f"channels of images: {channels!r}", remedy="Give 1 (grey), 3 (RGB) or 4 (RGBA).")
    if resize not in METHODS:
        raise ConfigError(f"resize of images: {resize!r}", remedy=f"Give one of {', '.join(METHODS)}.")
    return int(size[0]), int(size[1])


def _numbers(labels: Any, count: int) -> np.ndarray:
    """Labels as int32 or float32, [count, ...]."""
    try:
        array = np.asarray(labels)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        remedy = "Numbers of texts: classes = sorted(set(labels)); labels = [classes.index(label) for label in labels]."
        raise ConfigError("labels of images are not numbers in an array or a list", remedy=remedy)
    if array.ndim == 0 or len(array) != count:
        found = len(array) if array.ndim else "one number"
        raise ConfigError(
            f"images: {count} paths, labels: {found}", remedy="Give one label for each path, in the same order."
        )
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.astype(np.int32).tolist() != array.tolist():
        raise ConfigError("labels of images: whole numbers of more than 32 bits", remedy="Number the classes from 0.")
    return array.astype(np.int32)


def _of_folder(folder: str) -> tuple[list[str], np.ndarray, list[str]]:
    """Files, their class numbers int32 [files], and the names of the classes."""
    found = _listed_remote(folder) if "://" in folder else _listed_local(folder)
    classes = sorted(name for name in found if not name.startswith("."))
    if not classes:
        raise ConfigError(f"no class folder in {folder}", remedy=_LAYOUT)
    paths: list[str] = []
    numbers: list[int] = []
    others: Counter[str] = Counter()
    for number, name in enumerate(classes):
        files = sorted(file for file in found[name] if file and not file.startswith("."))
        chosen = [file for file in files if file.lower().endswith(EXTENSIONS)]
        others.update(_extension(file) for file in files if not file.lower().endswith(EXTENSIONS))
        paths += [f"{folder.rstrip('/')}/{name}/{file}" for file in chosen]
        numbers += [number] * len(chosen)
    left_out = ", ".join(f"{count} {extension}" for extension, count in sorted(others.items()))
    if not paths:
        among = f"; there are {left_out}" if left_out else ""
        raise ConfigError(f"no image ({', '.join(EXTENSIONS)}) in the class folders of {folder}{among}", remedy=_LAYOUT)
    if left_out:
        log.warning("left out what is no image file folder=%s: %s", folder, left_out)
    if empty := sorted(set(classes) - {classes[number] for number in numbers}):
        log.warning("class folders without an image folder=%s: %s", folder, ", ".join(empty))
    return paths, np.array(numbers, np.int32), classes


def _extension(file: str) -> str:
    if file.endswith("/"):
        return "folders"
    return os.path.splitext(file)[1].lower() or "without an extension"


def _listed_local(folder: str) -> dict[str, list[str]]:
    """What lies in each class folder; names of folders end in a slash."""
    try:
        with os.scandir(folder) as entries:
            classes = [entry for entry in entries if entry.is_dir()]
        return {
            each.name: [f"{one.name}/" if one.is_dir() else one.name for one in os.scandir(each)] for each in classes
        }
    except OSError as error:
        remedy = (
            f"Correct the path; it is relative to {os.getcwd()}." if not os.path.isabs(folder) else "Correct the path."
        )
        raise ConfigError(f"images of {folder}: {error.strerror}", remedy=remedy) from error


def _listed_remote(folder: str) -> dict[str, list[str]]:
    """The same of a bucket. One listing of all objects: a question about each, as walk asks, takes minutes for 10,000."""
    import tensorflow as tf

    try:
        files = tf.io.gfile.glob(f"{glob.escape(folder)}/*/*")
    except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError) as error:
        raise ConfigError(
            f"images of {folder}: {error.message}", remedy="Correct the path, or who may read it."
        ) from error
    found: dict[str, list[str]] = {}
    for path in files:
        name, file = path.removeprefix(f"{folder}/").split("/", 1)
        found.setdefault(name, []).append(file)
    return found
