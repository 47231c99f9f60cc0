"""The format of a TFRecord file: where its records stand, and whether what stands there is whole.

A record is its length (8 bytes, little-endian), the masked CRC32C of those 8 bytes, the data, and the masked CRC32C of the data.
There is no count and no table: the headers lead from one record to the next. TensorFlow takes a file that ends within a header
for one that ends before it, in silence; here that is an error.
See https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.
"""

import mmap
import os
import struct
from functools import cache
from typing import NoReturn

import google_crc32c
import numpy as np

from trainer.errors import ConfigError

HEADER_BYTES = 12
CHECKSUM_BYTES = 4
_FRAME_BYTES = HEADER_BYTES + CHECKSUM_BYTES
_HEADER = struct.Struct("<QI")
_CHECKED_AT_ONCE = 1 << 16
"""Headers between two checks: a wrong length leads into what is no header, and a long row of zeros never ends."""
_MASK_DELTA = 0xA282EAD8
_ZLIB = tuple(bytes([0x78, level]) for level in (0x01, 0x5E, 0x9C, 0xDA))
_GZIP = b"\x1f\x8b\x08"
_ARRAY_RECORD = bytes.fromhex("83af70d10d884a3f")
"""A Riegeli file's first block header, of which this is the hash: its beginning is always the same."""


def index_of(path: str) -> np.ndarray:
    """Where the records of a file begin, and where the last one ends: int64 [records + 1], in bytes.

    Only headers are read, and the checksums of the lengths in them verified; the data is not.

    Raises:
        ConfigError: the file is compressed, is no TFRecord file, is cut, or has a wrong length.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return np.zeros(1, np.int64)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _index(path, content)


def whole(data: bytes, checksum: bytes) -> bool:
    """Whether `checksum`, as 4 bytes of the file, is that of the data."""
    value = int(google_crc32c.value(data))
    return int.from_bytes(checksum, "little") == ((value >> 15 | value << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _index(path: str, content: mmap.mmap) -> np.ndarray:
    header, size = _HEADER.unpack_from, len(content)
    parts = [np.zeros(1, np.int64)]
    at = count = 0
    while at < size:
        start = at
        lengths: list[int] = []
        checksums: list[int] = []
        for _ in range(_CHECKED_AT_ONCE):
            if at > size - HEADER_BYTES:
                break
            length, checksum = header(content, at)
            lengths.append(length)
            checksums.append(checksum)
            at += length + _FRAME_BYTES
        if not lengths:
            raise _cut(path, count, f"its header, of which {size - at} of {HEADER_BYTES} bytes are there", content)
        words = np.array(lengths, np.uint64)
        right = _masked_checksums(words) == np.array(checksums, np.uint32)
        if not right.all():
            _raise_wrong_length(path, count + int(right.argmin()), content)
        count += len(lengths)
        if at > size:
            begin = at - lengths[-1] - _FRAME_BYTES
            there = f"{size - begin - HEADER_BYTES} of {lengths[-1] + CHECKSUM_BYTES} bytes after its header"
            raise _cut(path, count - 1, f"its data, of which {there} are there", content)
        parts.append(start + np.cumsum(words.astype(np.int64) + _FRAME_BYTES))
    return np.concatenate(parts)


def _masked_checksums(words: np.ndarray) -> np.ndarray:
    """Those of uint64 [n], as they stand in a file: uint32 [n]."""
    octets = words.astype("<u8").view(np.uint8).reshape(-1, 8)
    values = np.full(len(words), google_crc32c.value(bytes(8)), np.uint32)
    for table, column in zip(_tables(), octets.T, strict=True):
        values ^= table[column]
    return (values >> np.uint32(15) | values << np.uint32(17)) + np.uint32(_MASK_DELTA)


@cache
def _tables() -> np.ndarray:
    """What each value of each byte of a word changes in the checksum of zeros: uint32 [8, 256]. A CRC is the exclusive or of
    such changes."""
    zeros = google_crc32c.value(bytes(8))
    changes = [
        [google_crc32c.value((value << 8 * place).to_bytes(8, "little")) for value in range(256)] for place in range(8)
    ]
    return np.array(changes, np.uint32) ^ np.uint32(zeros)


def _cut(path: str, record: int, within: str, content: mmap.mmap) -> ConfigError:
    if not record:
        _raise_if_compressed(path, content)
    return ConfigError(
        f"record {record} of {path} is cut within {within}: its writer or its copying did not end",
        remedy=_again(record),
    )


def _raise_wrong_length(path: str, record: int, content: mmap.mmap) -> NoReturn:
    if record:
        raise ConfigError(
            f"record {record} of {path} has a wrong checksum of its length: the file is damaged from there on",
            remedy=_again(record),
        )
    _raise_if_compressed(path, content)
    if content[:8] == _ARRAY_RECORD:
        raise ConfigError(f"{path} is an ArrayRecord file", remedy="Read it with arrayrecords.")
    raise ConfigError(
        f"record 0 of {path} has a wrong checksum of its length: it is no TFRecord file, or damaged at its beginning",
        remedy="Name only the TFRecord files of a folder, by a glob such as data/*.tfrecord, or write it anew.",
    )


def _again(whole_records: int) -> str:
    kept = f" The {whole_records} records before it are whole." if whole_records else ""
    return f"Write or copy the file anew, or leave it out.{kept}"


def _raise_if_compressed(path: str, content: mmap.mmap) -> None:
    """Asked only where the first header is wrong: the length of a sound one may look like a magic number."""
    if content[:3] == _GZIP or content[:2] in _ZLIB:
        kind = "gzip" if content[:3] == _GZIP else "zlib"
        raise ConfigError(
            f"{path} is compressed by {kind}: no record of it can be read without those before it",
            remedy=f"Uncompress it{' with gunzip' if kind == 'gzip' else ''}, or return a stream: "
            f'tf.data.TFRecordDataset(paths, compression_type="{kind.upper()}").',
        )
