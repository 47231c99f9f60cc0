"""Files of records as examples by number: TFRecord and ArrayRecord.

The files of a folder or a glob make one row of records, in the byte order of their paths, whatever order they were named in: so
record numbers, and with them the order of training, are the same on every machine. How many there are is known at once.
"""

import glob
import os
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from trainer.data import tfrecord_file
from trainer.data.examples import Examples
from trainer.data.packages import needed
from trainer.errors import ConfigError

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Parse = Callable[[Any], Any]
T = TypeVar("T")

OPEN_MAX = 256
"""Files that are open at once; of those, the ones read last."""
_STREAM = "Mount or copy them, or return a stream: tf.data.TFRecordDataset."
_ONE_BY_ONE = "readahead_buffer_size:0,max_parallelism:0"
"""array_record's options for random access: without them a single read starts its thread pool, or reads 16 MB ahead."""


def tfrecords(paths: Paths, parse: Parse | None = None) -> Examples:
    """The records of TFRecord files.

    The headers of all records are read at once, about a million a second where the files are cached. The checksum of a record's
    data is verified when it is read.

    Args:
        paths: a local file, a folder (its files but those whose name begins with a dot), a glob, or several of these. Their order
            does not matter, and a file that is named twice counts once: records stand in the byte order of their files' paths.
        parse: a function of TensorFlow from a record (string scalar) to an example, such as one with
            tf.io.parse_single_example; default: the string itself.

    Raises:
        ConfigError: no file, no record; a file that is compressed, cut, damaged, or no TFRecord file. Its record is named, by
            its number in the file, from 0.
    """
    files = [_File.of(path) for path in _found(paths)]
    starts = [_made_of(file, tfrecord_file.index_of) for file in files]
    row = _Row(files, [len(each) - 1 for each in starts])
    return _examples(row, _TFRecordReader(row, starts), parse)


def arrayrecords(paths: Paths, parse: Parse | None = None) -> Examples:
    """The records of ArrayRecord files, by the package array_record.

    Files written with a group size of 1 are fast to read in random order: with a group size of n, n records are read for one.

    Args:
        paths: as of `tfrecords`.
        parse: as of `tfrecords`.

    Raises:
        ConfigError: no file, no record; a file that is cut or no ArrayRecord file; array_record is not installed.
    """
    files = [_File.of(path) for path in _found(paths)]
    row = _Row(files, [_made_of(file, _array_record_count) for file in files])
    return _examples(row, _ArrayRecordReader(row), parse)


