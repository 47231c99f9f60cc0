"""A job goes on with another number of workers: the same examples in every step, the same weights but for rounding."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support_faults import Disturbed

from trainer.checkpoint import restore
from trainer.rundir.commits import list_commits
from trainer.rundir.open import open_store

pytestmark = pytest.mark.slow

JOB = """
name: elastic
train:
  task: support_tasks.py:{task}
  params: {params}
  steps: {steps}
  global_batch_size: 24
  seed: 9
checkpoint: {{every: 50}}
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Disturbed]]:
    with Disturbed.room(tmp_path, JOB) as begin:
        yield begin


def final_state(directory: Path) -> restore.Restored:
    store = open_store(str(directory))
    return restore.load(store, list_commits(store)[-1])


@pytest.mark.soak
def test_four_workers_then_two_then_one_see_the_same_examples(start: Callable[..., Disturbed]) -> None:
    params = {"batch": 24, "pause_s": 0.0}
    alone = start("Numbered", workers=1, steps=180, params=params)
    assert alone.result()["state"] == "succeeded"
    expected = final_state(alone.directory)
    for workers, steps in ((4, 60), (2, 120), (1, 180)):
        run = start("Numbered", "--directory", "shrinking", workers=workers, steps=steps, params=params)
        assert (result := run.result())["state"] == "succeeded", run.log
        assert result["step"] == steps
    found = final_state(alone.directory.parent.parent / "shrinking")
    (seen,) = [key for key in expected.arrays if key.startswith("task/")]
    assert np.array_equal(found.arrays[seen][:180], expected.arrays[seen][:180])
    assert (expected.arrays[seen][:180].sum(axis=1) == 24).all()
    differences = []
    for key, array in expected.arrays.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(found.arrays[key], array, rtol=1e-4, atol=1e-6)
            differences.append(float(np.abs(found.arrays[key] - array).max()))
    print(f"largest difference of any weight: {max(differences):.1e}")
