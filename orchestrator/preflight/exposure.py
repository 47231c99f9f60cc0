"""What a job would show to whoever may read its objects: secrets written out in the job file. Pure."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from orchestrator.preflight.check import Check, ok, warning
from orchestrator.spec import JobSpec

_SECRET_WORDS = {"TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "APIKEY", "CREDENTIAL", "CREDENTIALS"}
_KEY_WORDS = {"API", "ACCESS", "PRIVATE", "SECRET", "AUTH", "ENCRYPTION", "SIGNING"}
_FLAG = re.compile(r"--?([A-Za-z][A-Za-z0-9_-]*)(?:=(.*))?")
_HARMLESS = re.compile(r"/.*|[0-9.]+|true|false|yes|no|none|", re.IGNORECASE)


def secrets_by_reference(spec: JobSpec) -> Check:
    """Whether anything in the job file looks like a secret's value: env, params and arguments end up in objects that many
    may read, and in the run directory."""
    found = [f"env.{name}" for name, value in spec.env.items() if looks_secret(name) and not _is_harmless(value)]
    found += list(_in_params(spec.train.params, "train.params"))
    found += list(_in_command(spec.train.command or []))
    if not found:
        return ok("secrets", "no value in the job file looks like a secret")
    return warning(
        "secrets",
        f"{', '.join(found)}: looks like a secret, and would stand in the Job or the ConfigMap for all to read",
        "put it into a Secret (kubectl create secret generic NAME --from-literal=key=...), and name that in the job file: "
        "secrets: [{name: NAME, env: {VARIABLE: key}}]",
    )


def looks_secret(name: str) -> bool:
    """Whether a variable of this name most often holds a secret: WANDB_API_KEY, db-password."""
    words = [word.upper() for word in re.split(r"[_\-.]|(?<=[a-z])(?=[A-Z])", name) if word]
    key = any(first in _KEY_WORDS and second == "KEY" for first, second in pairwise(words))
    return key or any(word in _SECRET_WORDS for word in words)


def _is_harmless(value: str) -> bool:
    """A path, a number, a switch: not the secret itself."""
    return bool(_HARMLESS.fullmatch(value.strip()))


def _in_params(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and looks_secret(str(key)) and not _is_harmless(item):
                yield f"{where}.{key}"
            else:
                yield from _in_params(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _in_params(item, f"{where}[{index}]")


def _in_command(command: list[str]) -> Iterator[str]:
    for argument, following in pairwise([*command, ""]):
        flag = _FLAG.fullmatch(argument)
        if flag and looks_secret(flag[1]) and not _is_harmless(flag[2] if flag[2] is not None else following):
            yield f"train.command {argument.partition('=')[0]}"
