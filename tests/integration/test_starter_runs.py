"""What `orch init` writes trains as it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ORCH = str(Path(sys.executable).with_name("orch"))


@pytest.mark.slow
def test_the_script_that_init_writes_runs_as_it_is(tmp_path: Path) -> None:
    subprocess.run([ORCH, "init", "--script", "train.py"], cwd=tmp_path, check=True, timeout=60)
    run = [ORCH, "run", "job.yaml", "-o", "json", "--set", "train.args=[--epochs, 2]"]
    result = subprocess.run(run, cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    assert json.loads(result.stdout)["state"] == "succeeded", result.stdout


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.soak_ci), "2"])
def test_what_init_writes_trains_as_it_is(tmp_path: Path, workers: str) -> None:
    folder = tmp_path / "2nd Try"
    folder.mkdir()
    subprocess.run([ORCH, "init"], cwd=folder, check=True, timeout=60)
    run = [ORCH, "run", "job.yaml", "--workers", workers, "-o", "json"]
    result = subprocess.run(run, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout
    end = json.loads(result.stdout)
    assert end["state"] == "succeeded"
    assert end["name"] == "job-2nd-try"
    assert end["step"] == 1000
    assert end["metrics"]["val_accuracy"] > 0.95
