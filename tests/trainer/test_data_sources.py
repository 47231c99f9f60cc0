"""What train_data may return, and what is said about the rest."""

import itertools
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trainer.data import counting
from trainer.data.checksum import LABEL_BITS, label_checksum
from trainer.data.sources import ArraySource, BatchSource, StreamSource, source_of
from trainer.errors import ConfigError, OrchError
from trainer.process.collective import Collective, Decision

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
X = np.arange(10, dtype="float64").reshape(5, 2)
Y = np.arange(5)


def source(data: Any, again: Any = None) -> Any:
    return source_of(data, again or (lambda: data), "train_data")


def generator() -> Any:
    for x, y in zip(X, Y, strict=True):
        yield {"image": x}, y


STREAMS = {
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(({"image": X}, Y)),
    "generator": generator,
    "function": lambda: generator,
    "iterable": lambda: lambda: [({"image": x}, y) for x, y in zip(X, Y, strict=True)],
}


def test_arrays_of_any_structure_are_taken_and_float64_becomes_float32() -> None:
    found = source(({"image": X, "more": [Y, Y]}, Y, np.ones(5)))
    assert isinstance(found, ArraySource)
    assert found.examples == 5
    features, labels, weights = found.rows(np.array([4, 0]))
    assert features["image"].tolist() == [[8.0, 9.0], [0.0, 1.0]]
    assert features["image"].dtype == weights.dtype == np.float32
    assert labels.tolist() == [4, 0]
    assert isinstance(source(X), ArraySource)
    assert isinstance(source([X, Y]).arrays, tuple)
    assert source(tf.constant(X)).examples == 5
    assert [len(source(data).arrays) for data in ((X,), (X, None), (X, Y, None))] == [1, 1, 2]
    both, _ = source(([X, X[:, :1]], Y)).rows(np.array([1]))
    assert [part.tolist() for part in both] == [[[2.0, 3.0]], [[2.0]]]


@pytest.mark.parametrize("form", STREAMS)
def test_a_stream_goes_on_from_any_position_as_if_it_had_been_read(form: str) -> None:
    found = source(STREAMS[form](), STREAMS[form])
    assert isinstance(found, StreamSource)
    row = [batch[1].tolist() for batch in itertools.islice(found.batches(3, 0), 6)]
    assert [*itertools.chain(*row)] == [*range(5)] * 3 + [0, 1, 2]
    for first in (1, 3, 4):
        later = [batch[1].tolist() for batch in itertools.islice(found.batches(3, first), 6 - first)]
        assert later == row[first:]
    sample = found.sample(4)
    assert sample[0]["image"].shape == (4, 2)
    assert sample[0]["image"].dtype == np.float32
    assert found.count_examples() == 5


@pytest.mark.parametrize("form", STREAMS)
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_the_parts_of_all_workers_hold_every_example_once(form: str, parts: int) -> None:
    found = source(STREAMS[form](), STREAMS[form])
    labels = [label for part in range(parts) for _, batch in found.part(part, parts, 2) for label in batch.tolist()]
    assert sorted(labels) == [*range(5)]


@pytest.mark.parametrize(
    "data, said",
    [
        (None, "train_data() returned None"),
        ((X, Y, Y, Y), "returned 4 values"),
        ((X, Y[:3]), "differ in length: x 5, y 3 examples"),
        (({"a": X, "b": Y[:4]}, Y), "differ in length: 'a' of x 5, 'b' of x 4, y 5 examples"),
        ((X[:0], Y[:0]), "are empty"),
        ("text", "no array of examples"),
        ((X, [0, 1, 1, 0, 1]), "y is a Python list of numbers or texts"),
        ((X, None, np.ones(5)), "y is None"),
        (3.0, "no array of examples"),
    ],
)
def test_anything_else_is_one_clear_error(data: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        source(data)
    assert said in str(caught.value)


@pytest.mark.parametrize("form", STREAMS)
@pytest.mark.parametrize("remainder, row", [
    ("carry", [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1], [2, 3, 4]]),
    ("drop", [[0, 1, 2]] * 5),
    ("keep", [[0, 1, 2], [3, 4], [0, 1, 2], [3, 4], [0, 1, 2]]),
])  # fmt: skip
def test_a_streams_last_examples_are_carried_dropped_or_kept(form: str, remainder: Any, row: Any) -> None:
    found = source(STREAMS[form](), STREAMS[form])
    for first in range(5):
        later = itertools.islice(found.batches(3, first, remainder), 5 - first)
        assert [batch[1].tolist() for batch in later] == row[first:]


def test_endless_and_empty_streams_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="never ends"):
        source(tf.data.Dataset.from_tensor_slices(X).repeat()).count_examples()
    with pytest.raises(ConfigError, match="is empty"):
        source(tf.data.Dataset.from_tensor_slices(X).take(0))
    with pytest.raises(OrchError, match="yields nothing"):
        source(iter(()), lambda: iter(()))
    monkeypatch.setattr(counting, "EXAMPLES_MAX", 1000)
    for forever in (lambda: itertools.repeat((X[0], 1)), lambda: itertools.repeat((X, Y))):
        found = source(forever)
        with pytest.raises(ConfigError, match=r"has not ended after 100[0-9] examples"):
            found.count_batches() if isinstance(found, BatchSource) else found.count_examples()
    assert source(lambda: itertools.repeat((X[0], 1))).count_examples(at_most=20) is None
    assert source(lambda: iter([(X[0], 1)] * 20)).count_examples(at_most=20) == 20


