"""What the README and examples/ show works as it stands there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ORCH = Path(sys.executable).with_name("orch")


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M)


def orch(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.run(
        [ORCH, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def result_of(*arguments: str, cwd: Path) -> dict[str, Any]:
    done = orch("run", *arguments, "-o", "json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with the README's task.py and job.yaml, as a reader would have it."""
    (tmp_path / "task.py").write_text(blocks("python")[0])
    (tmp_path / "job.yaml").write_text(blocks("yaml")[0])
    return tmp_path


def test_the_readmes_job_file_renders(copied: Path) -> None:
    done = orch("render", "job.yaml", "--set", "image={ref: registry.example/sums:1}", cwd=copied)
    assert done.returncode == 0, done.stderr
    assert "Job" in {item["kind"] for item in yaml.safe_load_all(done.stdout)}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/*.yaml")), ids=lambda path: path.parent.name)
def test_every_example_renders_once_it_has_an_image_and_a_bucket(path: Path) -> None:
    where = ("--set", "image.ref=registry.example/trainer:1", "--set", "run.directory=gs://bucket/run")
    done = orch("render", str(path), *where, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_readmes_job_trains_with_two_workers_and_goes_on_from_where_it_was(copied: Path) -> None:
    first = result_of("job.yaml", "--workers", "2", "--set", "train.steps=100", cwd=copied)
    assert (first["state"], first["step"], first["restarts"]) == ("succeeded", 100, 0)
    again = result_of("job.yaml", "--set", "train.steps=150", cwd=copied)
    assert (again["state"], again["step"], again["restarts"]) == ("succeeded", 150, 0)
    assert again["attempts"] > first["attempts"]
    assert again["metrics"]["val_loss"] < first["metrics"]["val_loss"]


@pytest.mark.slow
@pytest.mark.soak
def test_the_demo_reads_handwritten_digits_it_has_not_seen(tmp_path: Path) -> None:
    job = ROOT / "examples" / "digits" / "job.yaml"
    done = orch("run", str(job), "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^test accuracy (0\.\d{4})$", done.stdout, re.M)
    assert found, done.stdout
    assert float(found[1]) >= 0.95
    assert "run directory: runs/digits" in done.stdout
