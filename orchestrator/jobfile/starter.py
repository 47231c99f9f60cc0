"""The job file, and the task or the script, that `orch init` writes: templates/, with the job's name filled in."""

import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path, PurePosixPath

from orchestrator.jobfile.fields import suggest_name
from trainer.errors import ConfigError

FILES = {"job.yaml": "job.yaml", "task.py": "task.py.txt"}
"""What is written, and its template: .txt, for it is the user's code and no module of ours."""
SCRIPT_FILES = {"job.yaml": "job-script.yaml", "train.py": "train.py.txt"}
"""The same for a script."""
_NAME_LINE = "name: job\n"
_SCRIPT = "script: train.py "
_QUOTED = re.compile(r"[^A-Za-z0-9_./-]")


def write_starter(folder: Path, *, script: str | None = None, force: bool = False) -> list[Path]:
    """Write FILES into a folder; their paths. The job is named after the folder.

    Args:
        script: instead, a job file for this script; one that is not there is written, too.

    Raises:
        ConfigError: a file exists already (unless `force`), or cannot be written; `script` is no Python file of the folder.
    """
    texts = {name: starter_text(name, folder.name) for name in FILES}
    if script is not None:
        texts = _for_script(folder, script)
    paths = [folder / name for name in texts]
    taken = [path.name for path in paths if os.path.lexists(path)]
    if taken and not force:
        verb = "exists" if len(taken) == 1 else "exist"
        raise ConfigError(
            f"{' and '.join(taken)} {verb} already", remedy="Use --force to overwrite, or another directory."
        )
    for path in paths:
        try:
            path.write_text(texts[str(path.relative_to(folder))], encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    return paths


def _for_script(folder: Path, script: str) -> dict[str, str]:
    if not script.endswith(".py") or PurePosixPath(script).is_absolute() or ".." in PurePosixPath(script).parts:
        raise ConfigError(
            f"{script} is no Python file of this folder", remedy="Name one as the job file would: train.py"
        )
    job = starter_text("job.yaml", folder.name, SCRIPT_FILES)
    assert _SCRIPT in job
    texts = {
        "job.yaml": job.replace(_SCRIPT, f"script: {json.dumps(script) if _QUOTED.search(script) else script} ", 1)
    }
    if not os.path.lexists(folder / script):
        texts[str(PurePosixPath(script))] = starter_text("train.py", folder.name, SCRIPT_FILES)
    return texts


def starter_text(name: str, folder_name: str, files: Mapping[str, str] = FILES) -> str:
    """The text of one of FILES for a folder of that name."""
    text = resources.files("orchestrator").joinpath("templates", files[name]).read_text(encoding="utf-8")
    if name == "job.yaml":
        assert _NAME_LINE in text
        text = text.replace(_NAME_LINE, f"name: {suggest_name(folder_name)}\n", 1)
    return text
