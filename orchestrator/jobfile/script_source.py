"""Whether train.script is a Python program that can begin, and what can be said of it by reading it, without running it."""

import ast
import warnings
from collections.abc import Iterable
from pathlib import Path

from orchestrator.jobfile.own_trainer import clash
from orchestrator.jobfile.task_source import missing_file, unreadable
from trainer.checkpoint.code import Source, sources_of


def script_problem(script: str, folder: Path) -> str | None:
    """What is wrong with train.script; None when nothing can be said against it.

    Args:
        script: a path that ends with .py (TrainSection sees to it).
        folder: the job file's folder, to which it is relative.
    """
    path = folder / script
    if problem := missing_file(path, script, folder, wanted="train.py"):
        return problem
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are Python's to tell, when it runs
            compile(path.read_bytes(), script, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
        return unreadable(script, error)
    found = clash(script_sources(script, folder), folder)
    if found is None:
        return None
    module = script.removesuffix(".py").replace("/", ".")
    in_package = script.startswith("trainer/")
    command = f"[python, -m, {module}]" if in_package else f"[python, {script}]"
    return f"{found}, or run the script as train.command: {command}, to which yours comes first"


def script_sources(script: str, folder: Path) -> list[Source]:
    """The script, and what it imports from its folder."""
    return list(sources_of((folder / script).resolve(), folder))


def calls_fit(sources: Iterable[Source]) -> bool:
    """Whether any of them calls a method `fit`."""
    return any(
        isinstance(node, ast.Attribute) and node.attr == "fit" for source in sources for node in ast.walk(source.tree)
    )
