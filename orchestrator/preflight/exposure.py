"""What a job would show to whoever may read its objects: secrets written out in the job file. Pure."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from orchestrator.jobfile.spec import JobSpec
from orchestrator.preflight.check import Finding, ok, warning
from orchestrator.preflight.subject import JOB_CHECKS, Candidate

_SECRET_WORDS = {"TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "APIKEY", "CREDENTIAL", "CREDENTIALS"}
_KEY_WORDS = {"API", "ACCESS", "PRIVATE", "SECRET", "AUTH", "ENCRYPTION", "SIGNING"}
_FLAG = re.compile(r"--?([A-Za-z][A-Za-z0-9_-]*)(?:=(.*))?")
_REFERENCE = r"\$\(.*\)|\$\{.*\}|\$\w+"
_HARMLESS = re.compile(rf"/.*|[0-9.]+|true|false|yes|no|none|{_REFERENCE}|", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@", re.IGNORECASE)
_PLACEHOLDER = re.compile(rf"{_REFERENCE}|<.*>|\{{.*\}}|[*.x]+", re.IGNORECASE)


def secrets_by_reference(spec: JobSpec) -> Finding:
    """Whether anything in the job file looks like a secret's value: env, params, arguments and patches end up in objects that
    many may read, and in the run directory."""
    found = [f"env.{name}" for name, value in spec.env.items() if _is_secret(name, value)]
    found += _in_params(spec.train.params, "train.params")
    found += _in_command(spec.train.command or [], "train.command")
    found += _in_command(spec.train.args, "train.args")
    for field in ("pod", "job", "jobset"):
        found += _in_patch(getattr(spec.kubernetes, field), f"kubernetes.{field}")
    if not found:
        return ok("no value in the job file looks like a secret")
    return warning(
        f"{', '.join(found)}: looks like a secret, and would stand in the Job or the ConfigMap for all to read",
        "put it into a Secret (kubectl create secret generic NAME --from-literal=key=...), and name that in the job file: "
        "secrets: [{name: NAME, env: {VARIABLE: key}}]",
    )


@JOB_CHECKS.check(
    "secrets",
    80,
    what="env, params, arguments and patches: what looks like a secret's value, by its name or as a password in a URL",
    error_when="never: a warning",
)
def _secrets(on: Candidate) -> Finding:
    return secrets_by_reference(on.job.spec)


def looks_secret(name: str) -> bool:
    """Whether a variable of this name most often holds a secret: WANDB_API_KEY, db-password."""
    words = [word.upper() for word in re.split(r"[_\-.]|(?<=[a-z])(?=[A-Z])", name) if word]
    key = any(first in _KEY_WORDS and second == "KEY" for first, second in pairwise(words))
    return key or any(word in _SECRET_WORDS for word in words)


def _is_secret(name: str, value: str) -> bool:
    return (looks_secret(name) and not _is_harmless(value)) or has_password(value)


def _is_harmless(value: str) -> bool:
    """A path, a number, a switch, the name of another variable: not the secret itself."""
    return bool(_HARMLESS.fullmatch(value.strip()))


def has_password(value: str) -> bool:
    """Whether a URL in it names a password: postgres://user:password@host. $(DB_PASSWORD) in its place is none."""
    return any(not _PLACEHOLDER.fullmatch(password) for password in _PASSWORD_IN_URL.findall(value))


def _in_params(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and _is_secret(str(key), item):
                yield f"{where}.{key}"
            else:
                yield from _in_params(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _in_params(item, f"{where}[{index}]")
    elif isinstance(value, str) and has_password(value):
        yield where


def _in_command(command: list[str], where: str) -> Iterator[str]:
    for index, (argument, following) in enumerate(pairwise([*command, ""])):
        flag = _FLAG.fullmatch(argument)
        if flag and looks_secret(flag[1]) and not _is_harmless(flag[2] if flag[2] is not None else following):
            yield f"{where} {argument.partition('=')[0]}"
        elif has_password(argument):
            yield f"{where}[{index}]"


def _in_patch(value: Any, where: str) -> Iterator[str]:
    """Variables and arguments of containers, and URLs. Other fields only name secrets: secretName, secretKeyRef."""
    if isinstance(value, dict):
        name, text = value.get("name"), value.get("value")
        if isinstance(name, str) and isinstance(text, str) and _is_secret(name, text):
            yield f"{where} ({name})"
            return
        for key, item in value.items():
            if key in ("command", "args") and isinstance(item, list):
                yield from _in_command([str(word) for word in item], f"{where}.{key}")
            else:
                yield from _in_patch(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _in_patch(item, f"{where}[{index}]")
    elif isinstance(value, str) and has_password(value):
        yield where
