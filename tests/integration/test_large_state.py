"""A state of 300 MB: killed, resumed, exported, within the memory that docs/fault-tolerance.md asks for."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from checkpoint_memory import Measured, measure

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.soak_ci]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return measure(tmp_path_factory.mktemp("large"), 300)


def test_a_killed_job_of_300_mb_resumes_with_the_bytes_that_were_saved(measured: Measured) -> None:
    assert measured.state == "succeeded"
    assert measured.restored_step >= 5
    assert measured.state_bytes > 290e6
    assert measured.differing == []


def test_a_restore_holds_the_state_twice_and_never_three_times(measured: Measured) -> None:
    assert measured.state_bytes < measured.peaks.restore <= measured.restore_bound, measured.text()


def test_saves_add_one_copy_of_the_state_and_less_than_a_shard(measured: Measured) -> None:
    assert measured.state_bytes <= measured.peaks.saving <= measured.saving_bound, measured.text()


def test_the_export_has_the_room_of_the_saves(measured: Measured) -> None:
    assert measured.peaks.export <= measured.peaks.training + measured.saving_bound, measured.text()
    assert measured.peaks.total <= measured.total_bound, measured.text()
