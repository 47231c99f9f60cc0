"""The registry of checks: a check is declared once, and all that names it follows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.preflight import take
from orchestrator.preflight.check import Check, Finding, Level, Registry, error, ok
from orchestrator.preflight.subject import CLUSTER_CHECKS, JOB_CHECKS
from trainer.errors import ConfigError

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "kubernetes.md"
NEW_CHECK = '''
"""Whether the disk is large enough."""

from orchestrator.preflight.check import Finding, ok
from orchestrator.preflight.subject import JOB_CHECKS, Candidate


@JOB_CHECKS.check("disk", 165, before_image=True, what="the disk of a worker", error_when="too small")
def _disk(on: Candidate) -> Finding:
    return ok("large enough")
'''
USE_OF_IT = """
from orchestrator.cli.main import run
from orchestrator.preflight import lines, take
from orchestrator.preflight.subject import JOB_CHECKS

names = JOB_CHECKS.skippable()
print(names[names.index("disk") - 1 : names.index("disk") + 2])
print([line for line in JOB_CHECKS.table() if "disk" in line])
print(lines(take([check for check in JOB_CHECKS.all() if check.name == "disk"], None)))
print([check.name for check in JOB_CHECKS.all() if check.before_image])
print(take([check for check in JOB_CHECKS.all() if check.name == "disk"], None, skip=["disk"]))
print(run(["check", "absent.yaml", "--skip", "dsik"]), run(["check", "absent.yaml", "--skip", "disk"]))
"""


def test_the_checks_of_a_job_stand_in_the_order_in_which_they_are_told() -> None:
    assert [check.name for check in JOB_CHECKS.all() if check.basic] == ["cluster", "namespace"]
    assert " ".join(JOB_CHECKS.skippable()) == (
        "permissions name run-directory references add-ons secrets program quota limits nodes network-policy image bucket "
        "checkpoints memory grace pod dry-run"
    )
    assert [check.name for check in JOB_CHECKS.all() if check.before_image] == [
        "permissions",
        "name",
        "run-directory",
        "program",
        "quota",
    ]


def test_the_checks_of_a_cluster_stand_in_the_order_in_which_they_are_told() -> None:
    assert " ".join(check.name for check in CLUSTER_CHECKS.all()) == (
        "cluster namespace permissions pod job webhooks dns nodes network-policy jobset kueue quota limits priorities "
        "account storage capacity"
    )


@pytest.mark.parametrize(
    ("registry", "heading"),
    [
        pytest.param(JOB_CHECKS, "## What is checked", id="orch check"),
        pytest.param(CLUSTER_CHECKS, "## Once per cluster", id="orch doctor"),
    ],
)
def test_the_documentation_has_every_check_as_it_is_declared(registry: Registry[object], heading: str) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(f"{heading}\n")
    found = re.search(r"(?m)^\| check \|.*\n(\|.*\n)+", rest)
    assert found is not None, f"{heading} has no table of checks"
    table = "\n".join(registry.table()) + "\n"
    if os.environ.get("ORCH_REWRITE_GOLDEN"):
        DOCUMENT.write_text(f"{before}{heading}\n{rest[: found.start()]}{table}{rest[found.end() :]}", encoding="utf-8")
        return
    assert found[0] == table


def test_whatever_speaks_of_skipping_a_check_names_one_that_there_is() -> None:
    known = {*JOB_CHECKS.skippable(), "all"}
    sources = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"]
    sources += [*(ROOT / "orchestrator").rglob("*.py"), *(ROOT / "tests" / "e2e").glob("*.py")]
    named = {
        (path.name, name)
        for path in sources
        for name in re.findall(r"""--skip["', ]+([a-z][a-z-]*)""", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 5
    assert {(file, name) for file, name in named if name not in known} == set()


def test_a_check_is_one_file(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "orchestrator", tmp_path / "orchestrator", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "orchestrator" / "preflight" / "disk.py").write_text(NEW_CHECK)
    done = subprocess.run(
        [sys.executable, "-P", "-c", USE_OF_IT],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "['memory', 'disk', 'grace']",
        "['| disk | the disk of a worker | too small |']",
        "['ok       disk  large enough']",
        "['permissions', 'name', 'run-directory', 'program', 'quota', 'disk']",
        "[]",
        # The name is known, and the job file is what is missing; a misspelled one is refused.
        "2 78",
    ], done.stderr
    assert "'dsik' is not one of 'all', 'permissions'," in done.stderr


def test_two_checks_cannot_have_one_name_or_one_place() -> None:
    registry = Registry[None]()
    registry.check("quota", 10, what="", error_when="")(lambda _: ok("fine"))
    with pytest.raises(ValueError, match="quota \\(10\\) has this name or place already"):
        registry.check("quota", 20, what="", error_when="")
    with pytest.raises(ValueError, match="quota \\(10\\) has this name or place already"):
        registry.check("nodes", 10, what="", error_when="")


def test_nothing_is_asked_where_what_is_basic_does_not_hold_and_what_raises_is_an_error() -> None:
    registry = Registry[str]()
    asked: list[str] = []

    def ask(name: str) -> Finding:
        asked.append(name)
        return ok("fine")

    @registry.check("cluster", 10, basic=True, what="", error_when="")
    def _cluster(subject: str) -> Finding:
        return error("away") if subject == "away" else ok("there")

    @registry.check("bucket", 30, what="", error_when="")
    def _bucket(_: str) -> Finding:
        raise ConfigError("no such bucket", remedy="correct it")

    registry.check("nodes", 20, what="", error_when="")(lambda _: ask("nodes"))
    declared = registry.all()
    assert take(declared, "away") == [Check("cluster", Level.ERROR, "away")]
    assert asked == []
    assert take(declared, "there") == [
        Check("cluster", Level.OK, "there"),
        Check("nodes", Level.OK, "fine"),
        Check("bucket", Level.ERROR, "no such bucket", "correct it"),
    ]
    assert asked == ["nodes"]
    assert [check.name for check in take(declared, "there", skip=["nodes"])] == ["cluster", "bucket"]
    assert [check.name for check in take(declared, "there", skip=["all"])] == ["cluster"]
