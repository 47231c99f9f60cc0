"""The image of a job: what it is made of, what became of it, and what a job file says of it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.image.base import Base
from orchestrator.image.layers import Layer
from orchestrator.image.registry import sha256
from orchestrator.jobfile.spec import JobSpec
from trainer.errors import ConfigError

LABEL_CONTENT = "orch.code"
"""The label with the digest of the user's code as it is in the image."""
LABEL_TRAINER = "orch.trainer"
"""The label with the version of the package trainer in the image, which the Dockerfile sets as well."""
State = Literal["sent", "mounted", "there"]


@dataclass(frozen=True)
class Layout:
    """Where the user's folder lies in the image."""

    folder: Path
    """On this machine: image.build."""
    prefix: str
    """In the image: /app, or a folder in it."""
    workdir: str
    """Where the workers start: what paths of the job file are relative to."""


@dataclass(frozen=True)
class Part:
    """A layer that orch adds, and what it is."""

    name: Literal["system", "wheels", "trainer", "code"]
    layer: Layer


@dataclass(frozen=True)
class Image:
    """An image that is ready to be pushed."""

    base: Base
    parts: tuple[Part, ...]
    config: bytes
    manifest: bytes

    @property
    def digest(self) -> str:
        return sha256(self.manifest)

    @property
    def size_bytes(self) -> int:
        """What a node pulls: all layers, compressed."""
        return self.base.size_bytes + sum(part.layer.size_bytes for part in self.parts)


@dataclass(frozen=True)
class Sent:
    """One layer of an image and what became of it."""

    name: str
    size_bytes: int
    state: State


@dataclass(frozen=True)
class Packaged:
    """The image of a job."""

    ref: str
    """repository@sha256:..., for image.ref; a tag where a builder built and nothing was pushed."""
    size_bytes: int
    pushed: bool
    pushed_bytes: int | None
    """Of layers; None where a builder pushed them."""
    layers: tuple[Sent, ...]
    seconds: float


def no_image(spec: JobSpec) -> ConfigError:
    """What is wrong with a job that a cluster could not run."""
    return ConfigError(
        f"job {spec.name} has no image",
        remedy="have it made from your code: image: {repository: REGISTRY/NAME, build: .}, "
        "or name a finished one: image: {ref: REGISTRY/NAME@sha256:...}",
    )


def placeholder(spec: JobSpec) -> str:
    """What dry runs show for an image that is made at submit."""
    return f"{spec.image.repository}:packaged-at-submit"


def with_ref(spec: JobSpec, ref: str) -> JobSpec:
    """The same job with a finished image."""
    image = spec.image.model_copy(
        update={"ref": ref, "repository": None, "build": None, "base": None, "dockerfile": None}
    )
    return spec.model_copy(update={"image": image})


def variant_of(spec: JobSpec) -> str:
    """Which TensorFlow: as given, or by the accelerator."""
    if spec.image.variant != "auto":
        return spec.image.variant
    hardware = spec.resources.hardware()
    return hardware.kind if hardware is not None else "cpu"


def code_parts(sent: Sequence[Sent]) -> list[Sent]:
    """Layers for people: those of the base as one."""
    base = [item for item in sent if item.name == "base"]
    rest = [item for item in sent if item.name != "base"]
    if not base:
        return rest
    moved = [item for item in base if item.state != "there"]
    state: State = moved[0].state if moved else "there"
    return [Sent("base", sum(item.size_bytes for item in base), state), *rest]
