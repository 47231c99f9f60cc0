"""What blocks of steps are given: the batches of the right steps, all of one shape, and where epochs begin."""

import time
from typing import Any

import numpy as np
import pytest

from trainer.data.order import Calendar, Order
from trainer.data.sources import ArraySource, source_of

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
feeds = pytest.importorskip("trainer.data.feed")
X = np.arange(22, dtype="float32").reshape(11, 2)
Y = np.arange(11)
TEXTS = np.array([f"text {number}" * (number % 3) for number in range(11)], object)
MODEL = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


def steps_of(feed: Any, first: int, last: int, most: int) -> tuple[list[Any], list[int], list[bool]]:
    """The batches of steps first to last, how many each block had, and where epochs begin."""
    pick = tf.function(lambda arguments, step: feed.pick(arguments, step, lambda part: part))
    batches, blocks, begins = [], [], []
    while first < last:
        arguments, taken = feed.block(first, min(most, last - first))
        assert 1 <= taken <= min(most, last - first)
        resets = feed.begins_epoch(first, taken)
        assert resets.shape == (feed.capacity,)
        assert not resets[taken:].any()
        begins += resets[:taken].tolist()
        batches += [
            keras.tree.map_structure(lambda leaf: leaf.numpy(), pick(arguments, tf.constant(step)))
            for step in range(taken)
        ]
        blocks.append(taken)
        first += taken
    feed.close()
    return batches, blocks, begins


def feed_of(data: Any, first: int, remainder: Any = "carry", batch: int = 4, **options: Any) -> Any:
    source = source_of(data() if callable(data) else data, data, "train_data", model=MODEL)
    length = source.examples if isinstance(source, ArraySource) else options.get("length", 11)
    calendar = Calendar(length, options.get("unit", batch), remainder)
    return feeds.make_feed(tf.distribute.get_strategy(), source, calendar=calendar, seed=3, first_step=first)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("remainder", ["carry", "drop", "keep"])
