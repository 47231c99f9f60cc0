"""What is found of a task: everything that training may change, wherever a user's code keeps it."""

import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.model.reach import modules_of, reach
from trainer.task import load_task

MODULE = """
import keras
import numpy as np
import tensorflow as tf
from helpers import SHARED
from trainer.task import Task

SCALE = tf.Variable(1.0)
GENERATOR = tf.random.Generator.from_seed(1)
NAMES = {"a": [tf.Variable(2.0)]}
NUMBERS = list(range(1000))


class Uses(Task):
    SHARED = tf.Variable(5.0)
"""


def variables(**roots: Any) -> set[str]:
    return set(reach(roots).variables)


def test_globals_of_the_tasks_modules_are_reached(tmp_path: Path) -> None:
    (tmp_path / "uses.py").write_text(MODULE)
    (tmp_path / "helpers.py").write_text(
        "import tensorflow as tf\nSHARED = tf.Variable([3.0])\nOTHER = tf.Variable(4.0)\n"
    )
    task = load_task("uses.py:Uses", {}, tmp_path)
    found = variables(task=task, **modules_of(task, tmp_path))
    assert found == {
        "task.SHARED",
        "uses['SHARED']",
        "helpers['OTHER']",
        "uses['SCALE']",
        "uses['GENERATOR'].state",
        "uses['NAMES']['a'][0]",
    }


class CallableLoss:
    def __init__(self) -> None:
        self.scale = tf.Variable(1.0)

    def __call__(self, y: Any, prediction: Any) -> Any:
        return self.scale * tf.reduce_mean((y - prediction) ** 2)


class OwnLoss(keras.Loss):
    def __init__(self) -> None:
        super().__init__()
        self.count = tf.Variable(0.0)

    def call(self, y: Any, prediction: Any) -> Any:
        return (y - prediction) ** 2


def closure() -> Any:
    weight = tf.Variable(1.0)

    def loss(y: Any, prediction: Any) -> Any:
        return weight * tf.reduce_mean((y - prediction) ** 2)

    return loss


@pytest.mark.parametrize(
    ("loss", "path"),
    [
        (CallableLoss, "model.loss.scale"),
        (OwnLoss, "model.loss.count"),
        (closure, "model.loss.weight"),
        (lambda: tf.function(closure()), "model.loss.weight"),
        (lambda: functools.partial(closure()), "model.loss[0].weight"),
        (lambda: CallableLoss().__call__, "model.loss.scale"),
        (lambda: [OwnLoss()], "model.loss[0].count"),
    ],
)
def test_variables_of_a_loss_are_reached(loss: Any, path: str) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss=loss())
    assert path in variables(model=model)


def test_each_is_found_once_and_circles_end() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="last")])

    class Holder:
        pass

    holder = Holder()
    holder.again, holder.model, holder.part = holder, model, model.layers[0].kernel  # type: ignore[attr-defined]
    assert len(variables(holder=holder, model=model)) == 2


def test_a_file_that_looks_like_a_dict_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", one=np.ones(3))
    with np.load(tmp_path / "arrays.npz") as closed:
        pass
    kept = tf.Variable(1.0)
    assert list(reach({"script": {"file": closed, "kept": {"a": kept}}}).variables) == ["script['kept']['a']"]
