"""A small file system of its own for a folder of a job, which chaos fills. Needs the right to mount."""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

SIZE_MB = 64
FILES = 4096


class Disk:
    """A tmpfs at `path`. Full means full of bytes and of files: an empty file finds no room either."""

    def __init__(self, path: Path) -> None:
        """Raises: OSError: it cannot be mounted here."""
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        options = f"size={SIZE_MB}m,nr_inodes={FILES}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"a file system cannot be mounted at {path}: {done.stderr.strip()}")

    @classmethod
    def permitted(cls) -> bool:
        """Whether this user may mount one on this machine."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                cls(Path(folder)).close()
            except OSError:
                return False
        return True

    def fill(self) -> None:
        """Leave no byte and no file free."""
        folder = self.path / ".ballast"
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(OSError), open(folder / "bytes", "wb") as file:
            status = os.statvfs(self.path)
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize)
        with contextlib.suppress(OSError):
            for number in range(FILES):
                (folder / str(number)).touch(exist_ok=False)

    def free(self) -> None:
        """Undo fill."""
        folder = self.path / ".ballast"
        for path in sorted(folder.glob("*")):
            path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()

    def close(self) -> None:
        """Unmount it, with all that it holds."""
        subprocess.run(["umount", "--lazy", self.path], check=False, capture_output=True)
