"""What docs name is there: modules, pages, and targets of make."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
ABOUT_THE_CODE = [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"]
ROOMS = ("orchestrator", "trainer", "tests", "benchmarks", "tools", "k8s")


def modules() -> set[str]:
    """Every module's path, as /orchestrator/jobs/submit.py."""
    return {f"/{path.relative_to(ROOT)}" for room in ROOMS for path in (ROOT / room).rglob("*.py")}


@pytest.mark.parametrize("page", ABOUT_THE_CODE, ids=lambda page: page.name)
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    named = set(re.findall(r"(?<![\w./-])([\w./-]+\.py)(?![\w-])", page.read_text(encoding="utf-8")))
    known = modules()
    assert named
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in known)} == set()


def test_architecture_names_a_module_with_its_room() -> None:
    """Some names are in several rooms: text.py, names.py, check.py."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w./-])([\w./-]+\.py)(?![\w-])", text))
    known = {f"{place}{name}" for place in ("", "orchestrator/", "trainer/") for name in named} & {
        path.removeprefix("/") for path in modules()
    }
    alone = {name for name in named if "/" not in name}
    assert alone | {name for name in named if not any(path.endswith(name) for path in known)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_that_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_of_make_that_a_page_names_is_there(page: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert set(re.findall(r"(?m)(?:`|^    )make ([a-z0-9-]+)", page.read_text(encoding="utf-8"))) - targets == set()
