"""Batches of the data's own: how they are told from examples, and PyDatasets, which are read by number."""

import itertools
import random
import threading
from typing import Any

import numpy as np
import pytest

from trainer.data.elements import PyDatasetElements
from trainer.data.sources import BatchSource, StreamSource, source_of
from trainer.errors import ConfigError

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
X = np.arange(40, dtype="float32").reshape(10, 4)
Y = np.arange(10)


def model(*shape: int | None) -> Any:
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(1)])


LAZY = keras.Sequential([keras.layers.Dense(1)])
INT_TOKENS = keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(10, 2)])
TEXT = keras.Sequential([keras.Input((), dtype="string"), keras.layers.TextVectorization(max_tokens=5)])
A, B = keras.Input((4,), name="a"), keras.Input((), name="b")
NAMED = keras.Model({"a": A, "b": B}, keras.layers.Concatenate()([A, keras.layers.Reshape((1,))(B)]))
SLICES = tf.data.Dataset.from_tensor_slices((X, Y))
NAMED_SLICES = tf.data.Dataset.from_tensor_slices(({"a": X, "b": Y.astype("float32")}, Y))


def tokens(sizes: Any) -> Any:
    return tf.data.Dataset.from_generator(
        lambda: (([1] * size, [1] * size) for size in sizes),
        output_signature=(tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.int32)),
    )


@pytest.mark.parametrize(
    "data, of, batches",
    [
        (SLICES, model(4), False),
        (SLICES, LAZY, False),
        (SLICES.batch(4), model(4), True),
        (SLICES.batch(4), LAZY, True),
        (SLICES.batch(4).map(lambda x, y: (x * 2, y)).cache().prefetch(1).repeat(), LAZY, True),
        (SLICES.batch(4).unbatch(), LAZY, False),
        (SLICES.batch(4).batch(2), model(4, 4), True),
        (SLICES.batch(4), model(4, 4), False),  # y is one for each, but x is what counts
        (SLICES.map(lambda x, y: x), model(4), False),
        (SLICES.map(lambda x, y: x).batch(4), LAZY, True),
        (tf.data.Dataset.zip((SLICES.batch(2).map(lambda x, y: x), SLICES.batch(2).map(lambda x, y: y))), LAZY, True),
        (NAMED_SLICES, NAMED, False),
        (NAMED_SLICES.batch(4), NAMED, True),
        (tokens([3, 5]), INT_TOKENS, False),
        (tokens([3, 5]).padded_batch(2), INT_TOKENS, True),
        (tokens([3, 5]).ragged_batch(2), INT_TOKENS, True),
        (tf.data.Dataset.from_tensor_slices(["a", "b"]), TEXT, False),
        (tf.data.Dataset.from_tensor_slices(["a", "b"]).batch(2), TEXT, True),
        (tf.data.Dataset.from_tensor_slices((Y, Y)), model(1), False),
        (tf.data.Dataset.from_tensor_slices((Y, Y)).batch(4), model(1), True),
        (lambda: iter([(X[:4], Y[:4])]), model(4), True),
        (lambda: iter([(X[0], Y[0])]), model(4), False),
        (lambda: iter([(X[:4], Y[:4])]), LAZY, True),
        (lambda: iter([(X[0], Y[0])]), LAZY, False),
        (lambda: iter([(X[0], Y[:1])]), LAZY, False),
        (lambda: iter([({"a": X[:2], "b": Y[:2]}, Y[:2])]), NAMED, True),
    ],
)  # fmt: skip
def test_batches_are_told_from_examples(data: Any, of: Any, batches: bool) -> None:
    found = source_of(data, lambda: data, "train_data", model=of)
    assert isinstance(found, BatchSource if batches else StreamSource)
    for said, kind in ((True, BatchSource), (False, StreamSource)):
        assert isinstance(source_of(data, lambda: data, "train_data", model=of, batched=said), kind)


def test_a_guess_is_told_with_how_to_say_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        source_of(lambda: iter([(X[:4], Y[:4])]), None, "train_data", model=model(4))
        assert not caplog.records
        source_of(lambda: iter([(X[:4], Y[:4])]), None, "train_data", model=LAZY)
    assert "taken as batches" in caplog.text
    assert "`batched = False` in the task says otherwise" in caplog.text


