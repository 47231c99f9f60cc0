"""The job file and the task that `orch init` writes: templates/, with the job's name filled in."""

import os
from importlib import resources
from pathlib import Path

from orchestrator.jobfile.fields import suggest_name
from trainer.errors import ConfigError

FILES = {"job.yaml": "job.yaml", "task.py": "task.py.txt"}
"""What is written, and its template: .txt, for it is the user's code and no module of ours."""
_NAME_LINE = "name: job\n"


def write_starter(folder: Path, *, force: bool = False) -> list[Path]:
    """Write FILES into a folder; their paths. The job is named after the folder.

    Raises:
        ConfigError: a file exists already (unless `force`), or cannot be written.
    """
    paths = [folder / name for name in FILES]
    taken = [path.name for path in paths if os.path.lexists(path)]
    if taken and not force:
        verb = "exists" if len(taken) == 1 else "exist"
        raise ConfigError(
            f"{' and '.join(taken)} {verb} already", remedy="Use --force to overwrite, or another directory."
        )
    for path in paths:
        try:
            path.write_text(starter_text(path.name, folder.name), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    return paths


def starter_text(name: str, folder_name: str) -> str:
    """The text of one of FILES for a folder of that name."""
    text = resources.files("orchestrator").joinpath("templates", FILES[name]).read_text(encoding="utf-8")
    if name == "job.yaml":
        assert _NAME_LINE in text
        text = text.replace(_NAME_LINE, f"name: {suggest_name(folder_name)}\n", 1)
    return text
