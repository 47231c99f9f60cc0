"""Killed at any point between the last step and the exit of the last agent, a job ends in success with the same export."""

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_faults import Disturbed

from trainer.faults import arm

pytestmark = pytest.mark.slow

JOB = """
name: end
train:
  task: support_tasks.py:{task}
  params: {params}
  steps: {steps}
  global_batch_size: 64
  seed: 3
checkpoint: {{every: 60}}
restarts: {{max: {budget}, hang_timeout: {hang}}}
"""

CHAIN_S = 500.0
"""For a dozen attempts, beside other tests."""

# In the order in which a job reaches them; each death leads to another attempt, which then meets the next.
POINTS = [
    ("writer.after-commit", None, 0),  # of the one save there is: others, of a machine that is slow, would be skipped
    ("process.last-saved", 1, 0),
    ("process.last-saved", 0, 0),
    ("process.exported", 0, 0),
    ("process.reported", 0, 0),
    ("process.left", 1, 0),
    ("agent.process-ended", 1, 0),
    ("agent.process-ended", 0, 0),
    ("agent.end-known", 1, 0),
    ("agent.end-known", 0, 0),
    ("agent.before-exit", 1, 0),
    ("agent.before-exit", 0, 0),
]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Disturbed]]:
    with Disturbed.room(tmp_path, JOB) as begin:
        yield begin


def exported(path: str) -> dict[str, Any]:
    """The arrays of an exported model, by their names in the file."""
    import h5py

    found: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def check(run: Disturbed, result: dict[str, Any], whole: dict[str, Any], weights: dict[str, Any]) -> None:
    assert (result["state"], result["code"]) == ("succeeded", 0)
    assert result["weights_sha256"] == whole["weights_sha256"]
    newest = max(run.directory.glob("export/attempt-*/model.keras"), key=lambda path: int(path.parent.name[8:]))
    now = exported(str(newest))
    assert now.keys() == weights.keys()
    assert all(np.array_equal(now[name], weights[name]) for name in weights)


@pytest.mark.soak
@pytest.mark.soak_ci
def test_killed_at_each_point_of_the_end_in_one_run(start: Callable[..., Disturbed]) -> None:
    first = start("Paced", workers=2, steps=60, params={"pause_s": 0.0})
    whole = first.result()
    weights = exported(str(first.directory / "export/attempt-1/model.keras"))
    run = start("Paced", "--directory", "killed", workers=2, steps=60, deadline_s=CHAIN_S)
    run.directory = run.directory.parent.parent / "killed"
    armed = [arm(run.faults, point, "kill", worker=worker, passes=passes) for point, worker, passes in POINTS]
    result = run.result()
    check(run, result, whole, weights)
    # Whoever knows of the end does not start again: the points behind it are met by one life of each agent.
    left = {path.name for path in armed if path.exists()}
    assert not {name for name in left if not name.startswith("agent.")}
    assert "agent.end-known.worker-1" not in left or "agent.before-exit.worker-1" not in left


@pytest.mark.soak
@pytest.mark.parametrize(
    ("point", "worker", "passes"), [*POINTS, ("coordinator.before-append", 0, 1), ("coordinator.after-append", 0, 1)]
)
def test_killed_at_one_point_of_the_end(
    start: Callable[..., Disturbed], point: str, worker: int | None, passes: int
) -> None:
    first = start("Paced", workers=2, steps=60, params={"pause_s": 0.0})
    whole = first.result()
    weights = exported(str(first.directory / "export/attempt-1/model.keras"))
    run = start("Paced", "--directory", "killed", workers=2, steps=60)
    run.directory = run.directory.parent.parent / "killed"
    armed = arm(run.faults, point, "kill", worker=worker, passes=passes)
    check(run, run.result(), whole, weights)
    assert not armed.exists()