@pytest.mark.parametrize("first", [0, 4])
def test_arrays_come_in_the_order_of_the_job(
    streamed: bool, remainder: Any, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if streamed:
        monkeypatch.setattr(feeds, "RESIDENT_BYTES_MAX", 0)
    feed = feed_of((X, Y, {"text": TEXTS}), first, remainder)
    assert type(feed).__name__ == ("StreamFeed" if streamed else "ResidentFeed")
    batches, blocks, begins = steps_of(feed, first, 12, 5)
    order = Order(11, 4, 3, remainder)
    rows = [order.rows(step, 1)[0] for step in range(first, 12)]
    assert [batch[1].tolist() for batch in batches] == [row.tolist() for row in rows]
    assert [batch[0].tolist() for batch in batches] == [X[row].tolist() for row in rows]
    assert [[text.decode() for text in batch[2]["text"]] for batch in batches] == [TEXTS[row].tolist() for row in rows]
    assert begins == [order.calendar.begins_epoch(step) for step in range(first, 12)]
    if remainder == "keep":  # cut around each epoch's last step
        assert blocks == ([2, 1, 2, 1, 2, 1, 2, 1] if first == 0 else [1, 1, 2, 1, 2, 1])
    sizes = [
        keras.tree.flatten(feed.pick(blank, tf.constant(0), lambda part: part))[0].shape[0]
        for blank in feed.blank_blocks(0)
    ]
    assert sizes == ([4, 3] if remainder == "keep" else [4])


@pytest.mark.parametrize("remainder, sizes", [("carry", [4] * 9), ("drop", [4] * 9), ("keep", [4, 4, 3] * 3)])
def test_a_stream_of_examples_comes_in_its_own_order(remainder: Any, sizes: list[int]) -> None:
    for data in (tf.data.Dataset.from_tensor_slices((X, TEXTS)), lambda: zip(X, TEXTS, strict=True)):
        for first in (0, 2, 5):
            batches, _, begins = steps_of(feed_of(data, first, remainder), first, 9, 4)
            assert [len(batch[0]) for batch in batches] == sizes[first:]
            row = np.concatenate([X[: sum(sizes[:3])] if remainder == "drop" else X] * 5)
            row = np.concatenate([X[:8]] * 5) if remainder == "drop" else row
            start = sum(sizes[:first])
            assert np.array_equal(
                np.concatenate([batch[0] for batch in batches]), row[start : start + sum(sizes[first:])]
            )
            calendar = Calendar(11, 4, remainder)
            assert begins == [calendar.begins_epoch(step) for step in range(first, 9)]


def test_batches_of_any_shape_are_given_as_they_are_in_blocks_of_one_shape() -> None:
    shapes = [(3, 2), (3, 4), (2, 2), (2, 5), (2, 5), (2, 5), (3, 2)]

    def batches() -> Any:
        for number, shape in enumerate(shapes):
            yield np.full(shape, number, "float32"), np.full(shape[0], number)

    lazy = keras.Sequential([keras.layers.Dense(1)])
    for first in (0, 1, 4):
        source = source_of(batches(), batches, "train_data", model=lazy)
        feed = feeds.make_feed(tf.distribute.get_strategy(), source, calendar=Calendar(7, 1), seed=0, first_step=first)
        assert feed.shapes_vary
        found, blocks, begins = steps_of(feed, first, 14, 6)
        assert [batch[0].shape for batch in found] == (shapes * 2)[first:]
        assert [int(batch[1][0]) for batch in found] == [*range(7), *range(7)][first:]
        assert begins == [step % 7 == 0 for step in range(first, 14)]
        if first == 0:
            assert blocks == [1, 1, 1, 3, 2, 1, 1, 3, 1]


def test_a_block_of_no_steps_has_the_shapes_of_others() -> None:
    for data in (
        (X, Y),
        tf.data.Dataset.from_tensor_slices((X, Y)),
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(4),
    ):
        feed = feed_of(data, 0)
        blank, none = feed.block(0, 0)
        arguments, taken = feed.block(0, 2)
        assert (none, taken) == (0, 2)
        for one, other in zip(keras.tree.flatten(blank), keras.tree.flatten(arguments), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
        feed.close()


def test_a_pydataset_is_not_asked_for_the_next_epoch_before_training_is_there() -> None:
    called: list[Any] = []

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return 3

        def __getitem__(self, number: int) -> Any:
            called.append(number)
            return X[:4], Y[:4]

        def on_epoch_end(self) -> None:
            called.append("end")

    feed = feed_of(Batches(), 0, unit=1, length=3)
    feed.block(0, 2)
    deadline = time.monotonic() + 10
    while called[-1] != 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert called == [0, 0, 1, 0, 1, 2]  # first for shapes
    feed.block(2, 1)
    while called[-1] != "end" and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert called == [0, 0, 1, 0, 1, 2, "end"]
    feed.block(3, 1)
    feed.close()


def test_a_pydatasets_smaller_last_batch_is_known_before_training() -> None:
    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return 3

        def __getitem__(self, number: int) -> Any:
            return X[4 * number : 4 * number + 4], Y[4 * number : 4 * number + 4]

    feed = feed_of(Batches(), 0, unit=1, length=3)
    assert not feed.shapes_vary
    assert [blank[0].shape[1] for blank in feed.blank_blocks(0)] == [4, 3]
    feed.close()


def test_sparse_and_ragged_arrays_are_streamed() -> None:
    sparse, ragged = tf.sparse.from_dense(X), tf.ragged.constant([[number] * (number % 3) for number in range(11)])
    feed = feed_of(({"s": sparse, "r": ragged}, Y), 0, "keep")
    order, step = Order(11, 4, 3, "keep"), 0
    while step < 6:
        arguments, taken = feed.block(step, 6 - step)
        for at in range(taken):
            x, y = feed.pick(arguments, tf.constant(at), lambda part: part)
            rows = order.rows(step + at, 1)[0]
            assert y.numpy().tolist() == rows.tolist()
            assert np.array_equal(tf.sparse.to_dense(x["s"]).numpy(), X[rows])
            assert x["r"].to_list() == [[number] * (number % 3) for number in rows]
        step += taken
    feed.close()
