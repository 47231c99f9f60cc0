"""Which files of the user's folder go into an image: .dockerignore as Docker reads it, and what never goes.

Reads the folder, changes nothing. Secrets are told by their names and, where they are small, by what is in them; a rule of
.dockerignore cannot bring them back.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from trainer.errors import ConfigError

IGNORE_FILE = ".dockerignore"
_SHOWN = 5
_SECRET_SIZE_MAX_BYTES = 1 << 20

_SECRET_FILES = {
    "*.env": "environment variables, usually with secrets",
    ".env.*": "environment variables, usually with secrets",
    ".envrc": "environment variables, usually with secrets",
    "secrets.json": "secrets, by its name",
    "secrets.toml": "secrets, by its name",
    "secrets.y*ml": "secrets, by its name",
    "*.pem": "a key or certificate",
    "*.p12": "a key",
    "*.pfx": "a key",
    "*.jks": "keys",
    "*.ppk": "an SSH key",
    "id_rsa": "an SSH key",
    "id_dsa": "an SSH key",
    "id_ecdsa": "an SSH key",
    "id_ed25519": "an SSH key",
    "kubeconfig": "access to a cluster",
    "*.kubeconfig": "access to a cluster",
    ".netrc": "passwords",
    "_netrc": "passwords",
    ".pgpass": "passwords",
    ".pypirc": "passwords",
    ".npmrc": "passwords",
    ".git-credentials": "passwords",
    ".dockercfg": "passwords",
    ".boto": "a login to buckets",
    ".s3cfg": "a login to buckets",
    "kaggle.json": "a Kaggle login",
    "application_default_credentials.json": "a Google login",
}
_SECRET_FOLDERS = {
    ".aws": "an AWS login",
    ".azure": "an Azure login",
    ".config/gcloud": "a Google login",
    ".docker": "passwords",
    ".gnupg": "keys",
    ".kube": "access to a cluster",
    ".ssh": "SSH keys",
}
_HARMLESS = (
    ".env.example", ".env.sample", ".env.template", ".env.dist", "example.env", "sample.env", "template.env",
)  # fmt: skip
# Headers (of encrypted and PGP keys) and the key itself must follow: code may well mention the line alone.
_PRIVATE_KEY = re.compile(
    rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:\s|\\[nr])*"
    rb"(?:[A-Za-z-]+: [^\n\\]*(?:\n|(?:\\r)?\\n)(?:\s|\\[nr])*)*"
    rb"[A-Za-z0-9+/=]{40}"
)
_SECRETS_IN_JSON = {
    re.compile(rb'"private_key"\s*:\s*"[^"]'): "the key of a service account",
    re.compile(rb'"type"\s*:\s*"authorized_user"'): "a Google login",
    re.compile(rb'"auths"\s*:\s*\{.*?"(?:auth|password|identitytoken)"\s*:\s*"[^"]', re.DOTALL): "passwords",
}
_KUBECONFIG = re.compile(rb"""\bkind["']?\s*:\s*["']?Config\b""")

_NEVER_FOLDERS = (
    ".git", ".hg", ".svn", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox",
    ".ipynb_checkpoints",
)  # fmt: skip
_NEVER_FILES = (".git", "*.pyc", ".DS_Store", IGNORE_FILE)
"""A file .git stands in work trees and submodules."""


@dataclass(frozen=True)
class CodeFile:
    """A file, folder or symbolic link that goes into the image."""

    path: str
    """Relative to the folder, with slashes."""
    source: Path
    size_bytes: int = 0
    executable: bool = False
    folder: bool = False
    link: str | None = None
    """Where a symbolic link points to."""


@dataclass(frozen=True)
class CodeFiles:
    """What goes in, and what does not."""

    files: tuple[CodeFile, ...]
    """Sorted by path; a folder stands before what is in it."""
    secrets: tuple[str, ...]
    """`path (what it is)` of each secret that was left out."""
    left_out: tuple[str, ...]
    """Folders and files that never go in: .git, caches, virtual environments, run directories."""

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size_bytes for file in self.files)

    def largest(self, count: int) -> list[CodeFile]:
        """The largest files."""
        return sorted(self.files, key=lambda file: -file.size_bytes)[:count]

    def has(self, path: str) -> bool:
        """Whether a file of that path goes in."""
        return any(file.path == path and not file.folder for file in self.files)


class Ignore:
    """The patterns of a .dockerignore. The last one that fits a path, or a folder that it is in, decides."""

    def __init__(self, lines: Sequence[str]) -> None:
        # Docker's own Python library reads each pattern. Its walk over a folder misses exceptions that begin with **, and
        # takes upper and lower case for the same.
        from docker.utils.build import Pattern
        from docker.utils.fnmatch import fnmatchcase as fits_pattern

        self._fits_pattern: Any = fits_pattern

        stripped = [line.strip() for line in lines]
        patterns: list[Any] = [Pattern(line) for line in stripped if line and not line.startswith("#")]
        self._patterns = [pattern for pattern in patterns if pattern.dirs]
        self.has_exceptions = any(pattern.exclusion for pattern in self._patterns)

    def fits(self, path: str, above: Sequence[bool] = ()) -> tuple[bool, ...]:
        """Which patterns fit a path, given those that fit the folder it is in."""
        inherited = above or (False,) * len(self._patterns)
        return tuple(
            known or bool(self._fits_pattern(path, pattern.cleaned_pattern))
            for known, pattern in zip(inherited, self._patterns, strict=True)
        )

    def ignores(self, fits: Sequence[bool]) -> bool:
        """Whether a path is left out, by what `fits` said of it."""
        deciding = [pattern for pattern, fit in zip(self._patterns, fits, strict=True) if fit]
        return bool(deciding) and not deciding[-1].exclusion


