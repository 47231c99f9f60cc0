"""The recipes of CONTRIBUTING.md, followed in a copy of the tree: what they say is enough, and what is forgotten fails a test."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES_MOST = 10
TREE = [
    "orchestrator",
    "trainer",
    "k8s",
    "docs",
    "tests",
    "examples",
    "tools",
    "README.md",
    "CHANGELOG.md",
    "pyproject.toml",
]
ITS_TEST = """
from orchestrator.preflight.check import Level
from orchestrator.preflight.subject import JOB_CHECKS


def test_the_disk_is_large_enough() -> None:
    (check,) = [check for check in JOB_CHECKS.all() if check.name == "disk"]
    assert check(None).level is Level.OK
"""


def recipes() -> dict[str, str]:
    """Heading -> text of each recipe."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"(?m)^### ", text.partition("\n## Recipes\n")[2].partition("\n## ")[0])
    return {heading: body for heading, _, body in (part.partition("\n") for part in parts)}


def code_of(recipe: str) -> str:
    """What stands indented in a recipe."""
    lines = [line for line in recipe.splitlines() if line.startswith("    ") or not line]
    return re.sub(r"(?m)^ {4}", "", "\n".join(lines)).strip("\n") + "\n"


def test_of(recipe: str) -> str:
    """The file of tests that a recipe names."""
    (named,) = set(re.findall(r"tests/orchestrator/test_\w+\.py", recipe))
    return str(named)


test_of.__test__ = False  # type: ignore[attr-defined]


class Copy:
    """A copy of the tree, in which a recipe is followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in TREE:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name)  # with its __pycache__, which saves most of the time
            else:
                shutil.copy(ROOT / name, folder / name)
        self._before = self._files()

    def _files(self) -> dict[str, bytes]:
        paths = [path for path in self.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}

    def changed(self) -> list[str]:
        """The files that are not as they were copied."""
        now = self._files()
        return sorted(name for name in now.keys() | self._before.keys() if now.get(name) != self._before.get(name))

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace what is there once."""
        path = self.folder / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} has {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def python(self, *arguments: str, golden: bool = False) -> "subprocess.CompletedProcess[str]":
        """This Python, in the copy."""
        environment = {name: value for name, value in os.environ.items() if name != "ORCH_REWRITE_GOLDEN"}
        environment |= {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"ORCH_REWRITE_GOLDEN": "1"} if golden else {}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def failures(self, *tests: str, golden: bool = False) -> set[str]:
        """The names of the tests that fail."""
        done = self.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, golden=golden)
        failed = set(re.findall(r"(?m)^(?:FAILED|ERROR) \S+::(\w+)", done.stdout))
        assert done.returncode == (1 if failed else 0), done.stdout + done.stderr
        return failed


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "tree")


@pytest.mark.parametrize("kind", ["field of the job file", "check", "command", "message", "trouble", "data source"])
def test_there_is_a_short_recipe(kind: str) -> None:
    (found,) = [text for heading, text in recipes().items() if kind in heading]
    assert len([line for line in found.splitlines() if line.strip()]) <= LINES_MOST


def test_the_names_in_recipes_are_those_of_the_code() -> None:
    sources = [path for room in ("orchestrator", "trainer") for path in (ROOT / room).rglob("*.py")]
    known = set(re.findall(r"\w+", "".join(path.read_text(encoding="utf-8") for path in sources)))
    named = {name for text in recipes().values() for name in re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", text)}
    words = {word for name in named if not name.endswith((".py", ".yaml")) for word in name.split(".")}
    assert {"Elements", "COMMANDS", "Wire", "Trouble", "misfit"} <= words
    assert words - known == set()


@pytest.mark.slow
def test_a_field_needs_one_file_and_make_golden(copy: Copy) -> None:
    recipe = recipes()["A field of the job file"]
    module = re.findall(r"`([\w/]+\.py)`", recipe)[0]
    field = re.sub(r"(?m)^", "    ", code_of(recipe))
    name = field.split(":")[0].strip()
    before = '    @model_validator(mode="before")\n    @classmethod\n    def _stopping_early_needs_evaluations'
    copy.edit(module, before, f"{field}\n{before}")
    page_test = f"{test_of(recipe)}::test_the_page_is_up_to_date"
    assert copy.failures(page_test) == {"test_the_page_is_up_to_date"}
    assert copy.failures(page_test, golden=True) == set()
    assert copy.failures(test_of(recipe)) == set()
    assert copy.changed() == sorted(["docs/job-file.md", module])
    page = (copy.folder / "docs" / "job-file.md").read_text(encoding="utf-8")
    assert (
        f"| `{name}` | a whole number of at least 0 | `0` | Steps over which the learning rate rises from 0. |" in page
    )
    assert re.search(rf"(?m)^With `command`, .* Of .*`{name}`.* the program may make", page)
    (copy.folder / "job.yaml").write_text("name: a\ntrain: {command: [python], warmup_steps: -1}\n")
    told = copy.python("-m", "orchestrator.cli.main", "run", "job.yaml")
    assert told.returncode == 78
    assert f"job.yaml:2: train.{name}: must be a whole number of at least 0, not -1" in told.stderr


@pytest.mark.slow
def test_a_check_needs_one_file_its_test_and_make_golden_and_no_name_may_be_misspelt(copy: Copy) -> None:
    recipe = recipes()["A check"]
    module = "orchestrator/preflight/" + re.findall(r"`(\w+\.py)`", recipe)[0]
    order, its_test = test_of(recipe), "tests/orchestrator/test_disk.py"
    (copy.folder / module).write_text(code_of(recipe))
    (copy.folder / its_test).write_text(ITS_TEST)
    copy.edit(order, '"checkpoints memory grace pod dry-run"', '"checkpoints memory disk grace pod dry-run"')
    tables_test = f"{order}::test_the_documentation_has_every_check_as_it_is_declared"
    assert copy.failures(tables_test, golden=True) == set()
    assert copy.failures(order, its_test, "--deselect", f"{order}::test_a_check_is_one_file") == set()
    assert copy.changed() == sorted(["docs/kubernetes.md", module, order, its_test])
    # Misspelt where it is declared, and where somebody is told to leave it out.
    copy.edit(module, '"disk"', '"dsik"')
    (copy.folder / "README.md").write_text("orch submit job.yaml --skip disk\n")
    assert copy.failures(order, its_test, "--deselect", f"{order}::test_a_check_is_one_file") == {
        "test_the_checks_of_a_job_stand_in_the_order_in_which_they_are_told",
        "test_the_documentation_has_every_check_as_it_is_declared",
        "test_whatever_speaks_of_skipping_a_check_names_one_that_there_is",
        "test_the_disk_is_large_enough",
    }
