"""What XLA compiled, kept for the next training process of this agent.

A restart would compile it again: 2 s for an LSTM on an idle core, 20 s on busy ones. TensorFlow's persistent cache writes a file
aside and renames it, so that a process killed meanwhile leaves none that is half written; and the folder is gone with the
agent, so that nothing else can have damaged one. On CPUs alone: with GPUs it was not tried.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping

FREE_BYTES = 256 << 20
"""Where less is free, programs are not kept: a compiler that cannot write its file fails."""
_FOLDER, _FLAGS = "ORCH_COMPILED", "TF_XLA_FLAGS"
_CACHE = "--tf_xla_persistent_cache_"


def new_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for the life of an agent."""
    return tempfile.TemporaryDirectory(prefix="orch-compiled-", ignore_cleanup_errors=True)


def named(folder: str) -> dict[str, str]:
    """What goes into the environment of an agent's processes."""
    return {_FOLDER: folder}


def flags(environment: Mapping[str, str]) -> dict[str, str]:
    """What a training process needs in its environment, before it imports TensorFlow, to keep its programs, and to use those of
    the process before it. Nothing where the user has flags for that, or where space is short."""
    folder, others = environment.get(_FOLDER), environment.get(_FLAGS, "")
    if folder is None or _CACHE in others or any(character.isspace() for character in folder):
        return {}
    with contextlib.suppress(OSError):
        if os.path.isdir(folder) and shutil.disk_usage(folder).free >= FREE_BYTES:
            return {_FLAGS: f"{others} {_CACHE}directory={folder} {_CACHE}device_types=CPU".strip()}
    return {}
