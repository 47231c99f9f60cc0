"""Kinds of arrays: what is taken comes out as Keras' `fit` gives it to a model, the rest is one line."""

from typing import Any

import numpy as np
import pytest

from trainer.data.kinds import Level, SparseRows, named_leaves, standard
from trainer.data.sources import ArraySource, source_of
from trainer.data.stacking import pick_batch, shape_of, stack_batches
from trainer.errors import ConfigError

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
RANDOM = np.random.default_rng(0)
DENSE = (RANDOM.normal(size=(9, 5)) * (RANDOM.random((9, 5)) < 0.4)).astype("float32")
RAGGED = [[1, 2], [], [3], [4, 5, 6], [7]]


def arrays(data: Any) -> ArraySource:
    found = source_of(data, lambda: data, "train_data")
    assert isinstance(found, ArraySource)
    return found


def test_texts_are_taken_as_object_arrays_too() -> None:
    texts = ["gut", "schön", ""]
    for data in (
        np.array(texts, object),
        np.array(texts),
        tf.constant(texts),
        np.array([t.encode() for t in texts], object),
    ):
        found = arrays(data).rows(np.array([1, 0]))
        assert [value.decode() if isinstance(value, bytes) else value for value in found.tolist()] == ["schön", "gut"]
        table = stack_batches([found, found], 4)
        assert table.shape == (4, 2)
        assert pick_batch(table, tf.constant(1)).numpy().tolist() == ["schön".encode(), b"gut"]


def test_numbers_that_were_left_as_objects_are_numbers() -> None:
    assert arrays(np.array([1, 2.5, True], object)).arrays.dtype == np.float32
    assert arrays(np.array([1, 2], object)).arrays.dtype == np.int64
    assert arrays(np.ones(3, "float16")).arrays.dtype == np.float32
    assert arrays(np.ones(3, "uint8")).arrays.dtype == np.uint8


def test_sparse_arrays_give_the_rows_of_dense_ones() -> None:
    found = arrays((tf.sparse.from_dense(DENSE), DENSE))
    assert not found.dense
    for indices in (np.array([8, 0, 0, 3]), np.array([], np.int64), np.array([2])):
        sparse, dense = found.rows(indices)
        assert isinstance(sparse, tf.SparseTensor)
        assert np.array_equal(tf.sparse.to_dense(sparse).numpy(), dense)
    cube = RANDOM.integers(0, 2, (4, 3, 2))
    rows = standard(tf.sparse.from_dense(cube), "train_data", Level.ALL)
    assert isinstance(rows, SparseRows)
    assert np.array_equal(tf.sparse.to_dense(rows.rows(np.array([3, 1]))).numpy(), cube[[3, 1]])


def test_scipy_matrices_are_sparse_arrays() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    for kind in (sparse.csr_matrix, sparse.coo_matrix, sparse.csc_array):
        found = arrays((kind(DENSE.astype("float64")), DENSE)).rows(np.array([4, 1]))
        assert found[0].dtype == tf.float32
        assert np.array_equal(tf.sparse.to_dense(found[0]).numpy(), found[1])
        batch = standard(kind(DENSE), "train_data", Level.BATCH)
        assert np.array_equal(tf.sparse.to_dense(batch).numpy(), DENSE)


def test_ragged_arrays_keep_their_rows() -> None:
    found = arrays((tf.ragged.constant(RAGGED), np.arange(5)))
    rows, _ = found.rows(np.array([3, 0, 1]))
    assert rows.to_list() == [[4, 5, 6], [1, 2], []]
    with pytest.raises(ConfigError, match="x 5, y 4 examples"):
        arrays((tf.ragged.constant(RAGGED), np.arange(4)))


