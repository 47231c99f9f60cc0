""".ci/run in a copy, with commands that only note that they were called: what runs where, and what is said at the end."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "run"
NEEDS_NO_CLUSTER = ["make test", "make test-tf219", "make conformance-ci", "make soak-ci"]
NEEDS_NO_CLUSTER += ["make chaos FAULTS=4 SEED=2", "make chaos FAULTS=2 SEED=2 STORE=local"]
NOTES_ITS_CALL = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$CALLS"
[ "$*" != "$FAILS" ]
"""


class Copy:
    """A checkout with nothing but the script in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._calls = folder / "calls"
        self._calls.touch()
        (folder / "project" / ".ci").mkdir(parents=True)
        shutil.copy(SCRIPT, folder / "project" / ".ci" / "run")
        self.program(folder / "bin" / "make")

    def program(self, path: Path) -> None:
        """A program that notes how it was called."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NOTES_ITS_CALL)
        path.chmod(0o755)

    def run(self, fails: str = "") -> tuple[int, list[str], list[str]]:
        """Exit code, what was called, and the last lines. `fails`: the arguments of the call that fails."""
        done = subprocess.run(
            [self.folder / "project" / ".ci" / "run"],
            env=os.environ
            | {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "CALLS": str(self._calls), "FAILS": fails},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        texts = [line.partition("] ")[2] for line in done.stdout.splitlines() if line.startswith("[")]
        return done.returncode, self._calls.read_text().splitlines(), texts[-2:]


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_a_stranger_runs_all_that_needs_no_cluster_and_is_told_what_was_left_out(copy: Copy) -> None:
    code, called, last = copy.run()
    assert (code, called) == (0, NEEDS_NO_CLUSTER)
    assert last[0].startswith("left out: make e2e-ci, and the cluster for it: there is no ../shared/cluster; ")
    assert last[1] == "all passed that was run"


def test_what_fails_is_named_beside_what_was_left_out(copy: Copy) -> None:
    code, called, last = copy.run(fails="soak-ci")
    assert (code, called) == (1, NEEDS_NO_CLUSTER)
    assert last[0].startswith("left out: make e2e-ci")
    assert last[1] == "FAILED: make soak-ci; "


@pytest.mark.parametrize(
    ("fails", "code", "end"), [("", 0, "all passed"), ("e2e-ci", 1, "FAILED: make e2e-ci; ")], ids=["well", "badly"]
)
def test_beside_a_program_that_builds_a_cluster_everything_runs(copy: Copy, fails: str, code: int, end: str) -> None:
    copy.program(copy.folder / "shared" / "cluster" / "cluster")
    copy.program(copy.folder / "bin" / "kubectl")
    found, called, last = copy.run(fails=fails)
    assert (found, last[1]) == (code, end)
    assert [call for call in called if call in NEEDS_NO_CLUSTER] == NEEDS_NO_CLUSTER
    assert [call for call in called if call.startswith(("cluster", "make e2e"))] == [
        "cluster build",
        "cluster up",
        "cluster image . trainer:ci",
        "cluster env",
        "make e2e-ci",
        "cluster down",
    ]


def test_a_program_that_cannot_build_one_is_a_failure(copy: Copy) -> None:
    copy.program(copy.folder / "shared" / "cluster" / "cluster")
    code, called, last = copy.run(fails="build")
    assert (code, last[1]) == (1, "FAILED: cluster build; ")
    assert "make e2e-ci" not in called
