"""Makes docs/writing-a-task.md, on stdout: the Task's methods, the forms of data, and examples/recipes, from their docstrings.

`make golden` writes the page; sources are read and not imported, so that no TensorFlow is loaded.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "writing-a-task.md"
TASK = ROOT / "trainer" / "task.py"
FORMS = {
    "Arrays": "kinds.py",
    "Examples by number": "examples.py",
    "Images of files": "images.py",
    "Records of files": "records.py",
    "Tables of files": "tables.py",
    "Batches, or single examples": "batched.py",
}
"""Heading -> the module of trainer/data whose docstring says it."""
RECIPES_FOLDER = ROOT / "examples" / "recipes"
RECIPES = [
    "arrays",
    "by_number",
    "dataset",
    "generator",
    "pydataset",
    "table",
    "text",
    "images",
    "layers",
    "own_step",
    "two_networks",
    "callbacks",
    "evaluation",
    "exports",
    "replicas",
]
"""In the order of the page."""

_HEAD = """\
# Writing a task

Made from the docstrings of trainer/task.py and the files of examples/recipes by `make golden`; do not edit it here.

A task is a class in a file beside the job file, which names it: `train: {task: task.py:Digits, steps: 2000}`. `orch init` writes
one to begin with; [job-file.md](job-file.md) has all fields, [conformance.md](conformance.md) what trains as with Keras' `fit`.
"""
_FORMS = """\
## Forms of data

[`train_data`](#train_data) says what it and `evaluation_data` may give; this is what becomes of it.
"""
_RECIPES = """\
## Recipes

Each is a file of [examples/recipes](../examples/recipes), shown whole, and a test trains it.
"""


def page() -> str:
    """The whole page, in Markdown."""
    parts = [_HEAD, *_methods(), _FORMS, *(_form(title) for title in FORMS), _RECIPES, _contents()]
    parts += [_recipe(name) for name in RECIPES]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _methods() -> Iterator[str]:
    (task,) = [node for node in _parsed(TASK).body if isinstance(node, ast.ClassDef) and node.name == "Task"]
    yield f"## The class\n\n{_markdown(ast.get_docstring(task) or '')}"
    before: ast.stmt | None = None
    for node in task.body:
        if isinstance(node, ast.FunctionDef):
            arguments = ", ".join(argument.arg for argument in node.args.args[1:])
            yield f"### `{node.name}({arguments})`\n\n{_markdown(ast.get_docstring(node) or '')}"
        elif isinstance(before, ast.AnnAssign) and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            default = f" = {ast.unparse(before.value)}" if before.value is not None else ""
            yield f"### `{ast.unparse(before.target)}{default}`\n\n{_markdown(inspect.cleandoc(str(node.value.value)))}"
        before = node


def _form(title: str) -> str:
    return f"### {title}\n\n{_markdown(ast.get_docstring(_parsed(ROOT / 'trainer' / 'data' / FORMS[title])) or '')}"


def _contents() -> str:
    return "\n".join(f"- [{_title(name)}](#{_anchor(_title(name))})" for name in RECIPES)


def _title(name: str) -> str:
    docstring = ast.get_docstring(_parsed(RECIPES_FOLDER / f"{name}.py")) or ""
    return docstring.partition("\n")[0].rstrip(".")


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _recipe(name: str) -> str:
    path = RECIPES_FOLDER / f"{name}.py"
    source = path.read_text(encoding="utf-8")
    docstring = _parsed(path).body[0]
    code = "\n".join(source.splitlines()[docstring.end_lineno or 0 :]).strip("\n")
    prose = (ast.get_docstring(_parsed(path)) or "").partition("\n")[2].strip("\n")
    return f"### {_title(name)}\n\n{_markdown(prose)}\n\n`{name}.py`:\n\n```python\n{code}\n```\n"


def _markdown(docstring: str) -> str:
    """A docstring's sections in bold, its lists and code with a line before them."""
    text = re.sub(r"(?m)^(Args|Returns|Raises):\n((?: {4}.*\n?)+)", _section, docstring + "\n")
    return re.sub(r"(?m)^(?!- | )(.+)\n(?=- )", r"\1\n\n", text).strip("\n")


def _section(found: re.Match[str]) -> str:
    return f"**{found[1]}:** {inspect.cleandoc(found[2])}\n"


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


if __name__ == "__main__":
    sys.stdout.write(page())
