"""Examples by number: the order of arrays, read by each worker for its own part, and nothing read twice after a restart."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import support_data_jobs as data_jobs
import tensorflow as tf
from support_worker import Block, Evaluated, Run

from trainer.data import Examples
from trainer.data.examples import seeds_of
from trainer.data.order import Order
from trainer.errors import ConfigError
from trainer.rundir.attempts import CommitRef
from trainer.wire.writer import Snapshot

pytestmark = pytest.mark.slow


def job(folder: Path, form: str, **options: Any) -> Any:
    """Three epochs, with an evaluation after each."""
    train = {"epochs": 3, "evaluate": {"every": "epoch"}, **options.pop("train", {})}
    return data_jobs.job(folder, form, train=train, **options)


def trained(folder: Path, form: str, **options: Any) -> list[Any]:
    """Weights and evaluations of an undisturbed job."""
    with job(folder, form, **options) as done:
        return ended(done)


def ended(done: Run) -> list[Any]:
    """Weights, where a model that Keras can load was exported, and the numbers of each evaluation."""
    assert done.wait() == [0] * len(done.workers), done.workers[-1].output()
    result = done.workers[0].result
    assert result is not None
    weights = []
    if str(result.export).endswith(".keras"):
        weights = keras.models.load_model(result.export).get_weights()
    return [*weights, *(one.metrics for one in done.workers[0].of(Evaluated))]


def as_close(some: Any, others: Any, tolerance: float) -> None:
    for one, other in zip(some, others, strict=True):
        if isinstance(one, dict):
            assert one == pytest.approx(other, abs=tolerance)
        else:
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "remainder", [*(pytest.param(each, marks=pytest.mark.soak) for each in ("carry", "drop")), "keep"]
)
def test_they_train_what_arrays_of_the_same_examples_train_to_the_bit(tmp_path: Path, remainder: str) -> None:
    train = {"remainder": remainder}
    expected = trained(tmp_path / "arrays", "arrays", train=train)
    for form in ("by number", "items", "mapped") if remainder == "keep" else ("by number",):
        as_close(trained(tmp_path / form, form, train=train), expected, 0)


def test_items_that_are_batches_are_taken_as_batches(tmp_path: Path) -> None:
    as_close(trained(tmp_path / "items", "items of batches"), trained(tmp_path / "generator", "generator"), 0)


@pytest.mark.parametrize(
    ("workers", "form"),
    [
        (2, "by number"),
        (2, "looking"),
        (2, "texts"),
        *(pytest.param(*each, marks=pytest.mark.soak) for each in ((2, "items"), (3, "by number"))),
    ],
)
def test_several_workers_train_what_one_trains(tmp_path: Path, workers: int, form: str) -> None:
    size = 12 if workers == 3 else 8
    train = {"global_batch_size": size, "remainder": "keep"}
    expected = trained(tmp_path / "one", form, train=train)
    as_close(trained(tmp_path / "several", form, train=train, workers=workers), expected, 1e-5)


@pytest.mark.parametrize("form", ["augmented", pytest.param("items", marks=pytest.mark.soak)])
def test_killed_and_gone_on_with_they_end_as_undisturbed(tmp_path: Path, form: str) -> None:
    expected = trained(tmp_path / "undisturbed", form)
    folder = tmp_path / "killed"
    kept: list[CommitRef] = []

    def keep(current: Run, snapshot: Snapshot) -> Any:
        kept.append(CommitRef(step=snapshot.step, attempt=current.attempt))
        return current.commit(snapshot)

    with job(folder, form, checkpoint={"every": 4}, answer=keep) as first:
        first.wait(until=lambda run: bool(run.workers[0].of(Block)) and run.workers[0].of(Block)[-1].step >= 9)
        first.kill()
    assert kept
    with job(folder, form, attempt=2, restore=kept[-1]) as second:
        found = ended(second)
    as_close([*found[:4], found[-1]], [*expected[:4], expected[-1]], 0)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_each_worker_reads_the_rows_of_its_own_replicas_alone_in_the_order_of_the_seed(
    tmp_path: Path, workers: int
) -> None:
    environment = {"TEST_READ_BY": str(tmp_path / "read")}
    train = {"evaluate": {}, "epochs": 2, "params": {"form": "items", "evaluated": False}}
    with job(tmp_path / "job", "items", workers=workers, environment=environment, train=train) as done:
        assert done.wait() == [0] * workers, done.workers[-1].output()
    order = Order(52, 8, 5)
    steps = order.calendar.end_of(2)
    assert steps == 13
    rows = np.concatenate([order.rows(step, 1)[0].reshape(workers, -1) for step in range(steps)], axis=1)
    read = [[int(line) for line in path.read_text().split()] for path in tmp_path.glob("read-*")]
    for own in rows.tolist():
        # At first the first example, for its shape; in the end what was read ahead.
        assert any(own == one[1 + at : 1 + at + len(own)] for one in read for at in range(3))


def test_an_example_that_cannot_be_read_is_named() -> None:
    def load(number: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_less(number, tf.constant(7, tf.int64), message="too large")]):
            return tf.identity(number)

    examples = Examples(10, load, where=lambda number: f"file-{number}")
    numbers = np.array([3, 8, 1, 9])
    with pytest.raises(ConfigError, match=r"train_data\(\): file-8 cannot be read: .*too large"):
        list(examples.read([(numbers, np.zeros((4, 2), np.int64))], 4, "train_data"))


def test_an_item_of_another_shape_is_named() -> None:
    rows = [np.zeros(3), np.zeros(3), np.zeros(4)]
    with pytest.raises(ConfigError, match="example 2"):
        list(Examples.of(rows).read([(np.arange(3), np.zeros((3, 2), np.int64))], 3, "train_data"))


@pytest.mark.parametrize(("sizes", "size"), [([4, 4, 3], 4), ([2, 2, 7], 2), ([1], 1), ([4, 1, 4], 4)])
def test_batches_of_any_size_come_in_their_order(sizes: list[int], size: int) -> None:
    examples = Examples(100, lambda number: number * 10)
    wanted, at = [], 0
    for count in sizes:
        wanted.append((np.arange(at, at + count)[::-1], np.zeros((count, 2), np.int64)))
        at += count
    found = list(examples.read(wanted, size, "train_data"))
    assert [batch.tolist() for batch in found] == [(numbers * 10).tolist() for numbers, _ in wanted]


def test_draws_differ_by_epoch_example_and_stage_and_are_those_of_the_seed() -> None:
    draw = lambda x, seed: x + tf.random.stateless_uniform([], seed)  # noqa: E731
    examples = Examples(4, lambda number: tf.zeros([])).augment(draw)
    twice = examples.augment(draw)
    numbers = np.arange(4)

    def drawn(of: Examples, seed: int, epoch: int) -> list[float]:
        wanted = [(numbers, seeds_of(seed, np.full(4, epoch), numbers))]
        return next(of.read(wanted, 4, "train_data")).tolist()  # type: ignore[no-any-return]

    first = drawn(examples, 1, 0)
    assert len(set(first)) == 4
    assert drawn(examples, 1, 0) == first
    assert not set(first) & {*drawn(examples, 1, 1), *drawn(examples, 2, 0)}
    assert all(abs(two - 2 * one) > 1e-6 for one, two in zip(first, drawn(twice, 1, 0), strict=True))
