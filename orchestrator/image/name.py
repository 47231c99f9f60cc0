"""Names of images, read as Docker reads them: python:3.11-slim is docker.io/library/python:3.11-slim. Pure."""

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address

from trainer.errors import ConfigError

DOCKER_HUB = "docker.io"
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")


@dataclass(frozen=True)
class Reference:
    """An image, or a repository of images, by name."""

    registry: str
    """Host and port: docker.io, ghcr.io, 127.0.0.1:5000."""
    repository: str
    """library/python, acme/train/digits."""
    tag: str | None = None
    digest: str | None = None
    """sha256:..."""

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What the registry is asked for: the digest where there is one, else the tag, else latest."""
        return self.digest or self.tag or "latest"

    def at(self, digest: str) -> "Reference":
        """The same repository at a digest."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """`[registry/]repository[:tag][@digest]`.

    Raises:
        ConfigError: no name that a registry would take.
    """
    rest, _, digest = text.partition("@")
    first, slash, more = rest.partition("/")
    has_registry = bool(slash) and ("." in first or ":" in first or first == "localhost")
    registry, path = (first, more) if has_registry else (DOCKER_HUB, rest)
    path, colon, tag = path.partition(":")
    if registry in ("index.docker.io", "registry-1.docker.io"):
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if (
        not _HOST.fullmatch(registry)
        or not _REPOSITORY.fullmatch(path)
        or (colon and not _TAG.fullmatch(tag))
        or ("@" in text and not _DIGEST.fullmatch(digest))
    ):
        raise ConfigError(
            f'"{text}" is no name of an image',
            remedy="write [registry/]repository:tag or [registry/]repository@sha256:<64 hex digits>, in lower case",
        )
    return Reference(registry, path, tag or None, digest or None)


def is_loopback(registry: str) -> bool:
    """Whether a registry runs on this machine, where plain HTTP is no risk."""
    host = registry.rpartition(":")[0] if re.search(r":[0-9]+$", registry) else registry
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
