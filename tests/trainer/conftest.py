"""Which tests of the trainer run on TensorFlow 2.19.1 too: the fast ones of modules that load TensorFlow."""

import re
from pathlib import Path

import pytest

_LOADS_TENSORFLOW = re.compile(
    r"^\s*(import|from) (keras|tensorflow|support_hooks|tasks_for_tests|data_tasks)\b|importorskip\(\"(keras|data_tasks)\"\)",
    re.M,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    chosen = {
        path for path in {item.path for item in here} if _LOADS_TENSORFLOW.search(path.read_text(encoding="utf-8"))
    }
    for item in here:
        if item.path in chosen and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.tf219)
