"""Packaging: the job file's folder becomes an image that workers can run, named by digest.

Without a builder the user's code, and where the base has not got them `trainer` and TensorFlow, are appended to the base as
layers, and only those that the registry lacks are sent. With a Dockerfile of the user's, docker, podman or buildah builds.
What is decided here is pure: `plan`, `assemble`, `layout`; the layers are made in parts.py and pushed by `push`.
"""

import json
import os
import posixpath
import tempfile
import time
from collections.abc import Callable, Collection
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.image import parts as imageparts
from orchestrator.image.base import DEFAULT_BASE, ENTRYPOINT, Base, read_base, read_files
from orchestrator.image.builders import build
from orchestrator.image.files import CodeFiles, collect
from orchestrator.image.layers import ArchiveEntry, code_entries, write_layer
from orchestrator.image.model import (
    LABEL_CONTENT,
    LABEL_TRAINER,
    Image,
    Layout,
    Packaged,
    Part,
    Sent,
    State,
    no_image,
    variant_of,
)
from orchestrator.image.name import Reference, parse_reference
from orchestrator.image.parts import APP, HOME, UID, VENV
from orchestrator.image.registry import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, ImageNotFound, Repository, sha256
from orchestrator.jobfile.load import LoadedJob
from orchestrator.text import megabytes
from trainer.errors import ConfigError

LARGE_CODE_BYTES = 200 << 20
_CREATED = "1980-01-01T00:00:00Z"
_TELL_S = 2.0
Say = Callable[[str], None]


def package(
    job: LoadedJob, *, say: Say, pushes: bool = True, builder: str | None = None, insecure: Collection[str] = ()
) -> Packaged:
    """Make the image of a job and push it.

    Args:
        pushes: False: all but sending it; the base is still asked for.
        builder: docker, podman or buildah; "none" for no builder; None to decide by the job file.
        insecure: registries that may be spoken to by plain HTTP, besides those of this machine.

    Raises:
        ConfigError: the job file, the folder, or a tool.
        RegistryError: what a registry says.
    """
    started = time.monotonic()
    spec = job.spec.image
    if spec.build is None or spec.repository is None:
        raise no_image(job.spec)
    place = layout(job.folder, spec.build)
    code = collect(place.folder, leave_out=[job.path, job.folder / "runs"])
    _tell(code, place, spec.dockerfile, say)
    _check_program(job, place, code)
    target = parse_reference(spec.repository)
    if spec.dockerfile is not None or builder not in (None, "none"):
        return build(job.spec, place, code, target, builder=builder, pushes=pushes, insecure=insecure, say=say)
    base = read_base(spec.base or DEFAULT_BASE, insecure=insecure)
    with tempfile.TemporaryDirectory(prefix="orch-") as scratch:
        image = make(base, variant_of(job.spec), place, code, Path(scratch), say=say, insecure=insecure)
        sent = push(image, target, insecure=insecure, say=say) if pushes else ()
    return Packaged(
        ref=str(target.at(image.digest)),
        size_bytes=image.size_bytes,
        pushed=pushes,
        pushed_bytes=sum(item.size_bytes for item in sent if item.state == "sent"),
        layers=sent or tuple(Sent(part.name, part.layer.size_bytes, "there") for part in image.parts),
        seconds=time.monotonic() - started,
    )


def layout(job_folder: Path, build: str) -> Layout:
    """Where image.build lies in the image, so that a path relative to the job file is the same one there."""
    here, folder = job_folder.resolve(), (job_folder / build).resolve()
    root = Path(os.path.commonpath([here, folder]))
    return Layout(
        folder=folder,
        prefix=posixpath.join(APP, *folder.relative_to(root).parts),
        workdir=posixpath.join(APP, *here.relative_to(root).parts),
    )


def make(
    base: Base, variant: str, place: Layout, code: CodeFiles, scratch: Path, *, say: Say, insecure: Collection[str] = ()
) -> Image:
    """The layers that a base lacks, and the image of them all.

    Args:
        scratch: a folder for the layer of code; it must live until the image is pushed.
    """
    parts: list[Part] = []
    if base.has_trainer:
        say(f"base {base.reference.name} has the trainer: only your code is added")
    else:
        parts.append(Part("system", imageparts.system_layer(read_files(base, say, insecure=insecure))))
        parts.append(Part("wheels", imageparts.wheels_layer(variant, say)))
        parts.append(Part("trainer", imageparts.trainer_layer()))
        if not imageparts.has_bytecode():
            say("note: there is no Python 3.11 here to make byte code with; workers take some seconds more to start")
    entries = [*_folders_to(place), *code_entries(code.files, place.prefix[1:])]
    parts.append(Part("code", write_layer(entries, scratch / "code.tar.gz")))
    return assemble(base, tuple(parts), workdir=place.workdir)


