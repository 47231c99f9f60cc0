"""What making an image leaves in ~/.cache/orch: finished layers and what is known of base images, each under a key that says
all it was made from. Anything there may be deleted at any time.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.image.layers import ArchiveEntry, Layer, write_layer


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/orch, by default ~/.cache/orch."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "orch"


def key_of(*parts: str | bytes) -> str:
    """A key for what is made from these parts."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:32]


def cached_layer(name: str, key: str, make: Callable[[Path], Iterable[ArchiveEntry]]) -> Layer:
    """The layer of a key, made when there is none yet.

    Args:
        name: what it is, for people who look into the cache.
        make: given an empty folder to work in, says what goes in.
    """
    folder = cache_folder() / "layers"
    file, note = folder / f"{name}-{key}.tar.gz", folder / f"{name}-{key}.json"
    known = _read(note)
    if known is not None and file.is_file() and file.stat().st_size == known.get("size_bytes"):
        return Layer(**known | {"file": file})
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as scratch:
        work = Path(scratch, "work")
        work.mkdir()
        made = write_layer(make(work), Path(scratch, "layer"))
        # The note comes last: a layer without one, or of another size, does not count.
        os.replace(made.file, file)
        _write(note, asdict(made) | {"file": file.name})
    return Layer(file, made.digest, made.diff_id, made.size_bytes, made.unpacked_bytes)


def remembered(kind: str, key: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A small finding, kept under its key."""
    note = cache_folder() / kind / f"{key}.json"
    known = _read(note)
    if known is None:
        known = find()
        note.parent.mkdir(parents=True, exist_ok=True)
        _write(note, known)
    return known


def _read(note: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _write(note: Path, value: dict[str, Any]) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=note.parent, delete=False) as file:
        json.dump(value, file)
    shutil.move(file.name, note)
