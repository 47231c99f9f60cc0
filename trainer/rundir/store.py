"""Objects of a run directory by name, on a local path or in a GCS bucket: put-if-absent, get, list, delete.

Nothing here knows what the objects mean. Names are relative to the run directory, with `/` between parts. The stores
themselves are in local_store.py and gcs_store.py; open.py opens the one that a URL names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from typing_extensions import Buffer

Data = Buffer | Sequence[Buffer]
"""The bytes of an object: one buffer, or a list or tuple of buffers that are written one after the other."""


@dataclass(frozen=True)
class Entry:
    """One object as a listing shows it."""

    name: str
    size_bytes: int
    generation: int
    """Changes when the object does. GCS' own; on a local path the file's inode number and mtime folded into one."""
    crc32c: str | None
    """Base64 of the big-endian CRC32C as GCS gives it, or None where the store keeps none (a local path)."""
    written_ns: int = field(default=0, compare=False)
    """When it was written, since 1970, by the store's clock. For people: nothing is decided by it."""


class Store(Protocol):
    """A run directory. Every method raises StoreUnavailable, StoreDenied, or what its docstring names."""

    url: str
    """The run directory as the user wrote it: an absolute path, or gs://bucket/prefix."""

    def put_if_absent(self, name: str, data: Data) -> Entry:
        """Create the object whole or not at all. Raises ObjectExists when the name is taken, which after a lost
        acknowledgement may be by our own object."""

    def put(self, name: str, data: Data) -> Entry:
        """Create or replace the object. For what nothing is decided by: logs, metrics. At most once a second a name."""

    def get(self, name: str, *, generation: int | None = None) -> bytes:
        """The object's bytes, unverified: who must rely on them compares a checksum. Raises ObjectNotFound, also when
        the object is there in another generation than the one asked for."""

    def list(self, prefix: str) -> list[Entry]:
        """All objects whose names begin with `prefix`, in order of name. Strongly consistent."""

    def delete(self, name: str, *, generation: int | None = None) -> None:
        """Delete the object; one that is gone already, or is there in another generation, is no error."""


def check_name(name: str) -> str:
    """`name`, if it is a relative name that cannot leave the run directory.

    Raises:
        ValueError: it is empty or absolute, or has `.`, `..`, empty parts or control characters.
    """
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{name!r} is no object name: parts must not be empty, '.' or '..'")
    return _printable(name)


def check_prefix(prefix: str) -> str:
    """`prefix`, if it is the beginning of object names: "" , "attempts/", "attempts/1".

    Raises:
        ValueError: as check_name.
    """
    *folders, _ = prefix.split("/")
    if any(part in ("", ".", "..") for part in folders):
        raise ValueError(f"{prefix!r} is no prefix of object names")
    return _printable(prefix)


def buffers(data: Data) -> list[memoryview]:
    """The non-empty buffers of `data` as flat views of bytes; nothing is copied."""
    parts: Sequence[Any] = data if isinstance(data, list | tuple) else [data]
    views = [memoryview(part) for part in parts]
    return [view.cast("B") for view in views if view.nbytes]


def _printable(name: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise ValueError(f"{name!r} is no object name: it has control characters")
    return name
