"""The image that another one is made on: its manifest and configuration, and what must be known of the files in it.

Those are known from its layers, which are read once for each base and only as they stream by; the findings are remembered.
"""

import posixpath
import tarfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.image.cache import remembered
from orchestrator.image.name import Reference, parse_reference
from orchestrator.image.registry import PLATFORM, RegistryError, Repository, persistently, platform_of
from orchestrator.text import megabytes
from trainer.errors import ConfigError

DEFAULT_BASE = "python:3.11-slim"
PYTHON = "3.11"
PLATFORM_FLAG = f"--platform={PLATFORM}"
ENTRYPOINT = ["python", "-P", "-m", "trainer.agent"]
"""By this an image is known to hold the trainer: the project's Dockerfile and `orch package` both set it."""
_FILES = ("etc/passwd", "etc/group")
_FILE_MAX_BYTES = 1 << 20
_USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Base:
    """A base image, for one platform."""

    reference: Reference
    """By digest: of the index, where there is one."""
    layers: tuple[dict[str, Any], ...]
    """Their descriptors, with OCI's names of types."""
    config: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        """Of its layers, compressed."""
        return sum(layer["size"] for layer in self.layers)

    @property
    def has_trainer(self) -> bool:
        """Whether TensorFlow and the trainer are in it already."""
        return (self.config.get("config") or {}).get("Entrypoint") == ENTRYPOINT


@dataclass(frozen=True)
class BaseFiles:
    """What a base without the trainer has."""

    python: str
    """The interpreter: /usr/local/bin/python3.11."""
    passwd: str
    group: str


def read_base(name: str, *, insecure: Collection[str] = ()) -> Base:
    """Ask the registry for a base image.

    Raises:
        ConfigError: it is not for linux/amd64.
        RegistryError: what the registry says.
    """
    reference = parse_reference(name)
    with Repository(reference, insecure=insecure) as repository:
        top = manifest = repository.document(reference.target)
        if top.is_index:
            entries = {platform_of(entry): entry["digest"] for entry in top.content["manifests"]}
            if PLATFORM not in entries:
                raise _wrong_platform(name, list(entries))
            manifest = repository.document(entries[PLATFORM])
        config = repository.config(manifest)
    found = platform_of({"platform": config})
    if found != PLATFORM:
        raise _wrong_platform(name, [found])
    layers = tuple(
        {"mediaType": _oci_type(layer["mediaType"]), "digest": layer["digest"], "size": layer["size"]}
        for layer in manifest.content["layers"]
    )
    return Base(reference.at(top.digest), layers, config)


def read_files(base: Base, say: Callable[[str], None], *, insecure: Collection[str] = ()) -> BaseFiles:
    """Python and the users of a base.

    Raises:
        ConfigError: it has no Python 3.11.
        RegistryError: what the registry says.
    """

    def find() -> dict[str, Any]:
        say(f"reading {base.reference.name}, once: {megabytes(base.size_bytes)}")
        return persistently(lambda: _scan(base, insecure))

    found = remembered("bases", (base.reference.digest or "").replace(":", "-"), find)
    if not found.get("python"):
        raise ConfigError(
            f"image.base {base.reference} has no Python {PYTHON}",
            remedy=f"take one that has, such as {DEFAULT_BASE}; TensorFlow's versions of this orch are for that Python",
        )
    return BaseFiles(found["python"], found.get("etc/passwd", ""), found.get("etc/group", ""))


def _scan(base: Base, insecure: Collection[str]) -> dict[str, Any]:
    environment = (base.config.get("config") or {}).get("Env") or []
    path = next((item.removeprefix("PATH=") for item in environment if item.startswith("PATH=")), _USUAL_PATH)
    candidates = [posixpath.join(folder, f"python{PYTHON}").lstrip("/") for folder in path.split(":")]
    seen: set[str] = set()
    found: dict[str, Any] = {}
    with Repository(base.reference, insecure=insecure) as repository:
        for layer in base.layers:
            if not layer["mediaType"].endswith(("+gzip", ".tar")):
                raise ConfigError(
                    f"image.base {base.reference} has a layer that cannot be read: {layer['mediaType']}",
                    remedy="write a Dockerfile on it and name that: image.dockerfile",
                )
            try:
                stream: Any = _Stream(repository.blob(layer["digest"]))
                with tarfile.open(fileobj=stream, mode="r|*") as archive:
                    for item in archive:
                        name = posixpath.normpath(item.name).lstrip("/")
                        if name in candidates:
                            seen.add(name)
                        elif name in _FILES and item.isfile() and item.size < _FILE_MAX_BYTES:
                            content = archive.extractfile(item)
                            found[name] = content.read().decode("utf-8", "replace") if content else ""
                        elif posixpath.basename(name).startswith(".wh."):
                            gone = posixpath.join(posixpath.dirname(name), posixpath.basename(name)[4:])
                            seen.discard(gone)
            except tarfile.TarError as error:
                raise RegistryError(f"layer {layer['digest']} of {base.reference} cannot be read: {error}") from None
    python = next((candidate for candidate in candidates if candidate in seen), "")
    return found | {"python": f"/{python}" if python else ""}


class _Stream:
    """Parts of a blob as the file that tarfile wants."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (part := next(self._parts, b"")):
            self._rest += part
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def close(self) -> None:
        pass


def _oci_type(media_type: str) -> str:
    """OCI's name of a layer's type: the bytes are the same as under Docker's."""
    names = {
        "application/vnd.docker.image.rootfs.diff.tar.gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar.zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    }
    return names.get(media_type, media_type)


def _wrong_platform(name: str, found: list[str]) -> ConfigError:
    return ConfigError(
        f"image.base {name} is not for {PLATFORM}, but for {', '.join(found) or 'nothing'}",
        remedy=f"take one for {PLATFORM}, such as {DEFAULT_BASE}",
    )
