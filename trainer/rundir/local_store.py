"""A run directory on a local path (or on a mounted volume): every object is a file.

An object appears whole or not at all: the bytes go into an unnamed file (O_TMPFILE) or one in RUN/tmp, are flushed, and
get their name by link(2), which fails when the name is taken. Emptied folders are removed; who creates makes them
again.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from trainer.errors import ObjectExists, ObjectNotFound, StoreDenied, StoreError, StoreUnavailable
from trainer.rundir.store import Data, Entry, buffers, check_name, check_prefix

# Lies beside the objects, and is none: temporary files, and the lock of `orch run`.
_NO_OBJECTS = ("tmp", "lock")
_WRITEV_BUFFERS = 512
_TRIES = 20
_T = TypeVar("_T")


class LocalStore:
    """Store of a directory, which is created with the first object."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.root = Path(path).expanduser().absolute()
        self.url = str(self.root)
        self._unnamed_files = hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd")

    def put_if_absent(self, name: str, data: Data) -> Entry:
        """See Store."""
        path = self.root / check_name(name)
        with self._errors("write", path):
            # Cheap, and saves a second writing of a large shard; link below is what decides.
            if os.path.lexists(path):
                # It may be ours, from a try that was killed or refused before this: who then relies on it must be able to.
                _sync_folder(path.parent)
                raise ObjectExists(f"{path} exists already")
            made = self._make_folder(path.parent)
            with self._temporary(path.parent) as (descriptor, source):
                self._write(descriptor, data)
                os.fsync(descriptor)
                self._link(source, path)
                entry = _entry(name, os.fstat(descriptor))
            for folder in dict.fromkeys([path.parent, *made]):
                _sync_folder(folder)
            return entry

    def put(self, name: str, data: Data) -> Entry:
        """See Store. Not flushed to the disk: nothing is decided by these objects, and a flush may take a second."""
        path = self.root / check_name(name)
        with self._errors("write", path):
            self._make_folder(path.parent)
            temporary, descriptor = self._named_temporary()
            try:
                with _closing(descriptor):
                    self._write(descriptor, data)
                    entry = _entry(name, os.fstat(descriptor))
                self._again_when_folder_vanishes(path.parent, lambda: os.replace(temporary, path))
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            return entry

    def get(self, name: str, *, generation: int | None = None) -> bytes:
        """See Store."""
        path = self.root / check_name(name)
        with self._errors("read", path):
            try:
                with open(path, "rb", buffering=0) as file:
                    if generation is not None and _entry(name, os.fstat(file.fileno())).generation != generation:
                        raise ObjectNotFound(f"{path} is not the file that was written: it was replaced")
                    return file.readall()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise ObjectNotFound(f"{path} does not exist") from None

    def list(self, prefix: str) -> list[Entry]:
        """See Store. RUN/tmp and RUN/lock are no objects."""
        folder, _, _ = check_prefix(prefix).rpartition("/")
        with self._errors("list", self.root / folder):
            names = self._walk(f"{folder}/" if folder else "", prefix)
            return sorted(names, key=lambda entry: entry.name)

    def delete(self, name: str, *, generation: int | None = None) -> None:
        """See Store."""
        path = self.root / check_name(name)
        with self._errors("delete", path):
            try:
                if generation is not None and _entry(name, os.stat(path)).generation != generation:
                    return
                os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                return
            for folder in path.parents:
                if folder == self.root:
                    return
                try:
                    os.rmdir(folder)
                except OSError:
                    return  # not empty, or another deleter was quicker

    def clear_temporary(self, older_than_s: float = 3600.0) -> None:
        """Remove what killed writers left in RUN/tmp: at once where their process is known to be gone, else when it is old."""
        limit = time.time() - older_than_s
        with contextlib.suppress(OSError):  # housekeeping: whatever is in the way, the next attempt tries again
            for item in os.scandir(self.root / "tmp"):
                old = item.stat(follow_symlinks=False).st_mtime < limit
                if item.is_file(follow_symlinks=False) and (old or _is_of_a_dead_process(item.name)):
                    os.unlink(item.path)

    @contextlib.contextmanager
    def _temporary(self, folder: Path) -> Iterator[tuple[int, str]]:
        """An open file without a place among the objects, and a path by which link(2) reaches it."""
        descriptor = self._open_unnamed(folder)
        if descriptor is not None:
            with _closing(descriptor):
                yield descriptor, f"/proc/self/fd/{descriptor}"
            return
        path, descriptor = self._named_temporary()
        try:
            with _closing(descriptor):
                yield descriptor, str(path)
        finally:
            path.unlink(missing_ok=True)

    def _open_unnamed(self, folder: Path) -> int | None:
        if not self._unnamed_files:
            return None

        def open_unnamed() -> int:
            return os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)

        try:
            return self._again_when_folder_vanishes(folder, open_unnamed)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            self._unnamed_files = False  # NFS and some overlays have none
            return None

    def _named_temporary(self) -> tuple[Path, int]:
        folder = self.root / "tmp"
        path = folder / f"{_pid_namespace()}.{os.getpid()}.{secrets.token_hex(12)}"

        def create() -> int:
            return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)

        self._make_folder(folder)
        return path, self._again_when_folder_vanishes(folder, create)

    def _link(self, source: str, path: Path) -> None:
        def link() -> None:
            # A directory descriptor makes Python call linkat with AT_SYMLINK_FOLLOW, which /proc/self/fd needs.
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with _closing(folder):
                os.link(source, path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)

        try:
            self._again_when_folder_vanishes(path.parent, link)
        except FileExistsError:
            raise ObjectExists(f"{path} exists already") from None
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise StoreDenied(
                    f"the file system of {self.root} has no hard links: {error.strerror}",
                    remedy="Use a local disk, NFS or a volume with POSIX semantics, or gs://bucket/prefix directly.",
                ) from None
            raise

    def _again_when_folder_vanishes(self, folder: Path, action: Callable[[], _T]) -> _T:
        """A deleter may remove an emptied folder between our making it and our using it: make it again."""
        for _ in range(_TRIES):
            try:
                return action()
            except FileNotFoundError:
                self._make_folder(folder)
        return action()

    def _make_folder(self, folder: Path) -> Sequence[Path]:
        """Create `folder` where missing; the folders whose content changed by that, for a flush."""
        missing = []
        at = folder
        while not at.exists():
            missing.append(at)
            at = at.parent
        if missing:
            for _ in range(_TRIES):
                with contextlib.suppress(FileNotFoundError):
                    os.makedirs(folder, exist_ok=True)
                    break
        return [path.parent for path in missing]

    @staticmethod
    def _write(descriptor: int, data: Data) -> None:
        parts = buffers(data)
        while parts:
            written = os.writev(descriptor, parts[:_WRITEV_BUFFERS])
            while parts and written >= parts[0].nbytes:
                written -= parts.pop(0).nbytes
            if written:
                parts[0] = parts[0][written:]

    def _walk(self, folder: str, prefix: str) -> Iterator[Entry]:
        try:
            items = list(os.scandir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for item in items:
            name = folder + item.name
            if name in _NO_OBJECTS:
                continue
            try:
                if item.is_dir():
                    if f"{name}/".startswith(prefix) or prefix.startswith(f"{name}/"):
                        yield from self._walk(f"{name}/", prefix)
                elif name.startswith(prefix):
                    yield _entry(name, item.stat())
            except FileNotFoundError:
                continue

    @contextlib.contextmanager
    def _errors(self, action: str, path: Path) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            raise self._as_store_error(action, path, error) from error

    def _as_store_error(self, action: str, path: Path, error: OSError) -> StoreError:
        message = f"cannot {action} {path}: {error.strerror or error}"
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                return StoreDenied(message, remedy=f"Free space on the file system of {self.root}, or raise the quota.")
            case errno.EACCES | errno.EPERM:
                return StoreDenied(message, remedy=f"Give uid {os.geteuid()} the right to {action} in {self.root}.")
            case errno.EROFS:
                return StoreDenied(message, remedy=f"{self.root} is mounted read-only; choose another run directory.")
            case errno.ENOTDIR | errno.EISDIR | errno.EEXIST | errno.ENAMETOOLONG | errno.ELOOP:
                return StoreDenied(message, remedy=f"Something else stands in the way there; look at {path.parent}.")
            case _:
                return StoreUnavailable(message)


def _entry(name: str, status: os.stat_result) -> Entry:
    # 56 bits, so that JSON readers with doubles or signed 64-bit numbers elsewhere lose little or nothing.
    identity = f"{status.st_ino}.{status.st_mtime_ns}".encode()
    generation = int.from_bytes(hashlib.blake2b(identity, digest_size=7).digest(), "big")
    return Entry(
        name=name, size_bytes=status.st_size, generation=generation, crc32c=None, written_ns=status.st_mtime_ns
    )


def _pid_namespace() -> str:
    """Where process ids mean what they mean here: this boot of this machine, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return "unknown"


def _is_of_a_dead_process(name: str) -> bool:
    namespace, _, rest = name.partition(".")
    pid = rest.partition(".")[0]
    if namespace == "unknown" or namespace != _pid_namespace() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _sync_folder(folder: Path) -> None:
    # A folder that an overlapping delete removed meanwhile needs no flush; some file systems know none (EINVAL).
    with contextlib.suppress(FileNotFoundError, PermissionError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with _closing(descriptor):
            try:
                os.fsync(descriptor)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EBADF):
                    raise


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)