@dataclass(frozen=True)
class _File:
    """A file as it was when its records were counted."""

    path: str
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: str) -> "_File":
        try:
            found = os.stat(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        return cls(path, found.st_size, found.st_mtime_ns)

    def verify(self) -> None:
        """Raises ConfigError where it is not the same any more: records would be other ones."""
        now = os.stat(self.path)
        if now.st_mtime_ns != self.modified_ns or now.st_size != self.size_bytes:
            raise ConfigError(
                f"{self.path} was changed after its records were counted: start anew with files that stay"
            )


class _Row:
    """The records of several files, numbered on."""

    def __init__(self, files: list[_File], counts: list[int]) -> None:
        self.files = files
        self._firsts = list(accumulate(counts, initial=0))
        self.count = self._firsts[-1]
        if not self.count:
            name = files[0].path if len(files) == 1 else f"the {len(files)} files from {files[0].path} on"
            raise ConfigError(f"no record in {name}", remedy="Was their writer closed? An unclosed one leaves nothing.")

    def place(self, number: int) -> tuple[int, int]:
        """The file, and the record's number in it."""
        if not 0 <= number < self.count:
            raise IndexError(f"record {number} of {self.count}")
        file = bisect_right(self._firsts, number) - 1
        return file, number - self._firsts[file]

    def where(self, number: int) -> str:
        """What a record is called."""
        file, record = self.place(number)
        return f"record {record} of {self.files[file].path}"


class _Reader(Protocol):
    def read(self, number: int) -> bytes:
        """The data of one record; called by several threads at once."""


class _TFRecordReader:
    """Reads by pread and not by mmap: where a file is cut or its volume is lost while it is read, touching mapped memory ends
    the process; and waiting for a disk within a system call leaves other threads of Python running."""

    def __init__(self, row: _Row, starts: list[np.ndarray]) -> None:
        self._row = row
        self._starts = starts
        self._open = lru_cache(OPEN_MAX)(lambda file: _Descriptor(row.files[file].path))

    def read(self, number: int) -> bytes:
        file, record = self._row.place(number)
        start, end = self._starts[file][record : record + 2].tolist()
        opened = self._open(file)
        self._row.files[file].verify()
        data_at = start + tfrecord_file.HEADER_BYTES
        found = os.pread(opened.number, end - data_at, data_at)
        data, checksum = found[: -tfrecord_file.CHECKSUM_BYTES], found[-tfrecord_file.CHECKSUM_BYTES :]
        if len(found) != end - data_at or not tfrecord_file.whole(data, checksum):
            raise ConfigError(f"{self._row.where(number)} has a wrong checksum of its data: it is damaged")
        return data


class _Descriptor:
    """An open file, closed when nothing holds it any more: a thread may be reading it when others push it out of the cache."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)


class _ArrayRecordReader:
    def __init__(self, row: _Row) -> None:
        self._row = row
        self._open = lru_cache(OPEN_MAX)(lambda file: _array_record_reader(row.files[file].path))

    def read(self, number: int) -> bytes:
        file, record = self._row.place(number)
        opened = self._open(file)
        self._row.files[file].verify()
        # A range of one: read([record]) goes through a thread pool, at 80 us instead of 5. Both may be called by several
        # threads at once, unlike seek and read.
        try:
            data: bytes = opened.read(record, record + 1)[0]
        except Exception as error:
            raise ConfigError(f"{self._row.where(number)} is damaged: {error}") from error
        return data


def _array_record_reader(path: str) -> Any:
    return needed("array_record.python.array_record_module", path).ArrayRecordReader(path, options=_ONE_BY_ONE)


def _array_record_count(path: str) -> int:
    reader = _array_record_reader(path)
    # A reader of a cut or missing file is made without an error, and has no records.
    if not reader.ok():
        raise ConfigError(
            f"{path} is no whole ArrayRecord file: its footer is not there",
            remedy="Its writer or its copying did not end: write or copy it anew, or leave it out.",
        )
    return int(reader.num_records())


def _examples(row: _Row, reader: _Reader, parse: Parse | None) -> Examples:
    def fetch(numbers: np.ndarray) -> np.ndarray:
        return np.array([reader.read(number) for number in numbers.tolist()], object)

    return Examples(row.count, parse or (lambda record: record), fetch=fetch, where=row.where)


def _made_of(file: _File, make: Callable[[str], T]) -> T:
    try:
        return make(file.path)
    except OSError as error:
        raise _unreadable(file.path, error) from error


def _found(paths: Paths) -> list[str]:
    """The files that are meant, each once, in the byte order of their paths."""
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not named:
        raise ConfigError("no file of records is named", remedy="Name a file, a folder, a glob, or several of these.")
    found = {path for name in named for path in _files_of(os.fspath(name))}
    return sorted(found, key=os.fsencode)


def _files_of(name: str) -> list[str]:
    if "://" in name:
        raise ConfigError(f"{name} is not on a local disk, where records can be read by number", remedy=_STREAM)
    if os.path.isdir(name):
        try:
            found = [str(path) for path in Path(name).iterdir() if path.is_file() and not path.name.startswith(".")]
        except OSError as error:
            raise _unreadable(name, error) from error
    elif os.path.exists(name) or not glob.has_magic(name):
        return [str(Path(name))]
    else:
        found = [path for path in glob.glob(name, recursive=True) if os.path.isfile(path)]
    if not found:
        raise ConfigError(f"no file of records at {name}", remedy="Look whether the path is right, and mounted.")
    return [str(Path(path)) for path in found]


def _unreadable(path: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path} cannot be read: {error.strerror or error}", remedy="Look whether the path is right, and mounted."
    )
