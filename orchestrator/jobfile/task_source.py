"""Whether train.task names a class that is there, by reading the source without running it.

A task imports TensorFlow, which takes seconds, and may need packages that only the image has; what can be known without
importing is said at once. Names that a file binds in any way (import, assignment, import *) count as present.
"""

import ast
import difflib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from orchestrator.jobfile.own_trainer import PACKAGE, clash, own_trainer
from trainer.checkpoint.code import sources_of


def task_problem(task: str, folder: Path, *, only_in_image: bool = False) -> str | None:
    """What is wrong with `file.py:Class` or `package.module:Class`; None when nothing can be said against it.

    Args:
        task: has a colon (TrainSection sees to it).
        folder: the job file's folder, to which file paths are relative.
        only_in_image: the code lies in a finished image, so a module that is not found here is no error.
    """
    source, _, name = task.rpartition(":")
    if not name.isidentifier():
        return f'"{name}" is no name of a class; write file.py:Class or package.module:Class'
    if source.partition(".")[0] == PACKAGE and own_trainer(folder) is not None:
        file = f"{source.replace('.', '/')}.py"
        ours = _module_file(source, folder)
        theirs = (folder / file).is_file() and (ours is None or ours.samefile(folder / file))
        if theirs or ((folder / file).is_file() and ours is not None and _missing_class(ours, source, name)):
            return f"{PACKAGE} is orch's own package, and comes before yours in {folder.resolve()}; name the file: {file}:{name}"
    return _problem_of(source, name, folder, only_in_image=only_in_image)


def _problem_of(source: str, name: str, folder: Path, *, only_in_image: bool) -> str | None:
    if source.endswith(".py") or "/" in source:
        path = folder / source
        problem = missing_file(path, source, folder, wanted="task.py:Class")
    else:
        if not all(part.isidentifier() for part in source.split(".")):
            return f'"{source}" is neither a file (file.py) nor a module (package.module)'
        found = _module_file(source, folder)
        if found is None:
            if source.startswith("trainer."):
                return f"there is no module {source}; built-in tasks: {_built_in_tasks()}"
            if only_in_image:
                return None
            file = f"{source.replace('.', '/')}.py:{name}"
            return f"module {source} is neither beside the job file nor installed; for a file write {file}"
        path, problem = found, None
    return problem or _missing_class(path, source, name) or clash(sources_of(path.resolve(), folder), folder)


def missing_file(path: Path, source: str, folder: Path, *, wanted: str) -> str | None:
    """Why there is no such file, with the nearest there is; None where there is one. `wanted`: what is meant in a folder."""
    if path.is_dir():
        return f"{source} is a folder; name a file in it: {source.rstrip('/')}/{wanted}"
    if not path.is_file():
        here = sorted(item.name for item in path.parent.glob("*.py")) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, here, n=1, cutoff=0.5) or here[:1]
        hint = f'; did you mean "{near[0]}"?' if near else ""
        return (
            f"there is no file {source} in {path.parent.resolve() if path.parent.is_dir() else folder.resolve()}{hint}"
        )
    return None


def _module_file(module: str, folder: Path) -> Path | None:
    """The source of a module, without importing its packages. `trainer` is ours first, as in a worker."""
    parts = module.split(".")
    roots = [str(folder), *sys.path]
    if parts[0] == "trainer":
        ours = importlib.util.find_spec("trainer")
        roots = [str(Path(place).parent) for place in (ours.submodule_search_locations or [] if ours else [])] + roots
    for root in roots:
        base = Path(root or ".", *parts)
        for candidate in (base.with_name(base.name + ".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _built_in_tasks() -> str:
    found = importlib.util.find_spec("trainer")
    folders = [Path(place, "tasks") for place in (found.submodule_search_locations or [] if found else [])]
    names = sorted(path.stem for folder in folders for path in folder.glob("[a-z]*.py"))
    return ", ".join(f"trainer.tasks.{name}" for name in names) or "none"


def unreadable(source: str, error: Exception) -> str:
    """Why Python cannot read a file, by what it raised."""
    if isinstance(error, SyntaxError):
        return f"{source}:{error.lineno or 1}: Python cannot read it: {error.msg}"
    if isinstance(error, OSError):
        return f"{source} cannot be read: {error.strerror}"
    return f"{source}: Python cannot read it: {error}"


def _missing_class(path: Path, source: str, name: str) -> str | None:
    try:
        tree = ast.parse(path.read_bytes(), filename=source)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
        return unreadable(source, error)
    bound: dict[str, str] = {}
    for bound_name, what in _bindings(tree.body):
        bound[bound_name] = what
    if bound.get(name) == "function":
        return f"{name} in {source} is a function; a task is a class: class {name}(Task)"
    if name in bound or "*" in bound or "__getattr__" in bound:
        return None
    classes = [bound_name for bound_name, what in bound.items() if what == "class"]
    if not classes:
        return f"{source} has no class {name}; it defines no class at all"
    near = difflib.get_close_matches(name, classes, n=1, cutoff=0.4)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    return f"{source} has no class {name}{hint or ';'} it has {', '.join(classes[:8])}"


def _bindings(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Names that the top level of a module binds, and whether as a class, a function, or something else."""
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield statement.name, "class"
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            # A decorator may return anything.
            yield statement.name, "other" if statement.decorator_list else "function"
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                yield (alias.asname or alias.name).partition(".")[0], "other"
        else:
            for node in ast.walk(statement) if not hasattr(statement, "body") else _headers(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id, "other"
            for part in ("body", "orelse", "finalbody"):
                yield from _bindings(getattr(statement, part, []))
            for handler in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
                yield from _bindings(handler.body)


def _headers(statement: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a compound statement: with ... as NAME, for NAME in, if (NAME := ...)."""
    for field, value in ast.iter_fields(statement):
        if field in ("body", "orelse", "finalbody", "handlers", "cases"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST):
                yield from ast.walk(node)