FORMS = {
    "dataset": lambda: SLICES.batch(4),
    "generator": lambda: ((X[at : at + 4], Y[at : at + 4]) for at in (0, 4, 8)),
    "loader": lambda: [(X[at : at + 4], Y[at : at + 4]) for at in (0, 4, 8)].__iter__(),
    "pydataset": lambda: Numbered(),
}


class Numbered(keras.utils.PyDataset):  # type: ignore[misc]
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.order = np.arange(3)
        self.called: list[Any] = []

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> Any:
        self.called.append(number)
        at = 4 * self.order[number]
        return X[at : at + 4], Y[at : at + 4]

    def on_epoch_begin(self) -> None:
        self.called.append("begin")

    def on_epoch_end(self) -> None:
        self.called.append("end")


@pytest.mark.parametrize("form", FORMS)
def test_batches_are_used_as_they_are_from_any_step_on(form: str) -> None:
    found = source_of(FORMS[form](), FORMS[form], "train_data", model=model(4))
    assert isinstance(found, BatchSource)
    epoch = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for first in range(8):
        labels = [batch[1].tolist() for batch in itertools.islice(found.batches(first), 8 - first)]
        assert labels == (epoch * 3)[first:8]
    assert found.count_batches() == 3
    assert found.batch_size == 4
    for parts in (1, 2):
        labels = [batch[1].tolist() for part in range(parts) for batch in found.part(part, parts, 99)]
        assert sorted(labels) == sorted(epoch)


def test_a_pydataset_is_begun_in_its_middle_without_reading_what_was_before() -> None:
    data = Numbered()
    found = source_of(data, lambda: data, "train_data", model=model(4))
    assert isinstance(found, BatchSource)
    next(found.batches(7))
    assert data.called == ["begin", "end", "begin", "end", "begin", 1]
    data.called.clear()
    list(found.part(1, 2, 4))
    assert data.called == [1]  # an evaluation calls no hooks


def test_a_pydatasets_epoch_ends_when_training_has_taken_its_last_batch() -> None:
    data = Numbered()
    asked: list[int] = []
    row = PyDatasetElements(data, "train_data", 0).row(0, asked.append)
    [next(row) for _ in range(3)]
    assert data.called == ["begin", 0, 1, 2]
    next(row)
    assert data.called == ["begin", 0, 1, 2, "end", "begin", 0]
    assert asked == [3, 4]


def test_what_a_pydataset_draws_does_not_depend_on_where_training_began() -> None:
    class Shuffled(Numbered):
        def on_epoch_end(self) -> None:
            np.random.shuffle(self.order)

        def __getitem__(self, number: int) -> Any:
            x, y = super().__getitem__(number)
            return x + np.random.rand() + random.random(), y

    def drawn(first: int) -> list[Any]:
        batches = source_of(Shuffled(), None, "train_data", model=model(4), seed=5).batches(first)  # type: ignore[union-attr, call-arg, arg-type]
        return [[part.tolist() for part in next(batches)] for _ in range(first, 30)]

    whole = drawn(0)
    assert len({tuple(map(str, whole[at : at + 3])) for at in range(0, 30, 3)}) == 10
    np.random.seed(9)
    assert drawn(14) == whole[14:]


def test_a_pydatasets_workers_read_at_the_same_time_and_in_order() -> None:
    together = threading.Barrier(3, timeout=20)

    class Waits(Numbered):
        def __getitem__(self, number: int) -> Any:
            if threading.current_thread() is not threading.main_thread():
                together.wait()
            return super().__getitem__(number)

    found = source_of(Waits(workers=3), None, "train_data", model=model(4))  # type: ignore[arg-type]
    assert isinstance(found, BatchSource)
    assert [batch[1][0] for batch in itertools.islice(found.batches(0), 6)] == [0, 4, 8, 0, 4, 8]


def test_what_is_no_batch_is_named() -> None:
    class Uneven(Numbered):
        def __getitem__(self, number: int) -> Any:
            return X[:4], Y[:3]

    with pytest.raises(ConfigError, match="different lengths: x 4, y 3 examples"):
        source_of(Uneven(), None, "train_data", model=model(4)).sample(1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a PyDataset always gives batches"):
        source_of(Numbered(), None, "train_data", model=model(4), batched=False)  # type: ignore[arg-type]
