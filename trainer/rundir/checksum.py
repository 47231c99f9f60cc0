"""CRC32C (Castagnoli) as GCS writes it: base64 of the four big-endian bytes."""

import base64
from collections.abc import Iterable

import google_crc32c
import numpy as np
from typing_extensions import Buffer


def crc32c(parts: Iterable[Buffer]) -> str:
    """The checksum of all `parts` in a row; nothing is copied. 8 characters: `AAAAAA==` for no bytes at all."""
    value = 0
    for part in parts:
        view = memoryview(part)
        if view.nbytes:
            # The C extension refuses memoryviews and bytearrays; a numpy view of the same bytes it takes.
            value = google_crc32c.extend(value, np.frombuffer(view.cast("B"), np.uint8))
    return base64.b64encode(value.to_bytes(4, "big")).decode("ascii")
