"""The pixels of an image file, decoded and brought to one size by TensorFlow's own operations.

What may not reach a decoder is in image_headers.py.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.data import image_headers


def decoded(contents: Any, channels: int, fit: Callable[[Any], Any]) -> Any:
    """The image of a file's bytes, through `fit`: float32 [height, width, channels] in 0..1."""
    import tensorflow as tf

    def jpeg() -> Any:
        # Without it, pixels differ from PIL's by a level on average.
        native = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
        if channels == 1:  # by way of colours, since the decoder itself makes no grey of CMYK
            native = tf.image.rgb_to_grayscale(native)
        if channels == 4:
            native = tf.concat(
                [native, tf.fill([*tf.unstack(tf.shape(native)[:2]), 1], tf.constant(255, tf.uint8))], axis=-1
            )
        return fit(native)

    def other() -> Any:
        form = tf.numpy_function(_form_of, [contents], tf.int32)
        image = tf.cond(form == int(image_headers.ImageForm.WEBP), lambda: _webp(contents), lambda: _any(contents))
        image = _with_channels(image, channels)
        image.set_shape((None, None, channels))
        return fit(image)

    # These are all bytes of a JPEG that Python could know; the file stays in C++.
    return tf.cond(tf.strings.substr(contents, 0, len(image_headers.JPEG)) == image_headers.JPEG, jpeg, other)


def _form_of(contents: bytes) -> np.int32:
    return np.int32(image_headers.form_of(contents))


def _webp(contents: Any) -> Any:
    import tensorflow as tf

    if not hasattr(tf.io, "decode_webp"):
        why = f"TensorFlow {tf.__version__} reads no WebP; make it a PNG or a JPEG"
        return tf.numpy_function(lambda: _refuse(why), [], tf.float32)
    # One frame, of however many: form_of let none pass that has more.
    return tf.cast(tf.io.decode_webp(contents), tf.float32)[0] / 255


def _refuse(why: str) -> np.ndarray:
    raise ValueError(why)


def _any(contents: Any) -> Any:
    """A PNG, GIF or BMP. As float32, PNG is decoded with 16 bits; as uint8 the lower ones of a file that has them were lost."""
    import tensorflow as tf

    return tf.io.decode_image(contents, dtype=tf.float32, expand_animations=False)


def _with_channels(image: Any, channels: int) -> Any:
    """An image of 1 to 4 channels (grey, grey and alpha, RGB, RGBA) with 1, 3 or 4. Decoders themselves do that for PNG only."""
    import tensorflow as tf

    found = tf.shape(image)[2]
    grey = found < 3
    if channels == 1:
        return tf.cond(grey, lambda: image[..., :1], lambda: tf.image.rgb_to_grayscale(image[..., :3]))
    colours = tf.cond(grey, lambda: tf.repeat(image[..., :1], 3, axis=2), lambda: image[..., :3])
    if channels == 3:
        return colours
    alpha = tf.cond(found % 2 == 0, lambda: image[..., -1:], lambda: tf.ones_like(image[..., :1]))
    return tf.concat([colours, alpha], axis=2)


def fitted(image: Any, height: int, width: int, method: str, antialias: bool, crop: bool) -> Any:
    """float32 [height, width, channels] in 0..1, of uint8 or of float32 in 0..1."""
    import tensorflow as tf

    scale = 255.0 if image.dtype == tf.uint8 else 1.0
    if crop:
        image = _middle(image, height, width)
    image = tf.image.resize(image, (height, width), method=method, antialias=antialias)
    # Cubic and Lanczos methods overshoot at edges.
    return tf.clip_by_value(tf.cast(image, tf.float32) / scale, 0.0, 1.0)


def _middle(image: Any, height: int, width: int) -> Any:
    """The largest part of the shape height to width, from the middle."""
    import tensorflow as tf

    has = tf.cast(tf.shape(image)[:2], tf.int64)
    tall = tf.clip_by_value(has[1] * height // width, 1, has[0])
    wide = tf.clip_by_value(has[0] * width // height, 1, has[1])
    top, left = (has[0] - tall) // 2, (has[1] - wide) // 2
    return image[top : top + tall, left : left + wide]