def test_tables_of_sparse_and_ragged_batches_give_each_step_its_batch_without_a_new_trace() -> None:
    ragged, sparse = tf.ragged.constant(RAGGED), tf.sparse.from_dense(DENSE)
    nested = tf.ragged.constant([[[1, 2], [3]], [], [[4]], [[]], [[5], [6, 7]]])
    found = arrays({"ragged": ragged, "nested": nested, "sparse": tf.sparse.slice(sparse, [0, 0], [5, 5])})
    traces = []

    @tf.function
    def picked(table: Any, step: Any) -> Any:
        traces.append(step)
        return pick_batch(table, step)

    for numbers in ([[4, 0], [1, 2], [3, 3]], [[1, 1]]):
        batches = [found.rows(np.array(pair)) for pair in numbers]
        assert len({shape_of(batch) for batch in batches}) == 1
        table = stack_batches(batches, 4)
        for step, pair in enumerate(numbers):
            batch = picked(table, tf.constant(step))
            assert batch["ragged"].to_list() == [RAGGED[number] for number in pair]
            assert batch["nested"].to_list() == [nested.to_list()[number] for number in pair]
            assert batch["sparse"].shape == (2, 5)
            assert np.array_equal(tf.sparse.to_dense(batch["sparse"]).numpy(), DENSE[pair])
    assert len(traces) == 1


def test_frames_and_series_are_taken_as_fit_takes_them() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.5, 2.5], "b": [3, 4]})
    x, y = arrays((frame, pandas.Series([0, 1]))).arrays
    assert x.dtype == np.float32
    assert x.tolist() == [[1.5, 3.0], [2.5, 4.0]]
    assert y.tolist() == [[0], [1]]
    frame["city"] = ["Rome", "Oslo"]
    columns = arrays(dict(frame)).arrays
    assert {name: column.shape for name, column in columns.items()} == {"a": (2, 1), "b": (2, 1), "city": (2, 1)}
    assert columns["city"].ravel().tolist() == [b"Rome", b"Oslo"]
    with pytest.raises(ConfigError, match="column 'city' of x holds text") as caught:
        arrays(frame)
    assert "dict(frame)" in caught.value.remedy
    frame["city"] = ["Rome", None]
    with pytest.raises(
        ConfigError, match=r"train_data\(\): 'city' of x holds (NoneType|float) and str mixed"
    ) as caught:
        arrays(dict(frame))
    assert "fillna" in caught.value.remedy
    frame["city"] = pandas.to_datetime(["2020-01-01", "2020-01-02"])
    with pytest.raises(ConfigError, match="'city' of x holds dates"):
        arrays(dict(frame))


@pytest.mark.parametrize(
    "data, said, remedy",
    [
        (({"city": np.array(["a", 1.0], object)}, np.ones(2)), "'city' of x holds float and str mixed", "astype"),
        ((np.array([[1], [2, 3]], object), np.ones(2)), "x holds objects of the type list", "pad_sequences"),
        ((np.array([None, 1], object), np.ones(2)), "x holds NoneType and int mixed", "fillna"),
        ((np.ones(2), np.zeros(2, [("a", "f4")])), "y is a structured array of a", "dict of arrays"),
        (np.zeros(2, "datetime64[s]"), "x holds dates or times", "astype"),
        (({"a": {"b": None}}, np.ones(2)), "'b' of 'a' of x is None", "Return"),
        (([np.ones(2), 3.0], np.ones(2)), "part 1 of x is a float", "Return"),
    ],
)
def test_the_rest_is_one_line_that_names_the_part_and_a_remedy(data: Any, said: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        arrays(data)
    assert said in caught.value.message
    assert remedy in caught.value.remedy
    assert "\n" not in caught.value.message


def test_the_names_of_parts_are_those_of_fit() -> None:
    data = standard(({"a": np.ones(1), "b": [np.ones(1)] * 2}, np.ones(1), np.ones(1)), "train_data", Level.ALL)
    names = ["'a' of x", "part 0 of 'b' of x", "part 1 of 'b' of x", "y", "sample_weight"]
    assert [name for name, _ in named_leaves(data)] == names
