"""The Python files that a task or a script is made of: its own, and what it imports from its folder. They are read, not run."""

import ast
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FILES_MAX = 200


@dataclass(frozen=True)
class Source:
    """One of them."""

    path: Path
    name: str
    """Its path within the job's folder, or where it lies outside its file name."""
    tree: ast.Module


def sources_of(first: Path, root: Path) -> Iterator[Source]:
    """The file `first`, the files that it imports from its folder or from `root`, and what these import in turn. A file that
    cannot be read or parsed is passed over."""
    root = root.resolve()
    places = list(dict.fromkeys([first.parent, root]))
    seen: set[str] = set()
    waiting = [first]
    while waiting and len(seen) < FILES_MAX:
        path = waiting.pop(0)
        name = str(path.relative_to(root)) if path.is_relative_to(root) else path.name
        if name in seen:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they are Python's to tell, when it runs
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        seen.add(name)
        yield Source(path, name, tree)
        for module, level in _imports(tree):
            beside = [path.parents[level - 1]] if 0 < level <= len(path.parents) else places
            if (further := module_file(module, beside)) is not None:
                waiting.append(further)


def module_file(module: str, places: Sequence[Path]) -> Path | None:
    """The file of a module below one of these folders, or None."""
    for place in places:
        path = place.joinpath(*module.split("."))
        for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if file.is_file():
                return file.resolve()
    return None


def installed(module: str) -> Path | None:
    """The file of a module of an installed package, which is not imported for it."""
    top, _, rest = module.partition(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if rest:
        return module_file(rest, [Path(place) for place in spec.submodule_search_locations or []])
    return Path(spec.origin) if spec.origin else None


def _imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Modules that the code imports: their name, and the number of leading dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if base:
                yield base, node.level
            yield from ((f"{base}.{alias.name}" if base else alias.name, node.level) for alias in node.names)
