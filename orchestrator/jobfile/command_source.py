"""The Python program of a train.command, as far as its words and its source tell without running it.

Commands are free: what is not understood here is nothing that can be said something of.
"""

import ast
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.code import FILES_MAX, Source, module_file, sources_of

_PYTHON = re.compile(r"python(\d+(\.\d+)*)?")
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh")
_WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")
_PEERS = re.compile(
    r"TF_CONFIG|ORCH_\w+|MultiWorkerMirrored|CollectiveAllReduce|ParameterServer|ClusterResolver|TPUStrategy"
    r"|\bdistributed?\b|\bkeras\.distribution\b|\b(?:WORLD_SIZE|RANK|LOCAL_RANK|MASTER_ADDR|MASTER_PORT)\b"
    r"|\b(?:horovod|hvd|deepspeed|accelerate|lightning|torchrun|mpirun|mpiexec|mpi4py|ray|byteps)\b"
)
"""Whatever looks for other workers: in TF_CONFIG, in this job's own variables, by another framework."""
_OF_ONE_MACHINE = re.compile(
    r"\bdistribute\.(?:MirroredStrategy|OneDeviceStrategy|get_strategy|has_strategy|get_replica_context|Strategy)\b"
)
_LOADS_BY_NAME = re.compile(r"\b(?:importlib|__import__|runpy|exec|execfile|subprocess|system|popen|spawn\w*)\b")


@dataclass(frozen=True)
class Program:
    """A Python program that a command starts."""

    path: Path
    module: bool
    """Started as `-m module`: the working directory comes first where modules are looked for, else the program's own folder."""

    def sources(self, folder: Path) -> list[Source]:
        """It, and what it imports from its folder and the job file's."""
        return list(sources_of(self.path.resolve(), folder))


def program_of(command: Sequence[str], folder: Path) -> Program | None:
    """The first Python program of this folder that a command starts, also through a shell; None where none is found."""
    words = list(command)
    for place, word in enumerate(words):
        name = os.path.basename(word)
        if _PYTHON.fullmatch(name):
            return _after_python(words[place + 1 :], folder)
        if word.endswith(".py") and (folder / word).is_file():
            return Program(folder / word, module=False)
        if name in _SHELLS:
            return next(
                (found for text in _shell_texts(words[place + 1 :], folder) if (found := _in_shell(text, folder))), None
            )
        if (text := _shell_script(folder / word)) is not None:
            return _in_shell(text, folder)
    return None


def looks_for_peers(command: Sequence[str], program: Program, folder: Path) -> bool:
    """Whether anything in the command, its shell scripts, or the program's source looks for other workers. Where it loads code by
    names, all modules of its folder may belong to it."""
    texts = [" ".join(command), *_shell_texts(command, folder)]
    texts += [text for word in command if (text := _shell_script(folder / word)) is not None]
    texts += [_without_comments(source.tree) for source in program.sources(folder)]
    if any(_LOADS_BY_NAME.search(text) for text in texts):
        beside = program.path.parent
        others = [*beside.glob("*.py"), *beside.glob("[!.]*/*.py")]
        texts += [path.read_text(encoding="utf-8", errors="replace") for path in sorted(others)[:FILES_MAX]]
    return any(_PEERS.search(_OF_ONE_MACHINE.sub("", text)) for text in texts)


def _after_python(words: Sequence[str], folder: Path) -> Program | None:
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if re.fullmatch("-[a-zA-Z]*m", word):
            found = _module(rest[0], folder) if rest else None
            return Program(found, module=True) if found is not None else None
        if word in _WITH_VALUE:
            rest = rest[1:]
        elif not word.startswith("-"):
            path = folder / word
            return Program(path, module=False) if path.is_file() else None
        elif re.fullmatch("-[a-zA-Z]*c", word):
            return None
    return None


def _module(name: str, folder: Path) -> Path | None:
    return module_file(f"{name}.__main__", [folder]) or module_file(name, [folder])


def _shell_texts(words: Sequence[str], folder: Path) -> Iterator[str]:
    """What a shell is given to run: the text after -c, or a file."""
    for place, word in enumerate(words):
        if re.fullmatch(r"-\w*c", word) and place + 1 < len(words):
            yield words[place + 1]
        elif word.endswith(".sh") and (folder / word).is_file():
            yield (folder / word).read_text(encoding="utf-8", errors="replace")


def _shell_script(path: Path) -> str | None:
    """The text of a file that a shell runs."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            begin = file.readline(200)
            if not (begin.startswith(b"#!") and any(shell.encode() in begin for shell in _SHELLS)):
                return None
            return file.read(1 << 20).decode(errors="replace")
    except (OSError, ValueError):
        return None


def _in_shell(text: str, folder: Path) -> Program | None:
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = list(shlex.shlex(line, posix=True, punctuation_chars=True))
        except ValueError:
            continue
        for place, word in enumerate(words):
            if _PYTHON.fullmatch(os.path.basename(word)) and (found := _after_python(words[place + 1 :], folder)):
                return found
    return None


def _without_comments(tree: ast.Module) -> str:
    """The code alone: what a comment or a docstring speaks of is not done."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = [*node.body[1:], ast.Pass()]
    return ast.unparse(tree)