def assemble(base: Base, parts: tuple[Part, ...], *, workdir: str) -> Image:
    """Configuration and manifest: the base's with the layers appended, and what the Dockerfile would set."""
    settings = dict(base.config.get("config") or {})
    labels = {
        "org.opencontainers.image.base.name": base.reference.name,
        "org.opencontainers.image.base.digest": base.reference.digest or "",
        LABEL_CONTENT: parts[-1].layer.diff_id,
    }
    if not base.has_trainer:
        environment = dict(item.partition("=")[::2] for item in settings.get("Env") or [])
        settings["Env"] = [f"{key}={value}" for key, value in environment_on(environment).items()]
        settings |= {"User": f"{UID}:{UID}", "Entrypoint": ENTRYPOINT, "Cmd": None}
        labels[LABEL_TRAINER] = version("orch")
    settings |= {"WorkingDir": workdir, "Labels": dict(sorted(((settings.get("Labels") or {}) | labels).items()))}
    config = base.config | {
        "created": _CREATED,
        "config": settings,
        "rootfs": {
            "type": "layers",
            "diff_ids": [*base.config["rootfs"]["diff_ids"], *(part.layer.diff_id for part in parts)],
        },
        "history": [
            *(base.config.get("history") or []),
            *({"created": _CREATED, "created_by": f"orch package: {part.name}"} for part in parts),
        ],
    }
    raw = _json(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": sha256(raw), "size": len(raw)},
        "layers": [
            *base.layers,
            *({"mediaType": OCI_LAYER, "digest": part.layer.digest, "size": part.layer.size_bytes} for part in parts),
        ],
    }
    return Image(base, parts, raw, _json(manifest))


def environment_on(base: dict[str, str]) -> dict[str, str]:
    """A base's environment with what the Dockerfile adds."""
    path = base.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return base | {
        "PATH": f"{VENV}/bin:{path}",
        "HOME": HOME,
        "USER": "trainer",
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "1",
    }


def push(image: Image, target: Reference, *, insecure: Collection[str] = (), say: Say) -> tuple[Sent, ...]:
    """Send what the repository lacks, then the manifest, under the tag orch-<12 digits of the digest>.

    Raises:
        RegistryError: what the registries say.
    """
    source = image.base.reference
    sent: list[Sent] = []
    with (
        Repository(target, writes=True, insecure=insecure) as repository,
        Repository(source, insecure=insecure) as base,
    ):
        complete = _has_image(repository, image.digest)
        for described in image.base.layers:
            digest, size_bytes = described["digest"], described["size"]
            state: State = "there"
            if not complete and not repository.has_blob(digest):
                if source.registry == target.registry and repository.mount(digest, source):
                    state = "mounted"
                else:
                    repository.copy(digest, size_bytes, base, _Progress(source.name, size_bytes, say))
                    state = "sent"
            sent.append(Sent("base", size_bytes, state))
        for part in image.parts:
            layer = part.layer
            there = complete or repository.has_blob(layer.digest)
            if not there:
                told = _Progress(part.name, layer.size_bytes, say)
                repository.upload(layer.digest, layer.size_bytes, partial(layer.file.open, "rb"), told)
            sent.append(Sent(part.name, layer.size_bytes, "there" if there else "sent"))
        if not complete:
            repository.upload_bytes(image.config)
        # The tag keeps the registry's cleaning from taking the image for one that nobody wants.
        repository.put_manifest(f"orch-{image.digest[7:19]}", image.manifest, OCI_MANIFEST)
    return tuple(sent)


class _Progress:
    """Tells how far an upload is, every few seconds; nothing of one that is over before."""

    def __init__(self, name: str, size_bytes: int, say: Say) -> None:
        self._name, self._size_bytes, self._say = name, size_bytes, say
        self._next_s = time.monotonic() + _TELL_S

    def __call__(self, sent_bytes: int) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _TELL_S
            self._say(f"pushing {self._name}: {megabytes(sent_bytes)} of {megabytes(self._size_bytes)}")


def _has_image(repository: Repository, digest: str) -> bool:
    try:
        repository.document(digest)
    except ImageNotFound:
        return False
    return True


def _folders_to(place: Layout) -> list[ArchiveEntry]:
    """/app, and the folders between it and the user's code, or the working directory."""
    wanted = {APP}
    for path in (place.prefix, place.workdir):
        while path != APP:
            wanted.add(path)
            path = posixpath.dirname(path)
    return [ArchiveEntry(path[1:], owner=UID if path == APP else 0) for path in sorted(wanted)]


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _tell(code: CodeFiles, place: Layout, dockerfile: str | None, say: Say) -> None:
    for secret in code.secrets:
        say(f"not packed: {secret}; hand secrets to workers by `secrets` in the job file")
    if code.left_out:
        say(f"not packed: {', '.join(code.left_out)}")
    if code.size_bytes > LARGE_CODE_BYTES:
        largest = ", ".join(f"{file.path} ({megabytes(file.size_bytes)})" for file in code.largest(3))
        say(
            f"warning: {megabytes(code.size_bytes)} of {place.folder} go into the image; the largest: {largest}. "
            "Data belongs into a bucket or a volume; .dockerignore leaves files out"
        )
    if dockerfile is None and code.has("Dockerfile"):
        say("note: the Dockerfile is not used; image.dockerfile: Dockerfile has docker, podman or buildah build by it")


def _check_program(job: LoadedJob, place: Layout, code: CodeFiles) -> None:
    """The file of the task or script must be among those that go in: else every worker would find out."""
    train = job.spec.train
    field = "train.task" if train.task is not None else "train.script"
    source = train.script or (train.task or "").rpartition(":")[0]
    if not (source.endswith(".py") or "/" in source) or job.spec.image.dockerfile is not None:
        return
    path = posixpath.normpath(posixpath.join(place.workdir, source))
    inside = posixpath.relpath(path, place.prefix)
    if not code.has(inside):
        remedy = f"it must lie in image.build ({place.folder}), and .dockerignore must not leave it out"
        if posixpath.isabs(source):
            remedy = "write its path relative to the job file: in the image it is another one"
        raise ConfigError(f"{job.where(field)}: {field}: {source} does not go into the image", remedy=remedy)
