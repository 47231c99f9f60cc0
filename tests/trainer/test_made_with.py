"""What a checkpoint was made with: code by its meaning, followed through imports; data by its values; one line a change."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.checkpoint.made_with import KEY, DataMark, MadeWith, changes, code_of, flat, of_host_state, of_job
from trainer.config import TrainSection
from trainer.rundir.commits import Commit


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "task.py").write_text("import numpy\nimport helper\nfrom package import part\n")
    (tmp_path / "helper.py").write_text("import task\n\ndef f(x):\n    return x + 1\n")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("from . import sibling\nfrom .sibling import VALUE\n")
    (package / "sibling.py").write_text("VALUE = 1\n")
    (tmp_path / "unused.py").write_text("VALUE = 1\n")
    return tmp_path


@pytest.mark.parametrize("task", ["task.py:Mine", "task:Mine"])
def test_code_is_the_task_and_what_it_imports_from_its_folder(root: Path, task: str) -> None:
    files = {"task.py", "helper.py", "package/__init__.py", "package/part.py", "package/sibling.py"}
    before = code_of(task, root)
    assert set(before) == files
    (root / "helper.py").write_text("import task\n\n# said\ndef f( x ):\n    return x + 1\n")
    (root / "unused.py").write_text("VALUE = 2\n")
    assert code_of(task, root) == before, "neither comments, nor layout, nor other files"
    (root / "package/sibling.py").write_text("VALUE = 2\n")
    after = code_of(task, root)
    assert {file for file in files if before[file] != after[file]} == {"package/sibling.py"}


def test_a_task_of_orch_changes_with_its_version_and_is_not_looked_at(tmp_path: Path) -> None:
    assert code_of("trainer.tasks.digits:Digits", tmp_path) == {}
    assert code_of("no.such.module:Mine", tmp_path) == {}
    (tmp_path / "broken.py").write_text("def :\n")
    assert code_of("broken.py:Mine", tmp_path) == {}


def test_each_change_is_one_line(root: Path) -> None:
    then = of_job(TrainSection(task="task.py:Mine", steps=1, params={"a": 1, "gone": True}), str(root))
    (root / "helper.py").unlink()
    (root / "task.py").write_text("import more\nfrom package import part\n")
    (root / "more.py").write_text("")
    now = of_job(TrainSection(task="task.py:Mine", steps=1, params={"a": 2}), str(root))
    assert changes(then, then) == []
    assert set(changes(then, now)) == {
        "train.params.a 1 -> 2",
        "train.params.gone True -> (not given)",
        "task.py has changed",
        "more.py is new",
        "helper.py is no longer used",
    }


def test_a_script_is_told_by_its_code_and_its_arguments(root: Path) -> None:
    then = of_job(TrainSection(script="task.py", args=["--epochs", "3"]), str(root))
    assert set(then.code) == set(code_of("task.py:Mine", root))
    (root / "helper.py").write_text("changed = 1\n")
    now = of_job(TrainSection(script="task.py", args=["--epochs", "4"]), str(root))
    assert set(changes(then, now)) == {
        "train.args ['--epochs', '3'] -> ['--epochs', '4']",
        "helper.py has changed",
    }
    task = of_job(TrainSection(task="task.py:Mine", steps=1), str(root))
    assert changes(task, now.model_copy(update={"args": []})) == ["train.task task.py:Mine -> train.script task.py"]


def test_what_is_not_known_has_not_changed() -> None:
    mark = DataMark(examples=3, shapes=["float32[2]"], checksum="a")
    then = MadeWith(task="t", code={"t.py": "1"}, train_data=mark, optimizer={"learning_rate": 0.1})
    assert changes(then, MadeWith(task="t")) == []
    assert of_host_state({}) is None
    assert of_host_state({"made_with": {"params": 3}}) is None
    other = mark.model_copy(update={"examples": None, "checksum": "b"})
    assert changes(then, then.model_copy(update={"train_data": other})) == ["train_data holds other values"]
    other = mark.model_copy(update={"shapes": ["uint8[2]"]})
    assert changes(then, then.model_copy(update={"train_data": other})) == [
        "train_data is uint8[2], and was float32[2]"
    ]
    assert of_host_state({"made_with": then.model_dump(mode="json")}) == then


def test_the_digest_of_data_follows_its_values() -> None:
    pytest.importorskip("tensorflow")
    from trainer.data.sources import source_of
    from trainer.process.fingerprint import mark_of

    def mark(x: object, y: object) -> DataMark:
        return mark_of(source_of((x, y), lambda: None, "train_data"))

    x, y = np.zeros((500, 3), "float32"), np.array(["a", "b"] * 250)
    first = mark(x, y)
    assert first == mark(x.copy(), y.copy())
    assert first.examples == 500
    x[317, 1] = 1
    assert mark(x, y).checksum != first.checksum
    large = np.zeros((300, 300_000), "uint8")
    before = mark(large, y[:300])
    large[-1] = 1
    assert mark(large, y[:300]).checksum != before.checksum, "of large data a sample, with its ends"


def test_sparse_and_ragged_data_are_compared_by_their_values() -> None:
    tf = pytest.importorskip("tensorflow")
    sparse = pytest.importorskip("scipy.sparse")
    from trainer.data.sources import source_of
    from trainer.process.fingerprint import mark_of

    def mark(value: float) -> DataMark:
        table = sparse.csr_matrix(np.diag([1.0, 2.0, value]))
        words = tf.ragged.constant([[1], [2, 3], [4]])
        return mark_of(source_of(((table, words), np.zeros(3)), lambda: None, "train_data"))

    assert mark(3.0) == mark(3.0)
    assert mark(3.0).checksum != mark(4.0).checksum


def test_an_optimizers_configuration_has_dotted_keys() -> None:
    keras = pytest.importorskip("keras")
    from trainer.process.fingerprint import optimizer_config

    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    config = optimizer_config(keras.optimizers.SGD(schedule, momentum=0.9))
    assert config["learning_rate.initial_learning_rate"] == 0.1
    assert config["momentum"] == 0.9
    assert optimizer_config(keras.optimizers.Adam(0.01))["learning_rate"] == 0.01
    scaled = optimizer_config(keras.mixed_precision.LossScaleOptimizer(keras.optimizers.Adam(0.01)))
    assert scaled["inner_optimizer.learning_rate"] == 0.01
    assert flat({"a": {"config": {"b": [1]}}, "name": "x"}) == {"a.b": "[1]"}


def test_each_rate_of_several_optimizers_is_the_tasks() -> None:
    keras = pytest.importorskip("keras")
    from trainer.process.fingerprint import go_on_from, optimizer_config

    def optimizer(dense: float) -> Any:
        parts = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1), {"dense.*": keras.optimizers.Adam(dense)})
        return keras.optimizers.MultiOptimizer(parts)

    def made(by: Any) -> MadeWith:
        return MadeWith(optimizer=optimizer_config(by))

    then, now = optimizer(0.01), optimizer(0.02)
    commit = Commit(
        step=1, attempt=1, nonce="n", created=datetime.now(UTC), epoch=0, examples_seen=8, seed=0, global_batch_size=8,
        world_size=1, replicas=1, host_state={KEY: made(then).model_dump(mode="json")}, shards=[], tensors=[],
    )  # fmt: skip
    restored = optimizer(0.01)
    go_on_from(commit, restored, made(now), tell=True)
    rates = [float(np.asarray(part.learning_rate)) for part in restored.optimizers]
    assert rates == pytest.approx([0.02, 0.1])
