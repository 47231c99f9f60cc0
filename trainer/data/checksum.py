"""Checksums of data, by which workers find out that they were given different ones."""

from typing import Any

import google_crc32c
import numpy as np

from trainer.data.kinds import Batch

LABEL_BITS = 20
"""So few that a collective adds their squares up exactly in float64, of 4,096 workers."""


def label_checksum(batch: Batch, before: int = 0) -> int:
    """Of what a batch holds besides its inputs, or of all where there is nothing besides; less than 2 ** LABEL_BITS.

    Augmentation may give every worker other inputs, of which each uses its own part. Labels and weights are used whole, beside
    the outputs for all parts.

    Args:
        before: the checksum of batches before this one.
    """
    import keras

    beside = batch[1:] if isinstance(batch, tuple) else ()
    leaves = [leaf for leaf in keras.tree.flatten(beside) if leaf is not None] or keras.tree.flatten(batch)
    value = before
    for leaf in leaves:
        value = google_crc32c.extend(value, np.frombuffer(bytes_of(array_of(leaf)), np.uint8))
    return value % (1 << LABEL_BITS)


def array_of(leaf: Any) -> np.ndarray:
    """The values of a leaf; a sparse one as a row of its places and values, a ragged one as text."""
    if isinstance(leaf, np.ndarray):
        return leaf
    if hasattr(leaf, "indices") and hasattr(leaf, "values"):
        return np.concatenate([np.asarray(part).astype(np.float64).ravel() for part in (leaf.indices, leaf.values)])
    return np.array([repr(leaf.to_list())]) if hasattr(leaf, "to_list") else np.asarray(leaf)


def bytes_of(array: np.ndarray) -> bytes | memoryview:
    """Of numbers their own; of texts and objects what is printed of the first 100,000."""
    if array.dtype.hasobject or array.dtype.kind in "OSU":
        return repr(array.tolist() if array.size <= 100_000 else array.ravel()[:100_000].tolist()).encode(
            errors="replace"
        )
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
