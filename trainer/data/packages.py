"""Packages that only some kinds of data need, imported where such data is read."""

import importlib
import os
from typing import Any

from trainer.errors import ConfigError


def needed(module: str, path: str | os.PathLike[str]) -> Any:
    """The module, to read the file `path` with.

    Raises:
        ConfigError: its package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"reading {os.fspath(path)} takes the package {package}, which is not installed",
            remedy=f"pip install {package}, here and in the image.",
        ) from error
