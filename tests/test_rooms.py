"""Who may import whom: the rules of docs/architecture.md, held by reading sources and importing in fresh processes."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What must not be loaded by whatever runs on the user's machine, as agent, or as writer.
HEAVY = ("tensorflow", "keras", "h5py", "tensorboard")
# What agents and the user's machine live on. All else in trainer may be about TensorFlow.
LIGHT = (
    "trainer.agent",
    "trainer.checkpoint.code",
    "trainer.checkpoint.made_with",
    "trainer.checkpoint.restore",
    "trainer.checkpoint.retention",
    "trainer.checkpoint.shards",
    "trainer.checkpoint.writer",
    "trainer.cluster",
    "trainer.config",
    "trainer.coordinator",
    "trainer.errors",
    "trainer.exit_codes",
    "trainer.faults",
    "trainer.lifeline",
    "trainer.memory",
    "trainer.retry",
    "trainer.rundir",
    "trainer.task",
    "trainer.wire",
)


def modules_of(package: str) -> list[str]:
    """Dotted names of all modules of a package, except `__main__`, whose import would run it."""
    names = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if not name.endswith(".__main__")]


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import statement, wherever it stands in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""


def is_part_of(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def loaded_by(modules: list[str], unwanted: tuple[str, ...]) -> str:
    """Import all modules in one fresh process: a line for each unwanted package, with the module that brought it."""
    program = f"""
import importlib, sys
seen = set()
for name in {modules!r}:
    importlib.import_module(name)
    for package in {unwanted!r}:
        if package in sys.modules and package not in seen:
            seen.add(package)
            print(name, "loads", package)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_orchestrator_loads_neither_tensorflow_nor_a_client_of_kubernetes_or_gcs() -> None:
    assert loaded_by(modules_of("orchestrator"), (*HEAVY, "kubernetes", "google.cloud.storage")) == ""


def test_importing_agent_writer_and_run_directory_loads_no_tensorflow() -> None:
    light = [name for name in modules_of("trainer") if is_part_of(name, LIGHT)]
    for package in LIGHT:
        assert any(is_part_of(name, (package,)) for name in light), f"{package} is not there any more"
    assert loaded_by(light, (*HEAVY, "google.cloud.storage")) == ""


def test_trainer_imports_nothing_of_the_users_machine() -> None:
    strangers = ("orchestrator", "k8s", "kubernetes", "click", "rich", "yaml", "tests")
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sorted((ROOT / "trainer").rglob("*.py"))
        for line, module in imports_of(path)
        if is_part_of(module, strangers)
    ]
    assert found == []


def test_orchestrator_uses_of_trainer_only_what_is_free_of_tensorflow() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sorted((ROOT / "orchestrator").rglob("*.py"))
        for line, module in imports_of(path)
        if is_part_of(module, HEAVY) or (is_part_of(module, ("trainer",)) and not is_part_of(module, LIGHT))
    ]
    assert found == []


def rooms_of(package: str) -> dict[str, set[str]]:
    """Room -> the rooms that it may import, from the table of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition(f"## Rooms of the {package}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    return {room.strip(): {name.strip() for name in may.split(",") if name.strip()} for room, _what, may in rows}


def parts_imported_by(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import statement: `from trainer.rundir import commits` names a module by its second part."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((node.module or "", alias.name) for alias in node.names)


def rooms_named_by(path: Path, package: str) -> Iterator[str]:
    """The room of every import of this package; of the package itself, an empty name."""
    for module, name in parts_imported_by(path):
        if module == package:
            yield name
        elif module.startswith(package + "."):
            yield module.split(".")[1]


@pytest.mark.parametrize(("package", "above_all"), [("orchestrator", {"cli"}), ("trainer", set())])
def test_a_room_imports_the_rooms_that_the_table_allows_it_and_nothing_else(package: str, above_all: set[str]) -> None:
    allowed = rooms_of(package)
    places = {
        path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert allowed.keys() == places - {"__init__"} - above_all, "every module is in a room of the table"
    found = []
    for room, may in allowed.items():
        assert may <= allowed.keys(), f"{room} may import a room that the table does not have"
        place = ROOT / package / room
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
            strangers = set(rooms_named_by(path, package)) - {room, *may}
            found += [f"{path.relative_to(ROOT)} imports {other or package}" for other in sorted(strangers)]
    assert found == []


@pytest.mark.parametrize("package", ["orchestrator", "trainer"])
def test_rooms_stand_in_no_circle(package: str) -> None:
    """Each imports rooms that stand above it in the table."""
    above: set[str] = set()
    for room, may in rooms_of(package).items():
        assert may <= above, f"{room} imports {may - above}, which stands below it"
        above.add(room)


@pytest.mark.parametrize("package", ["orchestrator", "trainer"])
def test_files_import_each_other_in_no_circle(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    left = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    arrows = {
        name: {
            f"{module}.{part}" if f"{module}.{part}" in left else module
            for module, part in parts_imported_by(path)
            if module in left or f"{module}.{part}" in left
        }
        for name, path in left.items()
    }
    for name, others in arrows.items():
        others.discard(name)  # a package's own `from package import module`
    while free := {name for name, others in arrows.items() if not others & arrows.keys()}:
        arrows = {name: others for name, others in arrows.items() if name not in free}
    assert arrows == {}, "what is left stands in a circle, or above one"


def test_what_is_larger_than_the_rest_is_better_whole_and_the_page_says_why() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (why,) = [part for part in text.split("\n\n") if "are better whole" in " ".join(part.split())]
    large = set()
    for package in ("orchestrator", "trainer"):
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
            longest = max(((node.end_lineno or 0) - node.lineno + 1 for node in functions), default=0)
            if len(source.splitlines()) > 400 or longest > 60:
                large.add(str(path.relative_to(ROOT / package)))
    assert large == set(re.findall(r"`([\w/]+\.py)`", why))


def test_a_class_of_one_name_is_one_class_unless_the_page_says_what_each_is() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (why,) = [part for part in text.split("\n\n") if "stand for two classes each" in part]
    names = [
        node.name
        for package in ("orchestrator", "trainer")
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert {name for name in names if names.count(name) > 1} == set(re.findall(r"`([A-Z]\w+)`", why))


def test_only_kube_talks_to_the_api_server() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "orchestrator").rglob("*.py"))
        for _line, module in imports_of(path)
        if is_part_of(module, ("kubernetes",))
    }
    assert found <= {"orchestrator/kube/client.py", "orchestrator/kube/connection.py"}


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    # Put together here, so that this file does not contain them.
    forbidden = [f"/{folder}/" for folder in ("work", "root", "home/" + "dev")] + ["/opt/" + "wheels"]
    found = [
        f"{name} contains {text}"
        for name in listed.stdout.split("\0")
        if name and (ROOT / name).is_file()
        for text in forbidden
        if text.encode() in (ROOT / name).read_bytes()
    ]
    assert found == []
