"""A short run of chaos; `make chaos` is the long one."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_a_few_faults_of_any_kind_lose_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seed", "5", "--faults", "4", "--folder", str(tmp_path / "chaos")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "4 faults, 1 jobs of 3 workers on gcs: 0 violations" in done.stdout
