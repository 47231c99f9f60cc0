"""Layers of an image: a tar archive, compressed, that comes out the same wherever and whenever it is made.

Sorted names, one time stamp, owners and modes that do not depend on this machine. The compression is that of zlib at a
fixed level in blocks of fixed size, so the digest of a layer depends on its contents and on zlib's version alone.
"""

import hashlib
import io
import os
import struct
import tarfile
import zlib
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from orchestrator.image.files import CodeFile
from trainer.errors import ConfigError

TIME_S = 315532800
"""1980-01-01: the earliest that zip files, and so some Python tools, can write down."""
_BLOCK_BYTES = 4 << 20
_LEVEL = 6
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""gzip's, without a time or the name of an operating system."""


@dataclass(frozen=True)
class ArchiveEntry:
    """One file, folder or symbolic link of a layer."""

    path: str
    """Without a leading slash: opt/venv/pyvenv.cfg."""
    content: Path | bytes | None = None
    """Of a file: where it is, or its bytes. None: a folder."""
    link: str | None = None
    """Of a symbolic link: its target."""
    executable: bool = False
    owner: int = 0
    """User and group."""


@dataclass(frozen=True)
class Layer:
    """A layer as a file on this machine."""

    file: Path
    digest: str
    """Of the compressed bytes: its name in a registry."""
    diff_id: str
    """Of the archive inside: its name in the image's configuration."""
    size_bytes: int
    unpacked_bytes: int


def write_layer(entries: Iterable[ArchiveEntry], file: Path) -> Layer:
    """Write a layer.

    Raises:
        ConfigError: a file of the user's cannot be read, or changes while it is read.
    """
    ordered = sorted(entries, key=lambda entry: entry.path.split("/"))
    with file.open("wb") as out, _Gzip(out) as packed:
        stream: Any = packed
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:
            for entry in ordered:
                _add(archive, entry)
    return Layer(file, packed.digest, packed.diff_id, file.stat().st_size, packed.unpacked_bytes)


def tree_entries(root: Path, prefix: str) -> list[ArchiveEntry]:
    """All files and folders under `root`, at `prefix` in the image, owned by root. Symbolic links stay what they are."""
    entries = [ArchiveEntry(prefix)]
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            source = Path(folder, name)
            path = f"{prefix}/{source.relative_to(root).as_posix()}"
            if source.is_symlink():
                entries.append(ArchiveEntry(path, link=os.readlink(source)))
            elif source.is_dir():
                entries.append(ArchiveEntry(path))
            else:
                entries.append(ArchiveEntry(path, source, executable=bool(source.stat().st_mode & 0o100)))
    return entries


def code_entries(files: Iterable[CodeFile], prefix: str) -> list[ArchiveEntry]:
    """The user's files at `prefix` in the image, owned by root: the training process reads them and cannot change them."""
    entries = []
    for file in files:
        path = f"{prefix}/{file.path}"
        if file.folder:
            entries.append(ArchiveEntry(path))
        elif file.link is not None:
            entries.append(ArchiveEntry(path, link=file.link))
        else:
            entries.append(ArchiveEntry(path, file.source, executable=file.executable))
    return entries


def _add(archive: tarfile.TarFile, entry: ArchiveEntry) -> None:
    info = tarfile.TarInfo(entry.path)
    info.mtime, info.uid, info.gid = TIME_S, entry.owner, entry.owner
    if entry.link is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
        archive.addfile(info)
    elif entry.content is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(info)
    elif isinstance(entry.content, bytes):
        info.size, info.mode = len(entry.content), 0o755 if entry.executable else 0o644
        archive.addfile(info, io.BytesIO(entry.content))
    else:
        info.mode = 0o755 if entry.executable else 0o644
        try:
            with entry.content.open("rb") as content:
                info.size = os.fstat(content.fileno()).st_size
                archive.addfile(info, content)
        except OSError as error:
            why = error.strerror or "it changed while it was read"
            raise ConfigError(f"{entry.content} cannot be packed: {why}", remedy="try again") from None


class _Gzip:
    """A file of one gzip member, whose blocks are compressed by all cores at once, as pigz does."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)
        self._waiting: deque[Future[bytes]] = deque()
        self._block = bytearray()
        self._crc = 0
        self._packed, self._unpacked = hashlib.sha256(), hashlib.sha256()
        self.unpacked_bytes = 0

    def __enter__(self) -> "_Gzip":
        self._put(_HEADER)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._pool:
            if kind is not None:
                return
            self._flush_block()
            while self._waiting:
                self._put(self._waiting.popleft().result())
            self._put(zlib.compressobj(_LEVEL, zlib.DEFLATED, -15).flush())
            self._put(struct.pack("<II", self._crc, self.unpacked_bytes & 0xFFFFFFFF))

    @property
    def digest(self) -> str:
        return f"sha256:{self._packed.hexdigest()}"

    @property
    def diff_id(self) -> str:
        return f"sha256:{self._unpacked.hexdigest()}"

    def write(self, data: bytes) -> int:
        self._unpacked.update(data)
        self._crc = zlib.crc32(data, self._crc)
        self.unpacked_bytes += len(data)
        self._block += data
        while len(self._block) >= _BLOCK_BYTES:
            self._flush_block()
        return len(data)

    def _flush_block(self) -> None:
        block = bytes(self._block[:_BLOCK_BYTES])
        del self._block[:_BLOCK_BYTES]
        self._waiting.append(self._pool.submit(_compress, block))
        while len(self._waiting) > 2 * (os.cpu_count() or 1):
            self._put(self._waiting.popleft().result())

    def _put(self, data: bytes) -> None:
        self._packed.update(data)
        self._out.write(data)


def _compress(block: bytes) -> bytes:
    """A block that another one, or the empty last one, can follow."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
    return compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH)
