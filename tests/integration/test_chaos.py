"""A short run of chaos; `make chaos` is the long one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.faults import KINDS, draw, draw_end

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("store", ["gcs", "local"])
def test_a_seed_draws_the_same_faults_each_time_and_all_kinds_in_the_long_run(store: str) -> None:
    def drawn(seed: int, count: int) -> list[tuple[str, float, str]]:
        faults = [draw(seed, number, workers=3, store=store) for number in range(1, count + 1)]
        return [(fault.kind.name, fault.pause_s, fault.told) for fault in faults]

    assert drawn(1, 200) == drawn(1, 200)
    assert drawn(1, 20) != drawn(2, 20)
    assert {kind for kind, _, _ in drawn(1, 200)} == {kind.name for kind in KINDS if store in kind.stores}
    assert [draw_end(1, leg, 3) for leg in range(9)] == [draw_end(1, leg, 3) for leg in range(9)]


@pytest.mark.slow
@pytest.mark.soak
def test_a_few_faults_of_any_kind_lose_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seed", "5", "--faults", "3", "--folder", str(tmp_path / "chaos")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert re.search(r"seed 5, 3 faults, \d+ jobs of 3 workers on gcs: 0 violations", done.stdout)
