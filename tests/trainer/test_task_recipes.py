"""The recipes of docs/writing-a-task.md are files of examples/recipes: each trains, and what they keep survives a kill."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "support_task_recipes.py"
RECIPES = sorted(path.stem for path in (ROOT / "examples" / "recipes").glob("*.py"))
GIVES = {
    "callbacks": {"loss", "accuracy", "val_loss", "val_accuracy"},
    "by_number": {"loss", "val_loss"},
    "dataset": {"loss", "val_loss"},
    "evaluation": {"loss", "val_mse", "val_psnr"},
    "exports": {"loss", "val_loss"},
    "images": {"loss", "accuracy", "val_loss", "val_accuracy"},
    "own_step": {"loss", "gradient_norm", "accuracy"},
    "pydataset": {"loss", "val_loss"},
    "two_networks": {"judge", "forger"},
}
EVALUATED = {"callbacks": [3, 6, 9], "evaluation": [3, 6, 8], "exports": [3, 6, 8]}
KILLED = {"by_number", "callbacks", "layers", "two_networks"}

pytestmark = [pytest.mark.slow, pytest.mark.tf219]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of each recipe; all are trained by one process."""
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path_factory.mktemp("recipes")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=True,
    )
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {one["recipe"].partition(":")[0]: one for one in told}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_and_its_export_is_read(trained: dict[str, dict[str, Any]], recipe: str) -> None:
    found = trained[recipe]
    assert "error" not in found, found["error"]
    assert found["step"] == (9 if recipe == "callbacks" else 8)
    assert set(found["metrics"]) == GIVES.get(recipe, {"loss"})
    assert all(math.isfinite(value) for value in found["metrics"].values())
    assert found["evaluations"] == EVALUATED.get(recipe, [8] if "val_loss" in found["metrics"] else [])
    assert found["exported"] == "model.keras"
    assert found["loaded"] in ("Sequential", "Functional", "Classifier")
    assert found["best"] is (recipe == "exports")


@pytest.mark.parametrize("recipe", sorted(KILLED))
def test_what_a_recipe_keeps_survives_a_kill(trained: dict[str, dict[str, Any]], recipe: str) -> None:
    assert trained[recipe]["sha256_of_killed"] == trained[recipe]["sha256"]
