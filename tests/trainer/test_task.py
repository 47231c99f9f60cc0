"""Finding a user's task, and what is said when it cannot be found."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.errors import ConfigError
from trainer.process.tracebacks import user_traceback
from trainer.task import Task, load_task

TASK = """
from trainer.task import Task

class Mine(Task):
    def __init__(self, width: int, depth: int = 2) -> None:
        self.width = width

class Other(Task):
    pass

class Stranger:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "task.py").write_text(TASK)
    before = dict(sys.modules)
    yield tmp_path
    # Modules are kept by name: the next test's are others. Libraries stay, which cannot be imported twice.
    for name, module in list(sys.modules.items()):
        if name not in before and str(getattr(module, "__file__", None) or tmp_path).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_task_is_loaded_by_file_with_its_params(folder: Path) -> None:
    task = load_task("task.py:Mine", {"width": 3}, folder)
    assert isinstance(task, Task)
    assert vars(task) == {"width": 3}


def test_a_task_is_loaded_by_module(folder: Path) -> None:
    assert type(load_task("trainer.tasks.digits:Digits", {}, folder)).__name__ == "Digits"
    (folder / "pack").mkdir()
    (folder / "pack" / "mine.py").write_text(TASK)
    assert type(load_task("pack.mine:Mine", {"width": 1}, folder)).__module__ == "pack.mine"


@pytest.mark.parametrize(
    "name, params, said",
    [
        ("tusk.py:Mine", {}, "Did you mean task.py?"),
        ("task.py:Mines", {}, "Did you mean Mine?"),
        ("task.py:Nothing", {}, "Its tasks: Mine, Other"),
        ("task.py:Stranger", {}, "is not a Task"),
        ("task.py:Mine", {"widht": 3}, "It takes: width: int, depth: int = 2"),
        ("task.py:Mine", {}, "missing a required argument: 'width'"),
        ("task.py:Other", {"width": 3}, "It takes no parameters."),
        ("nowhere.to_be_found:Mine", {}, "there is no module nowhere.to_be_found"),
        ("trainer.tusks:Mine", {}, "is loaded by file: trainer/tusks.py:Class"),
    ],
)
def test_a_slip_gets_one_clear_error(folder: Path, name: str, params: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task(name, params, folder)
    assert said in str(caught.value)
    assert user_traceback(caught.value) == ""


@pytest.mark.parametrize(
    "source, said", [("import tensorfow\n", "No module named 'tensorfow'"), ("def broken(:\n", "SyntaxError")]
)
@pytest.mark.parametrize("name", ["own.py:Mine", "own:Mine"])
def test_a_file_that_does_not_import_shows_the_users_own_frames_only(
    folder: Path, source: str, said: str, name: str
) -> None:
    (folder / "own.py").write_text(source)
    with pytest.raises(ConfigError) as caught:
        load_task(name, {}, folder)
    assert said in str(caught.value)
    shown = user_traceback(caught.value)
    assert "own.py" in shown
    assert "importlib" not in shown
    assert "trainer/task.py" not in shown


def test_a_users_package_called_trainer_that_is_named_as_a_module_is_told_the_way(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/task.py").write_text("class Mine: ...\n")
    with pytest.raises(ConfigError) as caught:
        load_task("trainer.task:Mine", {}, tmp_path)
    assert caught.value.remedy == "trainer is orch's own package; one of yours is loaded by file: trainer/task.py:Mine"
    with pytest.raises(ConfigError) as caught:
        load_task("trainer.task:Mine", {}, tmp_path / "trainer")
    assert "orch's own" not in caught.value.remedy


def test_a_users_package_called_trainer_is_loaded_by_file(tmp_path: Path) -> None:
    package = tmp_path / "trainer"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    (package / "helper.py").write_text("WIDTH = 7\n")
    (package / "task.py").write_text(
        "from trainer.task import Task\nimport helper\n\nclass Mine(Task):\n    width = helper.WIDTH\n"
    )
    program = (
        "from trainer.task import load_task\n"
        f"task = load_task('trainer/task.py:Mine', {{}}, {str(tmp_path)!r})\n"
        "print(type(task).__name__, task.width)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "Mine 7", done.stderr


def test_loading_a_task_does_not_import_tensorflow() -> None:
    program = (
        "import sys\n"
        "from trainer.task import load_task\n"
        "load_task('trainer.tasks.digits:Digits', {})\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", program], timeout=60, check=False).returncode == 0
