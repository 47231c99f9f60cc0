"""The layers that make a worker's image out of one with Python: the user and the virtual environment, TensorFlow's wheels,
the package `trainer`. What they amount to is what the project's Dockerfile makes.
"""

import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from orchestrator.image import bytecode
from orchestrator.image.base import PYTHON, BaseFiles
from orchestrator.image.cache import cached_layer, key_of
from orchestrator.image.layers import ArchiveEntry, Layer, tree_entries
from trainer.errors import ConfigError

VENV = "/opt/venv"
SITE = f"{VENV}/lib/python{PYTHON}/site-packages"
HOME = "/home/trainer"
APP = "/app"
UID = 1000
_RECIPE = "3"
"""Changed when the same requirements are to give another layer."""
_GLIBC = range(36, 16, -1)
"""manylinux tags that run on Debian 12 and newer, the best first."""
_WASTE = ("tensorflow/include", "bin")
_TESTS_STAY = ("tensorflow", "keras")
Say = Callable[[str], None]


def requirements(variant: str) -> str:
    """The pins of an image: cpu, gpu or tpu."""
    return (resources.files("orchestrator") / "recipe" / f"requirements-{variant}.txt").read_text()


def system_entries(base: BaseFiles) -> list[ArchiveEntry]:
    """User 1000, its home, the working directory, and a virtual environment of the base's Python."""
    user = f"trainer:x:{UID}:{UID}::{HOME}:/usr/sbin/nologin\n"
    group = f"trainer:x:{UID}:\n"
    config = f"home = {os.path.dirname(base.python)}\ninclude-system-site-packages = false\nversion = {PYTHON}\n"
    binaries = [ArchiveEntry(f"{VENV[1:]}/bin/{name}", link=f"python{PYTHON}") for name in ("python", "python3")]
    return [
        ArchiveEntry("etc/passwd", _with_line(base.passwd, user).encode()),
        ArchiveEntry("etc/group", _with_line(base.group, group).encode()),
        ArchiveEntry(HOME[1:], owner=UID),
        ArchiveEntry(APP[1:], owner=UID),
        ArchiveEntry(VENV[1:]),
        ArchiveEntry(f"{VENV[1:]}/pyvenv.cfg", config.encode()),
        ArchiveEntry(f"{VENV[1:]}/lib"),
        ArchiveEntry(f"{VENV[1:]}/lib/python{PYTHON}"),
        ArchiveEntry(f"{VENV[1:]}/bin"),
        ArchiveEntry(f"{VENV[1:]}/bin/python{PYTHON}", link=base.python),
        *binaries,
    ]


def system_layer(base: BaseFiles) -> Layer:
    """The same as a layer."""
    key = key_of(_RECIPE, base.python, base.passwd, base.group)
    return cached_layer("system", key, lambda _work: system_entries(base))


def wheels_layer(variant: str, say: Say) -> Layer:
    """TensorFlow and what it needs, as wheels for the image's Python and platform, whatever this machine's are.

    Raises:
        ConfigError: pip is missing, or refuses.
    """
    pins = requirements(variant)

    def make(work: Path) -> list[ArchiveEntry]:
        count = sum(1 for line in pins.splitlines() if line and not line.startswith("#"))
        say(f"fetching {count} wheels for the {variant} image, once for these versions; this takes a minute or two")
        site = work / "site"
        _install(pins, work, site)
        _prune(site)
        if interpreter := _python_for_bytecode():
            say("compiling them")
            _compile(interpreter, site, site, SITE)
        say("packing them")
        return tree_entries(site, SITE[1:])

    return cached_layer(f"wheels-{variant}", key_of(_RECIPE, pins, _compiler_key()), make)


def trainer_layer() -> Layer:
    """The package `trainer` of this orch."""
    source = Path(str(resources.files("trainer")))
    files = sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    parts = [item for path in files for item in (path.relative_to(source).as_posix(), path.read_bytes())]

    def make(work: Path) -> list[ArchiveEntry]:
        copy = work / "trainer"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if interpreter := _python_for_bytecode():
            _compile(interpreter, copy, copy, f"{SITE}/trainer")
        return tree_entries(copy, f"{SITE[1:]}/trainer")

    return cached_layer("trainer", key_of(_RECIPE, _compiler_key(), *parts), make)


def has_bytecode() -> bool:
    """Whether byte code can be made here: it takes the image's Python."""
    return _python_for_bytecode() is not None


def _with_line(text: str, line: str) -> str:
    name, uid = line.split(":")[0], line.split(":")[2]
    kept = [item for item in text.splitlines() if item.split(":")[0] != name and item.split(":")[2:3] != [uid]]
    return "".join(f"{item}\n" for item in kept) + line


def _install(pins: str, work: Path, site: Path) -> None:
    listed = work / "requirements.txt"
    listed.write_text(pins)
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in _GLIBC]
    platforms += [f"--platform={name}_x86_64" for name in ("manylinux2014", "manylinux2010", "manylinux1")]
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps",
        "--no-compile", "--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}", *platforms,
        "--root-user-action=ignore", f"--target={site}", f"--requirement={listed}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        if "No module named pip" in done.stderr:
            raise ConfigError(
                f"the Python of orch ({sys.executable}) has no pip, which fetches the image's wheels",
                remedy=f"{sys.executable} -m ensurepip, or name an image that has TensorFlow and the trainer as image.base",
            )
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise ConfigError(
            f"pip cannot fetch the wheels of the image: {' '.join(said)[-500:]}",
            remedy="check pip's configuration and the network (`pip config list`), then try again",
        )


def _prune(site: Path) -> None:
    """What the Dockerfile removes as well: headers, tests, and commands whose first line names this machine's Python."""
    for name in _WASTE:
        shutil.rmtree(site / name, ignore_errors=True)
    for folder in sorted(site.rglob("tests")):
        inside = folder.relative_to(site).parts
        if folder.is_dir() and inside[0] not in _TESTS_STAY:
            shutil.rmtree(folder, ignore_errors=True)
    for record in site.glob("*.dist-info/RECORD"):
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(sorted(line for line in lines if "../bin/" not in line)))


def _python_for_bytecode() -> str | None:
    if sys.version_info[:2] == tuple(map(int, PYTHON.split("."))):
        return sys.executable
    return shutil.which(f"python{PYTHON}")


def _compiler_key() -> str:
    # zlib decides the compressed bytes, and whether there is byte code the contents.
    return f"{zlib.ZLIB_RUNTIME_VERSION} {has_bytecode()}"


def _compile(interpreter: str, sources: Path, output: Path, prefix: str) -> None:
    command = [interpreter, "-I", str(Path(bytecode.__file__)), str(sources), str(output), prefix]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONHASHSEED": "0"}
    )
    if done.returncode != 0:
        raise ConfigError(f"byte code cannot be made with {interpreter}: {done.stderr.strip()[-300:]}")
