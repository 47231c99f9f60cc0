"""Compiled blocks and evaluations, in one process with two logical CPUs: see support_block_program.py."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "support_block_program.py"
CHECKS = [
    node.name
    for node in ast.parse(PROGRAM.read_text()).body
    if isinstance(node, ast.FunctionDef) and any(ast.unparse(item) == "check" for item in node.decorator_list)
]


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    done = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_that(results: dict[str, str], name: str) -> None:
    assert results[name] == "ok", results[name]