def collect(folder: Path, *, leave_out: Sequence[Path] = ()) -> CodeFiles:
    """Walk a folder.

    Args:
        folder: whose contents become the image's code.
        leave_out: files or folders that never go in: the job file, ./runs.

    Raises:
        ConfigError: no such folder; symbolic links that lead out of it; names that are no UTF-8; what may not be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"image.build: there is no folder {folder}", remedy="it is relative to the job file's folder")
    walk = _Walk(folder, _ignore_of(folder), {path.resolve() for path in leave_out})
    files = sorted(walk.files(folder, "", ()), key=lambda file: PurePosixPath(file.path).parts)
    if walk.problems:
        more = len(walk.problems) - _SHOWN
        raise ConfigError(
            "\n".join([*walk.problems[:_SHOWN], *([f"... and {more} more"] if more > 0 else [])]),
            remedy=f"copy what is needed into {folder}, or list it in {folder / IGNORE_FILE}",
        )
    return CodeFiles(tuple(files), tuple(sorted(walk.secrets)), tuple(sorted(walk.left_out)))


def _ignore_of(folder: Path) -> Ignore:
    try:
        return Ignore((folder / IGNORE_FILE).read_text(encoding="utf-8-sig").splitlines())
    except FileNotFoundError:
        return Ignore([])
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{folder / IGNORE_FILE} cannot be read: {error}") from None


class _Walk:
    def __init__(self, root: Path, ignore: Ignore, leave_out: set[Path]) -> None:
        self._root = root.resolve()
        self._ignore = ignore
        self._leave_out = leave_out
        self.problems: list[str] = []
        self.secrets: list[str] = []
        self.left_out: list[str] = []

    def files(self, folder: Path, prefix: str, above: Sequence[bool]) -> Iterator[CodeFile]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append(f"{folder} cannot be read: {error.strerror}")
            return
        for entry in entries:
            path = prefix + entry.name
            fits = self._ignore.fits(path, above)
            ignored = self._ignore.ignores(fits)
            if entry.is_dir(follow_symlinks=False):
                yield from self._folder(entry, path, fits, ignored=ignored)
            elif not ignored:
                yield from self._file(entry, path)

    def _folder(
        self, entry: "os.DirEntry[str]", path: str, fits: Sequence[bool], *, ignored: bool
    ) -> Iterator[CodeFile]:
        if ignored and not self._ignore.has_exceptions:
            return
        source = Path(entry.path)
        if secret := next((why for name, why in _SECRET_FOLDERS.items() if f"/{path}".endswith(f"/{name}")), None):
            self.secrets.append(f"{path}/ ({secret})")
        elif entry.name in _NEVER_FOLDERS or source.resolve() in self._leave_out or _is_made_by_tools(source):
            self.left_out.append(f"{path}/")
        else:
            inside = list(self.files(source, f"{path}/", fits))
            if inside or not ignored:
                yield CodeFile(path, source, folder=True)
            yield from inside

    def _file(self, entry: "os.DirEntry[str]", path: str) -> Iterator[CodeFile]:
        source = Path(entry.path)
        if any(fnmatchcase(entry.name, pattern) for pattern in _NEVER_FILES) or source.resolve() in self._leave_out:
            return
        if not path.isprintable() or path.encode("utf-8", "surrogateescape") != path.encode("utf-8", "replace"):
            self.problems.append(f"{path!r}: the name is not printable UTF-8 text")
            return
        if entry.is_symlink():
            yield from self._link(source, path)
            return
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            self.left_out.append(f"{path} (no regular file)")
            return
        try:
            secret = _secret(entry.name, source, status.st_size)
        except OSError as error:
            self.problems.append(f"{source} cannot be read: {error.strerror}")
            return
        if secret:
            self.secrets.append(f"{path} ({secret})")
        else:
            yield CodeFile(path, source, status.st_size, executable=bool(status.st_mode & 0o111))

    def _link(self, source: Path, path: str) -> Iterator[CodeFile]:
        target = os.readlink(source)
        place = os.path.normpath(os.path.join(os.path.dirname(path), target))
        leads_out = os.path.isabs(target) or place == ".." or place.startswith("../")
        if leads_out or not source.resolve().is_relative_to(self._root):
            self.problems.append(
                f"{source} is a symbolic link to {target}, out of {self._root}: in the image it would dangle"
            )
            return
        yield CodeFile(path, source, link=target)


def _is_made_by_tools(folder: Path) -> bool:
    """A virtual environment, or a run directory of orch."""
    return (folder / "pyvenv.cfg").is_file() or (folder / "attempts" / "1.json").is_file()


def _secret(name: str, source: Path, size_bytes: int) -> str | None:
    """What secret a file is, if any."""
    lower = name.lower()
    if lower not in _HARMLESS:
        for pattern, why in _SECRET_FILES.items():
            if fnmatchcase(lower, pattern):
                return why
    if not 0 < size_bytes <= _SECRET_SIZE_MAX_BYTES:
        return None
    content = source.read_bytes()
    if _PRIVATE_KEY.search(content):
        return "it holds a private key"
    if lower.endswith(".json") or content.lstrip().startswith(b"{"):
        for within, why in _SECRETS_IN_JSON.items():
            if within.search(content):
                return why
    return "access to a cluster" if _is_kubeconfig(content) else None


def _is_kubeconfig(content: bytes) -> bool:
    if not _KUBECONFIG.search(content):
        return False
    import yaml

    try:
        parsed = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError):
        return False
    return isinstance(parsed, dict) and parsed.get("kind") == "Config" and bool(parsed.get("users"))
