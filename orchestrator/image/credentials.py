"""Who the user is to a registry: what `docker login` or `podman login` left behind, credential helpers included.

Docker's own library reads these files and calls the helpers (as programs, without a shell). Nothing is stored here, and
nothing of a secret is printed: the password has no place in a repr.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.image.name import Reference
from trainer.errors import ConfigError


@dataclass(frozen=True)
class Credentials:
    """A user name and a password, or a token that is exchanged for shorter ones."""

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)


def credentials_for(reference: Reference) -> Credentials | None:
    """What to present to a reference's registry; None to go unnamed.

    Looked for in this order: $REGISTRY_AUTH_FILE (podman's), $DOCKER_CONFIG/config.json or ~/.docker/config.json with
    credHelpers and credsStore, podman's files in $XDG_RUNTIME_DIR and ~/.config.

    Raises:
        ConfigError: a file that cannot be read, or a helper that fails.
    """
    from docker.auth import load_config

    docker_config = Path(os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser() / "config.json"
    for path in (_podman_override(), docker_config, *_podman_files()):
        if path is None or not path.is_file():
            continue
        try:
            config: Any = load_config(str(path))
            found = _entry(config, reference)
        except Exception as error:
            # The text of a parser's error may quote the file, secrets and all; that of a helper is its own message.
            said = str(error)[:300] if "credentials store" in str(error).lower() else type(error).__name__
            raise ConfigError(
                f"the credentials for {reference.registry} cannot be read from {path}: {said}",
                remedy=f"log in again: docker login {reference.registry}",
            ) from None
        if found:
            return found
    return None


def _entry(config: Any, reference: Reference) -> Credentials | None:
    # podman logs in to parts of a registry, too: the longest path that fits is meant.
    parts = reference.name.split("/")
    keys = ["/".join(parts[:length]) for length in range(len(parts), 1, -1)]
    entry = next((config.auths[key] for key in keys if config.auths.get(key)), None)
    if entry is None:
        entry = config.resolve_authconfig(reference.registry) or {}
    values = {key.lower(): value for key, value in entry.items() if value}
    if "identitytoken" in values:
        return Credentials("", "", values["identitytoken"])
    if "username" in values and "password" in values:
        return Credentials(values["username"], values["password"])
    return None


def _podman_override() -> Path | None:
    given = os.environ.get("REGISTRY_AUTH_FILE")
    return Path(given).expanduser() if given else None


def _podman_files() -> list[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return ([Path(runtime) / "containers" / "auth.json"] if runtime else []) + [config / "containers" / "auth.json"]
