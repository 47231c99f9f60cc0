"""The examples of a step are a pure function of seed, step and global batch size."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trainer.data.order import Calendar, Order, permutation, replica_slice, total_steps
from trainer.errors import ConfigError

sizes = st.integers(1, 60)


def test_permutations_are_the_ones_of_every_earlier_version() -> None:
    # A change of these numbers breaks the promise for every job that is resumed by a newer version.
    assert permutation(17, 0, 10).tolist() == [7, 4, 3, 2, 0, 1, 5, 8, 6, 9]
    assert permutation(17, 1, 10).tolist() == [8, 9, 6, 4, 0, 3, 1, 5, 7, 2]


@given(st.integers(0, 2**31 - 1), st.integers(0, 1000), st.integers(1, 3000))
def test_an_epoch_holds_every_example_once(seed: int, epoch: int, examples: int) -> None:
    assert np.array_equal(np.sort(permutation(seed, epoch, examples)), np.arange(examples))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(permutation(seed, epoch, 50)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(sizes, sizes, st.integers(0, 50), st.integers(0, 20))
def test_blocks_of_any_length_see_the_same_examples(examples: int, batch: int, first: int, steps: int) -> None:
    whole = Order(examples, batch, 3).rows(first, steps)
    single = [Order(examples, batch, 3).rows(step, 1)[0] for step in range(first, first + steps)]
    assert whole.shape == (steps, batch)
    assert np.array_equal(whole, np.array(single).reshape(steps, batch))


@given(sizes, sizes, st.integers(1, 5))
def test_the_row_is_one_epochs_permutation_after_the_other(examples: int, batch: int, epochs: int) -> None:
    steps = -(-epochs * examples // batch)
    row = Order(examples, batch, 5).rows(0, steps).reshape(-1)[: epochs * examples]
    assert np.array_equal(row, np.concatenate([permutation(5, epoch, examples) for epoch in range(epochs)]))


@given(st.integers(1, 8), st.integers(1, 8))
def test_the_slices_of_all_replicas_make_up_the_batch(replicas: int, per_replica: int) -> None:
    batch = np.arange(replicas * per_replica)
    parts = [batch[replica_slice(replica, replicas, len(batch))] for replica in range(replicas)]
    assert np.array_equal(np.concatenate(parts), batch)


@given(sizes, sizes, st.integers(1, 100))
def test_an_epoch_ends_with_the_step_that_takes_its_last_example(examples: int, batch: int, step: int) -> None:
    calendar = Calendar(examples, batch)
    taken_before, taken = (step - 1) * batch, step * batch
    assert calendar.ends_epoch(step) == (taken // examples > taken_before // examples)
    done = taken // examples
    assert calendar.epoch_of(step) == (done if calendar.ends_epoch(step) else done + 1)
    assert calendar.epochs_done(step) == done
    following = calendar.next_end(step)
    assert following is not None
    assert following > step
    assert calendar.ends_epoch(following)
    assert not any(calendar.ends_epoch(between) for between in range(step + 1, following))


def test_epochs_become_steps_rounded_up() -> None:
    assert total_steps(Calendar(100, 32), None, 3) == 10  # ceil(300 / 32)
    assert total_steps(Calendar(None, 32), 7, None) == 7
    assert total_steps(Calendar(None, 32), None, 3) is None


KINDS = st.sampled_from(["carry", "drop", "keep"])


def stepwise(examples: int, batch: int, remainder: Any, steps: int) -> tuple[list[list[int]], list[int]]:
    """The batches of the first `steps` steps, and after how many an epoch ends: written down from the definition."""
    batches: list[list[int]] = []
    ends: list[int] = []
    rest: list[int] = []
    epoch = 0
    while len(batches) < steps or not ends:
        row = rest + permutation(3, epoch, examples).tolist()
        cut = [row[at : at + batch] for at in range(0, len(row), batch)]
        rest = []
        if remainder != "keep" and len(cut[-1]) < batch:
            rest = cut.pop()
        if remainder == "drop":
            rest = []
        batches += cut
        # carried: the epoch's last example is taken by the batch that the next epoch fills
        ends.append(len(batches) + (1 if rest else 0))
        epoch += 1
    return batches[:steps], ends


@given(sizes, sizes, KINDS, st.integers(0, 60))
def test_every_step_takes_what_the_definition_says(examples: int, batch: int, remainder: Any, steps: int) -> None:
    assume(remainder != "drop" or examples >= batch)
    order, calendar = Order(examples, batch, 3, remainder), Calendar(examples, batch, remainder)
    expected, ends = stepwise(examples, batch, remainder, steps)
    found: list[list[int]] = []
    while len(found) < steps:  # in blocks, which end where the size changes
        block = order.rows(len(found), steps - len(found))
        assert 1 <= len(block) <= steps - len(found)
        assert block.shape[1] in order.sizes
        found += block.tolist()
    assert found == expected
    assert [step for step in range(1, steps + 1) if calendar.ends_epoch(step)] == sorted(
        {end for end in ends if end <= steps}
    )
    assert calendar.examples_taken(steps) == sum(map(len, expected))
    assert calendar.end_of(1) == ends[0]
    # begun anew at any step, the order is the same
    for step in range(0, steps, 7):
        assert Order(examples, batch, 3, remainder).rows(step, 1)[0].tolist() == expected[step]


@given(sizes, sizes, KINDS)
def test_a_block_of_no_steps_has_the_shape_of_the_step_that_follows(examples: int, batch: int, remainder: Any) -> None:
    assume(remainder != "drop" or examples >= batch)
    order = Order(examples, batch, 3, remainder)
    for step in range(6):
        assert order.rows(step, 0).shape == (0, order.rows(step, 1).shape[1])


def test_what_an_epoch_leaves_over_is_carried_dropped_or_kept() -> None:
    ends = {kind: [Calendar(10, 4, kind).end_of(epoch) for epoch in (1, 2, 3)] for kind in ("carry", "drop", "keep")}
    assert ends == {"carry": [3, 5, 8], "drop": [2, 4, 6], "keep": [3, 6, 9]}
    assert total_steps(Calendar(10, 4, "keep"), None, 3) == 9
    with pytest.raises(ConfigError, match="the 3 examples of an epoch fill no batch of 4"):
        Calendar(3, 4, "drop")
