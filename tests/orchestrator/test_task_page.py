"""docs/writing-a-task.md says what the docstrings of the Task and the files of examples/recipes say."""

import importlib.util
import inspect
import os
import re
from pathlib import Path
from types import ModuleType

import pytest

from trainer.task import Task

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def task_page() -> ModuleType:
    """tools/task_page.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("task_page", ROOT / "tools" / "task_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(task_page: ModuleType) -> None:
    if os.environ.get("ORCH_REWRITE_GOLDEN"):
        task_page.PAGE.write_text(task_page.page(), encoding="utf-8")
    written = task_page.PAGE.read_text(encoding="utf-8")
    assert written == task_page.page(), "`make golden` writes docs/writing-a-task.md anew"


def test_the_page_has_every_method_with_all_of_its_docstring(task_page: ModuleType) -> None:
    text = task_page.page()
    methods = {name: value for name, value in vars(Task).items() if not name.startswith("_") and callable(value)}
    assert {"model", "train_data", "train_step"} <= methods.keys()
    for name, method in methods.items():
        arguments = ", ".join(list(inspect.signature(method).parameters)[1:])
        _, _, told = text.partition(f"\n### `{name}({arguments})`\n")
        assert told, name
        words = re.findall(r"\w+", inspect.getdoc(method) or "")
        assert words
        assert re.findall(r"\w+", told)[: len(words)] == words
    assert "\n### `batched = None`\n" in text


def test_the_page_has_every_recipe_whole_and_leads_to_it(task_page: ModuleType) -> None:
    text = task_page.page()
    files = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "examples" / "recipes").glob("*.py")}
    assert sorted(task_page.RECIPES) == sorted(files)
    for source in files.values():
        _, docstring, code = source.split('"""', 2)
        assert f"```python\n{code.strip()}\n```" in text
        assert all(line in text for line in docstring.splitlines()[1:])
    headings = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"(?m)^#+ (.*)", text)}
    linked = re.findall(r"\]\(#([^)]+)\)", text)
    assert len(linked) > len(files)
    assert set(linked) - headings == set()
