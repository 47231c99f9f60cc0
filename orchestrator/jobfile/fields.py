"""The kinds of values a job file has beyond numbers and text: names, sizes, paths, the run directory.

Each is an annotated type whose validator says what is allowed and, where it can, what was probably meant. Pure.
"""

import posixpath
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from orchestrator.kube.objects import quantity
from trainer.rundir.bucket import is_bucket

NAME_LENGTH_MAX = 40
"""Objects of a job are called NAME-config-<10 hex>, its pods NAME-w-0-9999 and NAME-0-abcde: with such a suffix each is
still a DNS label, which has at most 63 characters."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MEMORY = re.compile(r"[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?")
"""Of all quantities of Kubernetes, those that a person writes for a memory."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


@dataclass(frozen=True)
class Words:
    """What a kind of value is called in errors and in the documentation."""

    text: str


def suggest_name(text: str) -> str:
    """The nearest valid job name to any text; "job" when nothing of it is left."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"job-{name}"
    return name[:NAME_LENGTH_MAX].strip("-")


def _job_name(name: str) -> str:
    if len(name) > NAME_LENGTH_MAX:
        raise ValueError(
            f'"{name[:60]}" has {len(name)} characters; at most {NAME_LENGTH_MAX}, since the names of pods add to it'
        )
    if not _LABEL.fullmatch(name) or not name[0].isalpha():
        raise ValueError(
            f'"{name}" is no name Kubernetes takes: lower case letters, digits and hyphens, beginning with a letter '
            f'and ending with a letter or digit; for example "{suggest_name(name)}"'
        )
    return name


def _label(name: str) -> str:
    if len(name) > 63 or not _LABEL.fullmatch(name):
        raise ValueError(f'"{name}" is no name Kubernetes takes: at most 63 lower case letters, digits and hyphens')
    return name


def _subdomain(name: str) -> str:
    if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        raise ValueError(f'"{name}" is no name Kubernetes takes: lower case letters, digits, hyphens and dots')
    return name


def _env_name(name: str) -> str:
    if not _ENV.fullmatch(name):
        raise ValueError(
            f'"{name}" is no name of an environment variable: letters, digits and _, not beginning with a digit'
        )
    if name == "TF_CONFIG" or name.startswith("ORCH_"):
        raise ValueError(f"{name} is set by orch itself, for each attempt; choose another name")
    return name


def memory_bytes(text: str) -> int:
    """Bytes of a Kubernetes quantity: "4Gi" is 4 * 2**30, "512M" is 512 * 10**6, "1000" is 1000.

    Raises:
        ValueError: no quantity, or zero.
    """
    if not _MEMORY.fullmatch(text):
        slip = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgtp])(i?)(b?)", text.strip(), re.IGNORECASE)
        hint = f'; did you mean "{slip[1]}{slip[2].upper()}i"?' if slip else ""
        raise ValueError(f'"{text}" is no size; write a number and a unit, such as 512Mi, 4Gi or 1Ti{hint}')
    size = int(quantity(text))
    if size <= 0:
        raise ValueError(f'"{text}" is nothing; give a size above zero')
    return size


def _memory(text: str) -> str:
    memory_bytes(text)
    return text


def _absolute_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f'"{path}" is no absolute path; begin it with "/"')
    if ":" in path or posixpath.normpath(path) != (path.rstrip("/") or "/"):
        raise ValueError(f'"{path}" must be a plain absolute path, without "..", "//" or ":"')
    if posixpath.normpath(path) == "/":
        raise ValueError('"/" is the whole file system of the container; name a folder')
    return path.rstrip("/")


def _run_directory(directory: str) -> str:
    allowed = "gs://bucket/prefix, or an absolute path on a volume that all workers share"
    if is_bucket(directory):
        bucket, _, prefix = directory.removeprefix("gs://").partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f'"{directory}" names no valid bucket; write gs://bucket/prefix')
        if not prefix.strip("/"):
            raise ValueError(f'"{directory}" would fill the whole bucket; add a prefix: gs://{bucket}/NAME')
        if any(part in ("", ".", "..") for part in prefix.rstrip("/").split("/")) or not prefix.isprintable():
            raise ValueError(f'"{directory}" has an empty or dotted part; write gs://bucket/prefix')
        return directory.rstrip("/")
    scheme = _SCHEME.match(directory)
    if scheme and scheme[1] != "file":
        hint = '; did you mean "gs://"?' if scheme[1].lower() in ("gs", "gcs", "g", "google") else ""
        raise ValueError(f'"{directory}": "{scheme[1]}:" is no place orch can write to{hint or ";"} allowed: {allowed}')
    if directory.startswith("file://"):
        directory = directory.removeprefix("file://")
    if not directory.startswith("/"):
        raise ValueError(
            f'"{directory}" is a relative path, which is another place on every machine; allowed: {allowed}'
        )
    return _absolute_path(directory)


def _image(reference: str) -> str:
    if not reference or "://" in reference or re.search(r"\s", reference):
        raise ValueError(
            f'"{reference}" is no image; write repository/name:tag or repository/name@sha256:..., without http://'
        )
    return reference


def _repository(repository: str) -> str:
    _image(repository)
    if "@" in repository or ":" in repository.rpartition("/")[2]:
        raise ValueError(f'"{repository}" carries a tag; give the repository alone: orch adds the tag')
    return repository


JobName = Annotated[str, Words("a name"), AfterValidator(_job_name)]
LabelName = Annotated[str, Words("a name"), AfterValidator(_label)]
ObjectName = Annotated[str, Words("a name"), AfterValidator(_subdomain)]
EnvName = Annotated[str, AfterValidator(_env_name)]
Memory = Annotated[str, Words("a size such as 512Mi or 4Gi"), AfterValidator(_memory)]
AbsolutePath = Annotated[str, Words("an absolute path"), AfterValidator(_absolute_path)]
RunDirectory = Annotated[str, Words("gs://bucket/prefix or an absolute path"), AfterValidator(_run_directory)]
ImageReference = Annotated[str, Words("an image"), AfterValidator(_image)]
ImageRepository = Annotated[str, Words("an image without a tag"), AfterValidator(_repository)]
Text = Annotated[str, Field(min_length=1)]
