"""What a callback remembers, as JSON and arrays and back."""

import collections
import datetime
import enum
import json
import pathlib
import random
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.callbacks.values import LARGE_BYTES, Decoder, Encoder
from trainer.task import Task


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


Point = collections.namedtuple("Point", "x y")


class Helper:
    def __init__(self) -> None:
        self.seen = 0


def back(value: Any, existing: Any = None) -> Any:
    encoder = Encoder()
    text = json.dumps(encoder.encode(value, "value"))
    assert encoder.lost == {}
    return Decoder(encoder.arrays).decode(json.loads(text), existing)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray | np.generic):
        return type(one) is type(other) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize(
    "value",
    [
        0, -(10**40), 0.1, float("inf"), "Größe", True, None, 1 + 2j, b"\0\xff", bytearray(b"x"), range(3, 9, 2),
        [1, [2.5, None]], (1, (2,), []), {"a": 1, 3: (4,), (5, 6): {}}, {1, "two"}, frozenset({3}),
        [float(index) for index in range(500)], list(range(500)), [True] * 500,
        collections.deque([1, 2], 5), datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC), datetime.date(2026, 1, 2),
        datetime.timedelta(1, 2, 3), pathlib.Path("a/b"), Colour.BLUE, keras.ops.less, Helper,
        np.float32(0.1), np.float64(0.1), np.int64(3), np.bool_(True), np.str_("x"), np.datetime64("2026-01-02"),
        np.arange(6.0).reshape(2, 3), np.zeros((0, 3), np.int8), np.array(["a", "bc"]), np.array([1j, 2]),
        np.array(["2026-01-02"], "M8[D]"), np.array([None, "a", 3], object), np.array(7, np.float16),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_values_come_back_with_their_types(value: Any) -> None:
    assert same(value, back(value))


def test_not_a_number_and_tensors_come_back() -> None:
    assert np.isnan(back(float("nan")))
    assert np.isnan(back(np.array([np.nan]))[0])
    assert np.array_equal(back(tf.constant([1, 2])).numpy(), [1, 2])


def test_objects_of_the_same_type_take_their_state_in_place() -> None:
    helper, moved = Helper(), Helper()
    moved.seen = 5
    assert back(moved, helper) is helper
    assert helper.seen == 5
    shared = [0]
    assert back([1, 2, 3], shared) is shared == [1, 2, 3]
    counter = collections.Counter("aab")
    assert back(collections.Counter(a=7), counter) is counter == {"a": 7}
    assert back(Point(1, 2), Point(0, 0)) == Point(1, 2)
    variable = tf.Variable([1.0])
    assert back(tf.Variable([3.0]), variable) is variable
    assert variable.numpy() == [3.0]
    mean, other = keras.metrics.Mean(), keras.metrics.Mean()
    mean.update_state(4.0)
    back(mean, other)
    assert float(other.result()) == 4.0


@pytest.mark.parametrize(
    "make", [lambda: random.Random(3), lambda: np.random.default_rng(3), lambda: np.random.RandomState(3)]
)
def test_generators_of_random_numbers_go_on(make: Any) -> None:
    one, other = make(), make()
    one.random() if hasattr(one, "random") else one.rand()
    back(one, other)
    assert [one.random() for _ in range(3)] == [other.random() for _ in range(3)]


def test_what_cannot_be_kept_is_named_unless_it_is_as_constructed(tmp_path: pathlib.Path) -> None:
    class Holding(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = lambda epoch: epoch
            self.task = Task()
            self.data = tf.data.Dataset.range(3)
            self.file = (tmp_path / "x").open("w")
            self.rows = (row for row in range(3))
            self.parts: list[Any] = []

    callback = Holding()
    first = Encoder()
    first.attributes(callback, "Holding")
    later = Encoder((), first.originals)
    encoded = later.attributes(callback, "Holding")
    assert later.lost == {"Holding.file": "TextIOWrapper", "Holding.rows": "generator"}
    assert encoded["schedule"] == {}
    callback.schedule = lambda epoch: 2 * epoch
    callback.parts.append(object())
    last = Encoder((), first.originals)
    last.attributes(callback, "Holding")
    assert {"Holding.schedule", "Holding.parts[0]"} <= last.lost.keys()
    callback.file.close()


def test_large_arrays_are_left_out_while_they_are_as_constructed() -> None:
    class Holding(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.x = np.zeros(LARGE_BYTES)

    callback = Holding()
    first = Encoder()
    first.attributes(callback, "Holding")
    same_ones = Encoder((), first.originals)
    same_ones.attributes(callback, "Holding")
    assert same_ones.arrays == []
    callback.x[5] = 1
    changed = Encoder((), first.originals)
    encoded = changed.attributes(callback, "Holding")
    other = Holding()
    Decoder(changed.arrays).attributes(other, encoded)
    assert np.array_equal(other.x, callback.x)


def test_the_models_variables_are_left_to_the_checkpoint_and_circles_end() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    encoder = Encoder(model.variables)
    assert encoder.encode({"model": model, "layer": model.layers[0], "kernel": model.weights[0]}, "x") == {
        "dict": [["model", {}], ["layer", {}], ["kernel", {}]],
        "type": "builtins.dict",
    }
    circle: list[Any] = []
    circle.append(circle)
    Encoder().encode(circle, "x")
