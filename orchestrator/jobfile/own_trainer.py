"""A package of the user's own that is called `trainer`, as that of orch is: which of the two an import gets.

In training processes orch's comes first. A program that is started as a command finds what lies beside it first.
"""

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainer.checkpoint.code import Source, module_file

PACKAGE = "trainer"
_FOR_USERS = ("task", "tasks", "exported", "keras")
"""What users import of orch's own."""


def own_trainer(folder: Path) -> Path | None:
    """The user's package `trainer` in the job file's folder. A checkout of orch has none."""
    place = folder / PACKAGE
    if not place.is_dir() or (place / "exit_codes.py").is_file():
        return None
    return place if any(place.glob("*.py")) else None


def clash(sources: Iterable[Source], folder: Path) -> str | None:
    """What is wrong where one of these files, in a training process, imports what only the user's own package holds."""
    place = own_trainer(folder)
    if place is None:
        return None
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and _means(node, place):
                remedy = "call your package something else"
                if source.path.parent == place.resolve():
                    remedy = f"{_by_their_own_names(node)}, or {remedy}"
                return (
                    f"{source.name}:{node.lineno}: `{ast.unparse(node)}` gets orch's own package {PACKAGE}, which comes "
                    f"before yours in {place.resolve()}; {remedy}"
                )
    return None


def _means(node: ast.Import | ast.ImportFrom, place: Path) -> bool:
    """Whether an import can only mean the user's package."""
    return any(_is_theirs(module, name, place) for module, name in _imported(node))


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """(module of the package, name in it): of `from trainer.task import Task`, ("task", "Task")."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.startswith(f"{PACKAGE}."):
                yield alias.name.removeprefix(f"{PACKAGE}."), ""
    elif node.level == 0 and node.module == PACKAGE:
        yield from ((alias.name, "") for alias in node.names)
    elif node.level == 0 and node.module is not None and node.module.startswith(f"{PACKAGE}."):
        yield from ((node.module.removeprefix(f"{PACKAGE}."), alias.name) for alias in node.names)


def _is_theirs(module: str, name: str, place: Path) -> bool:
    if module_file(module, [place]) is None:
        return False
    if module.partition(".")[0] not in _FOR_USERS:
        return True
    ours = importlib.util.find_spec(PACKAGE)
    places = [Path(item) for item in (ours.submodule_search_locations or [] if ours else [])]
    file = module_file(module, places)
    return name not in ("", "*") and file is not None and name not in file.read_text(encoding="utf-8")


def _by_their_own_names(node: ast.Import | ast.ImportFrom) -> str:
    """How modules that lie beside each other import each other."""
    if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
        return f"write `{ast.unparse(ast.Import(node.names))}`"
    if isinstance(node, ast.ImportFrom) and node.module is not None:
        plain = ast.ImportFrom(node.module.removeprefix(f"{PACKAGE}."), node.names, 0)
        return f"write `{ast.unparse(plain)}`"
    return "import what lies beside it by its own name"
