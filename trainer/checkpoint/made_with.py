"""What a checkpoint was made with, as far as the variables do not tell: the code of the task or script, its parameters, data,
optimizer.

Kept in every commit's host_state, and compared when its run directory is used again. Pure but for reading source files; free of
TensorFlow. process/fingerprint.py looks at data and optimizer.
"""

import ast
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint.code import installed, module_file, sources_of
from trainer.config import TrainSection
from trainer.rundir.attempts import Wire

KEY = "made_with"
"""Its place in host_state."""
MARK = "ORCH-MADE-WITH "
"""process/declare.py begins with it the line that agent/changed.py reads."""
_CHANGES_SHOWN = 6
_DIGEST_CHARS = 16


class DataMark(Wire):
    """What is compared of a task's data."""

    examples: int | None = None
    """Where the source knows."""
    shapes: list[str] = []
    """One array each, `float32[28, 28, 1]`, without the dimension that counts examples."""
    checksum: str = ""
    """Of all bytes where they are few, else of rows from all over; of a stream the first example's."""


class MadeWith(Wire):
    """All that is compared. What is empty or None is not known, and counts as equal."""

    task: str = ""
    params: dict[str, Any] = {}
    script: str = ""
    args: list[str] = []
    code: dict[str, str] = {}
    """Digests of the source file of the task or script, and of what it imports from its folder, by path."""
    train_data: DataMark | None = None
    evaluation_data: DataMark | None = None
    optimizer: dict[str, Any] = {}
    """Its configuration as the task makes it, before a checkpoint is restored; keys are dotted."""


def of_job(train: TrainSection, root: str | None) -> MadeWith:
    """What can be told without running the task or the script."""
    return MadeWith(
        task=train.task or "",
        params=train.params,
        script=train.script or "",
        args=train.args,
        code=code_of(train.script or train.task or "", Path(root or ".")),
    )


def of_host_state(host_state: Mapping[str, Any]) -> MadeWith | None:
    """From a commit; None where it is of a version that kept nothing, or nothing that can be read."""
    try:
        return MadeWith.model_validate(host_state[KEY])
    except (KeyError, ValueError):
        return None


def changes(then: MadeWith, now: MadeWith) -> list[str]:
    """What differs, one entry each: `train.params.units 16 -> 32`, `task.py has changed`."""
    found = []
    if (then.task, then.script) != (now.task, now.script):
        found.append(f"{_program(then)} -> {_program(now)}")
    found += [f"train.params.{line}" for line in _differences(then.params, now.params)]
    if then.args != now.args:
        found.append(f"train.args {_short(then.args)} -> {_short(now.args)}")
    if then.code and now.code and (then.task, then.script) == (now.task, now.script):
        files = [file for file in now.code if then.code.get(file) != now.code[file]]
        files += [file for file in then.code if file not in now.code]
        found += [f"{file} {_how(file, then.code, now.code)}" for file in files]
    found += _data("train_data", then.train_data, now.train_data)
    found += _data("evaluation_data", then.evaluation_data, now.evaluation_data)
    if then.optimizer and now.optimizer:
        found += [f"optimizer: {line}" for line in _differences(then.optimizer, now.optimizer)]
    if len(found) > _CHANGES_SHOWN:
        found = [*found[: _CHANGES_SHOWN - 1], f"and {len(found) - _CHANGES_SHOWN + 1} more"]
    return found


def code_of(program: str, root: Path) -> dict[str, str]:
    """Digests of the file of a task or of a script, and of the files that it imports from its folder or from `root`, and these
    in turn.

    Comments and layout do not count. Tasks that come with orch are not looked at: they change with its version.
    """
    root = root.resolve()
    source = program if program.endswith(".py") else program.rpartition(":")[0]
    if source.endswith(".py") or "/" in source:
        first = (root / source).resolve()
    else:
        found = module_file(source, [root]) or installed(source)
        if found is None or found.is_relative_to(Path(__file__).parents[1]):
            return {}
        first = found
    return {
        file.name: hashlib.sha256(ast.dump(file.tree).encode(errors="replace")).hexdigest()[:_DIGEST_CHARS]
        for file in sources_of(first, root)
    }


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration with dotted keys. Names that count what a process made before are left out."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("name", "build_config", "compile_config", "shared_object_id"):
            continue
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= flat(value, prefix if key == "config" else f"{name}.")
        else:
            found[name] = value if isinstance(value, int | float | str | bool | None) else repr(value)
    return found


def _program(made: MadeWith) -> str:
    return f"train.script {made.script}" if made.script else f"train.task {made.task}"


def _how(file: str, then: Mapping[str, str], now: Mapping[str, str]) -> str:
    if file not in then:
        return "is new"
    return "has changed" if file in now else "is no longer used"


def _data(what: str, then: DataMark | None, now: DataMark | None) -> list[str]:
    if then is None or now is None:
        return []
    if then.examples is not None and now.examples is not None and then.examples != now.examples:
        return [f"{what} has {now.examples} examples, and had {then.examples}"]
    if then.shapes != now.shapes:
        return [f"{what} is {', '.join(now.shapes)}, and was {', '.join(then.shapes)}"]
    if then.checksum and now.checksum and then.checksum != now.checksum:
        return [f"{what} holds other values"]
    return []


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    missing = "(not given)"
    return [
        f"{key} {_short(then.get(key, missing))} -> {_short(now.get(key, missing))}"
        for key in dict.fromkeys([*then, *now])
        if then.get(key, missing) != now.get(key, missing)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
