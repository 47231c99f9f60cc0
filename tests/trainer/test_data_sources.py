"""What train_data may return, and what is said about the rest."""

import itertools
from typing import Any

import numpy as np
import pytest

from trainer.data.sources import ArraySource, StreamSource, source_of
from trainer.errors import ConfigError, OrchError

tf = pytest.importorskip("tensorflow")
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


@pytest.mark.parametrize("form", STREAMS)
def test_a_stream_goes_on_from_any_position_as_if_it_had_been_read(form: str) -> None:
    found = source(STREAMS[form](), STREAMS[form])
    assert isinstance(found, StreamSource)
    row = [batch[1].tolist() for batch in itertools.islice(found.batches(3, 0), 6)]
    assert [*itertools.chain(*row)] == [*range(5)] * 3 + [0, 1, 2]
    for first in (1, 3, 4):
        later = [batch[1].tolist() for batch in itertools.islice(found.batches(3, 3 * first), 6 - first)]
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
        ((X, Y[:3]), "differ in length: 3, 5 examples"),
        ((X[:0], Y[:0]), "are empty"),
        ("text", "no array of examples"),
        (3.0, "no array of examples"),
    ],
)
def test_anything_else_is_one_clear_error(data: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        source(data)
    assert said in str(caught.value)


def test_endless_and_empty_streams_are_named() -> None:
    with pytest.raises(ConfigError, match="never ends"):
        source(tf.data.Dataset.from_tensor_slices(X).repeat()).count_examples()
    with pytest.raises(ConfigError, match="is empty"):
        source(tf.data.Dataset.from_tensor_slices(X).take(0))
    with pytest.raises(OrchError, match="yields nothing"):
        next(source(iter(()), lambda: iter(())).batches(2, 0))
    uneven = source(lambda: iter([(X[0], 0), (X[0, :1], 1)]))
    with pytest.raises(OrchError, match="differ in shape"):
        next(uneven.batches(2, 0))
