"""How a task's model and data are fitted to each other before training."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.config import TrainSection
from trainer.data.load import TaskData
from trainer.errors import ConfigError
from trainer.model.build import build_model
from trainer.task import Task


class Unlabelled(Task):
    """x alone, and the loss that it is given."""

    def __init__(self, loss: str | None) -> None:
        self._loss = loss

    def train_data(self) -> Any:
        return np.ones((8, 3), "float32")

    def model(self) -> Any:
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activity_regularizer="l2")])

    def loss(self) -> Any:
        return self._loss


def build(task: Task) -> Any:
    data = TaskData(task, TrainSection(task="a.py:A", steps=1, global_batch_size=4))
    return build_model(tf.distribute.get_strategy(), task, 0, lambda model: data.fit_to(model, 4))


def test_labels_are_asked_for_where_the_loss_needs_them() -> None:
    with pytest.raises(ConfigError, match="x alone, and the loss needs labels"):
        build(Unlabelled("mse"))
    assert build(Unlabelled(None)).compiled