def test_an_evaluation_of_endless_data_is_given_up_and_told_of_meanwhile(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(counting, "PROGRESS_S", 0.0)
    for forever in (lambda: itertools.repeat((X[0], 1)), lambda: itertools.repeat((X, Y))):
        found = replace(source(forever), at_most=100)
        with caplog.at_level("INFO"), pytest.raises(ConfigError, match=r"has not ended after 1[0-9][0-9] examples"):
            for _ in found.part(1, 2, 5):
                pass
        assert "whose end is not known examples=25" in caplog.text
    assert counting.evaluation_limit(50) == 1_000_000
    assert counting.evaluation_limit(500_000) == 5_000_000
    assert counting.evaluation_limit(None) == 10_000_000


def test_examples_of_several_shapes_are_one_line_with_a_remedy() -> None:
    by_generator = source(lambda: iter([(X[0], 0), (X[0, :1], 1)]), None)
    by_dataset = source(
        tf.data.Dataset.from_generator(
            lambda: iter([X[0], X[0, :1]]), output_signature=tf.TensorSpec((None,), tf.float32)
        )
    )
    for uneven in (by_generator, by_dataset):
        with pytest.raises(ConfigError, match="differ in shape") as caught:
            next(uneven.batches(2, 0))
        assert "padded_batch" in caught.value.remedy


def test_a_generators_draws_do_not_depend_on_what_else_draws() -> None:
    def shuffled() -> Any:
        for number in np.random.permutation(50):
            yield np.array([number, np.random.rand()]), random.random()

    def drawn(first: int, remainder: Any) -> list[Any]:
        batches = source(lambda: shuffled()).batches(20, first, remainder)
        found = []
        for _ in range(8 - first):
            np.random.rand(), random.random()
            found.append([part.tolist() for part in next(batches)])
        return found

    np.random.seed(0)
    for remainder in ("carry", "keep"):
        whole = drawn(0, remainder)
        np.random.seed(1)
        assert whole[5:] == drawn(5, remainder)
        assert whole[0] != whole[3]


@pytest.mark.parametrize("seed", [7, None])
def test_a_dataset_that_shuffles_has_the_order_of_a_fresh_one_however_often_it_was_read(seed: int | None) -> None:
    def shuffled() -> Any:
        return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(5, seed=seed).map(lambda x, y: (x, y))

    keras.utils.set_random_seed(3)
    expected = [int(y) for _, y in shuffled().repeat(3)]
    assert expected[:5] != expected[5:10]
    keras.utils.set_random_seed(3)
    found = source_of(shuffled(), shuffled, "train_data", seed=3)
    found.sample(2), found.count_examples()
    state, drawn = np.random.get_state()[1].tolist(), random.getstate()
    for first in (0, 2, 1):
        row = itertools.islice(found.batches(3, first), 5 - first)
        assert [*itertools.chain(*(y.tolist() for _, y in row))] == expected[3 * first : 15]
    for _ in range(2):
        assert [*itertools.chain(*(y.tolist() for _, y in found.part(0, 1, 2)))] == expected[:5]
    assert np.random.get_state()[1].tolist() == state
    assert random.getstate() == drawn
    once = tf.random.uniform(()).numpy()
    keras.utils.set_random_seed(3)
    shuffled()  # draws its seed, as the first one above did
    assert tf.random.uniform(()).numpy() == once


def test_labels_that_differ_are_told_by_their_checksum() -> None:
    one = label_checksum((X, Y))
    assert one == label_checksum((X + 1, Y)) == label_checksum((X, Y, None))
    assert one != label_checksum((X, Y[::-1]))
    assert label_checksum(X) != label_checksum(X + 1)
    assert label_checksum((X, Y), before=1) != one
    assert 0 <= one < 1 << LABEL_BITS
    texts = np.array(["a", "b"])
    assert label_checksum((X, texts)) != label_checksum((X, texts[::-1]))


@pytest.mark.parametrize("others", [[5, 5], [4, 6], [5, 6]])
def test_workers_agree_on_whether_their_labels_are_the_same(others: list[int]) -> None:
    class Three(Collective):
        """The sums of three workers, of which this one has checksum 5."""

        def __init__(self) -> None:
            pass

        def sum(self, values: np.ndarray) -> np.ndarray:
            rest = np.array([[0, 0, 0, 0, 0, 1, other, other**2] for other in others], np.float64)
            return values + rest.sum(axis=0)

    turn = Three().agree(Decision(next_steps=3, labels=5), chief=True)
    assert turn.same_labels == (others == [5, 5])
    assert turn.next_steps == 3
