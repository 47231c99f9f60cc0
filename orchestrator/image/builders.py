"""An image by a builder of the user's machine: docker, podman or buildah, called as a program.

It sees a copy of what files.py lets through, so that .git and secrets stay out here, too. What it prints goes to stderr.
"""

import os
import posixpath
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from orchestrator.image.base import DEFAULT_BASE, PLATFORM_FLAG, read_base
from orchestrator.image.cache import key_of
from orchestrator.image.files import CodeFiles
from orchestrator.image.model import Layout, Packaged, variant_of
from orchestrator.image.name import Reference, is_loopback
from orchestrator.image.registry import describe
from orchestrator.jobfile.spec import JobSpec
from trainer.errors import ConfigError

BUILDERS = ("docker", "podman", "buildah")
"""In the order in which they are looked for."""
_PROBE_S = 15.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Context:
    """What a builder is given."""

    folder: Path
    dockerfile: Path
    arguments: tuple[str, ...] = ()
    """name=value each, for --build-arg."""


def build(
    spec: JobSpec,
    place: Layout,
    code: CodeFiles,
    target: Reference,
    *,
    builder: str | None,
    pushes: bool,
    insecure: Collection[str],
    say: Say,
) -> Packaged:
    """Build the image and push it.

    Raises:
        ConfigError: no builder is there, or it failed.
        RegistryError: the registry does not have what the builder pushed.
    """
    started = time.monotonic()
    program = find_builder(builder)
    plain = is_loopback(target.registry) or target.registry in insecure
    with tempfile.TemporaryDirectory(prefix="orch-") as scratch:
        context = stage(spec, place, code, Path(scratch), insecure=insecure)
        tag = f"{target.name}:orch-{_key(code, context)[:12]}"
        say(f"{program} builds {tag}")
        for command in commands(program, context, tag, pushes=pushes, plain=plain):
            _run(command)
    if not pushes:
        return Packaged(tag, 0, pushed=False, pushed_bytes=None, layers=(), seconds=time.monotonic() - started)
    info = describe(tag, insecure=insecure)
    return Packaged(
        ref=str(target.at(info.digest)),
        size_bytes=info.size_bytes,
        pushed=True,
        pushed_bytes=None,
        layers=(),
        seconds=time.monotonic() - started,
    )


def find_builder(wanted: str | None) -> str:
    """The builder that was asked for, or the first that is there and works.

    Raises:
        ConfigError: none is.
    """
    names = BUILDERS if wanted is None else (wanted,)
    why = []
    for name in names:
        if shutil.which(name) is None:
            why.append(f"{name} is not installed")
        elif name == "docker" and not _daemon_answers():
            why.append("docker is installed, but its daemon does not answer")
        else:
            return name
    raise ConfigError(
        f"the image cannot be built: {'; '.join(why)}",
        remedy="install one of them, or leave image.dockerfile and --builder out: orch then puts the image together itself",
    )


def commands(program: str, context: Context, tag: str, *, pushes: bool, plain: bool) -> list[list[str]]:
    """What to call, in turn."""
    options = [f"--tag={tag}", f"--file={context.dockerfile}", PLATFORM_FLAG]
    options += [f"--build-arg={argument}" for argument in context.arguments]
    verb = ["bud", "--layers"] if program == "buildah" else ["build"]
    # Docker knows by itself that registries of this machine have no TLS; others are configured in its daemon.
    insecure = ["--tls-verify=false"] if plain and program != "docker" else []
    built = [program, *verb, *([] if program == "docker" else insecure), *options, str(context.folder)]
    return [built, *([[program, "push", *insecure, tag]] if pushes else [])]


def stage(spec: JobSpec, place: Layout, code: CodeFiles, scratch: Path, *, insecure: Collection[str]) -> Context:
    """The folder that a builder works on: the user's files and Dockerfile, or ours with the user's code on top."""
    if spec.image.dockerfile is not None:
        if not code.has(posixpath.normpath(spec.image.dockerfile)):
            raise ConfigError(
                f"image.dockerfile: there is no {spec.image.dockerfile} among the files of {place.folder}",
                remedy="it is relative to image.build, and .dockerignore must not leave it out",
            )
        _copy(code, scratch)
        return Context(scratch, scratch / spec.image.dockerfile)
    base = spec.image.base or DEFAULT_BASE
    arguments: tuple[str, ...] = ()
    if spec.image.base is not None and read_base(base, insecure=insecure).has_trainer:
        text = f"FROM {base}\n"
    else:
        recipe = resources.files("orchestrator") / "recipe"
        text = (recipe / "Dockerfile").read_text().replace(f"FROM {DEFAULT_BASE}", f"FROM {base}")
        arguments = (f"VARIANT={variant_of(spec)}",)
        (scratch / "docker").mkdir()
        name = f"requirements-{variant_of(spec)}.txt"
        (scratch / "docker" / name).write_text((recipe / name).read_text())
        shutil.copytree(
            Path(str(resources.files("trainer"))), scratch / "trainer", ignore=shutil.ignore_patterns("__pycache__")
        )
    _copy(code, scratch / "code")
    dockerfile = scratch / "Dockerfile"
    dockerfile.write_text(f"{text}COPY code/ {place.prefix}/\nWORKDIR {place.workdir}\n")
    return Context(scratch, dockerfile, arguments)


def _copy(code: CodeFiles, to: Path) -> None:
    to.mkdir(exist_ok=True)
    for file in code.files:
        place = to / file.path
        if file.folder:
            place.mkdir()
        elif file.link is not None:
            place.symlink_to(file.link)
        else:
            shutil.copy2(file.source, place)


def _key(code: CodeFiles, context: Context) -> str:
    parts: list[str | bytes] = [context.dockerfile.read_bytes(), *context.arguments]
    for file in code.files:
        parts += [file.path, file.link or ""]
        if not file.folder and file.link is None:
            parts.append(file.source.read_bytes())
    return key_of(*parts)


def _daemon_answers() -> bool:
    try:
        done = subprocess.run(
            ["docker", "version", "--format={{.Server.Version}}"],
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _run(command: list[str]) -> None:
    sys.stderr.flush()
    # stdout holds results alone: what builders print there goes to stderr as well.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), env=os.environ, check=False)
    if done.returncode != 0:
        raise ConfigError(
            f"`{' '.join(command[:2])}` ended with {done.returncode}",
            remedy="what it printed above says why; `orch package` without image.dockerfile needs no builder",
        )
