"""A small file system of its own, which a test may fill and make read-only. Needs the right to mount."""

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs of 4 MB. Made read-only it refuses while files are open for writing: mount it where none are kept open."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave no byte free."""
        with open(self.path / "ballast", "ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        """Undo fill."""
        (self.path / "ballast").unlink()

    def remount(self, mode: str) -> None:
        """`ro` or `rw`; waits for who is writing at this moment."""
        for _ in range(100):
            done = subprocess.run(["mount", "-o", f"remount,{mode}", self.path], capture_output=True, text=True)
            if done.returncode == 0:
                return
        raise OSError(errno.EBUSY, done.stderr)


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[SmallDisk]:
    """Mount one at `path`, and unmount it at the end. Skips the test where that is not permitted."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
