"""Objects of a run directory by name, on a local path or in a GCS bucket: put-if-absent, get, list, delete.

Nothing here knows what the objects mean. Names are relative to the run directory, with `/` between parts.
"""

from dataclasses import dataclass
from typing import Protocol

from typing_extensions import Buffer


@dataclass(frozen=True)
class Entry:
    """One object as a listing shows it."""

    name: str
    size_bytes: int
    generation: int
    """GCS' generation; on a local path the file's inode number and mtime folded into one number. Changes when the object does."""
    crc32c: str | None
    """Base64 of the big-endian CRC32C as GCS gives it, or None where the store keeps none (a local path)."""


class Store(Protocol):
    """A run directory. Every method raises StoreUnavailable, StoreDenied, or what its docstring names."""

    url: str
    """The run directory as the user wrote it: an absolute path, or gs://bucket/prefix."""

    def put_if_absent(self, name: str, data: Buffer) -> Entry:
        """Create the object whole or not at all. Raises ObjectExists when the name is taken, which after a lost
        acknowledgement may be by our own object."""

    def put(self, name: str, data: Buffer) -> Entry:
        """Create or replace the object. For what nothing is decided by: logs, metrics. At most once a second a name."""

    def get(self, name: str, *, generation: int | None = None) -> bytes:
        """The object's bytes. Raises ObjectNotFound."""

    def list(self, prefix: str) -> list[Entry]:
        """All objects whose names begin with `prefix`, in order of name. Strongly consistent."""

    def delete(self, name: str, *, generation: int | None = None) -> None:
        """Delete the object; one that is gone already is no error."""


def open_store(url: str, *, timeout_s: float = 60.0) -> Store:
    """The store of a run directory: an absolute or relative path, file:///path, or gs://bucket/prefix.

    Raises:
        ConfigError: another scheme, a gs:// URL without a bucket.
    """
    raise NotImplementedError
