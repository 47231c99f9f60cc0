"""Jobs of the task that tests/trainer/data_tasks.py has in several forms of data."""

from pathlib import Path
from typing import Any

from support_worker import run


def job(folder: Path, form: str, **options: Any) -> Any:
    """Its worker processes in `folder`, as support_worker.run has them. `train`: fields beside those of all such jobs."""
    train = {
        "task": "data_tasks.py:Forms",
        "params": {"form": form},
        "epochs": 4,
        "global_batch_size": 8,
        "seed": 5,
        "compile": "graph",
        **options.pop("train", {}),
    }
    return run(folder, train, **{"task_root": Path(__file__).parent / "trainer", **options})
