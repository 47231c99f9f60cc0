"""When blocks end, how long they are, and when training stops early."""

import math

import pytest

from trainer.config import StopWhen
from trainer.data.order import Calendar
from trainer.process.plan import EarlyStopping, Pace, Plan


def test_blocks_end_where_something_is_due() -> None:
    plan = Plan(50, Calendar(100, 10), evaluate_every=20, save_every_steps=15)
    ends, step = [], 0
    while step < plan.total_steps:
        step += plan.steps_until_cut(step)
        ends.append(step)
    assert ends == [15, 20, 30, 40, 45, 50]
    assert [step for step in range(51) if plan.evaluate_at(step)] == [20, 40]
    assert [step for step in range(51) if plan.save_at(step)] == [15, 30, 45]


def test_blocks_end_with_epochs_where_these_matter() -> None:
    assert Plan(50, Calendar(95, 10)).steps_until_cut(0) == 50
    assert Plan(50, Calendar(95, 10), cut_at_epochs=True).steps_until_cut(0) == 10
    every_epoch = Plan(50, Calendar(95, 10), evaluate_every="epoch")
    assert every_epoch.steps_until_cut(10) == 9
    assert every_epoch.evaluate_at(19)
    assert not every_epoch.evaluate_at(20)


def test_a_block_grows_to_its_target_and_never_beyond_capacity() -> None:
    pace = Pace(capacity=1000, target_s=0.5)
    lengths = []
    for _ in range(8):
        steps = pace.next_steps(until_cut=10**9)
        lengths.append(steps)
        pace.observe(steps, seconds=steps * 0.001)
    assert lengths[0] == 1, "nobody knows how long a step takes"
    assert lengths == sorted(lengths)
    assert lengths[-1] == 500
    pace.observe(500, seconds=0.05)
    assert pace.next_steps(until_cut=10**9) == 1000
    assert pace.next_steps(until_cut=3) == 3


def test_a_slow_step_makes_blocks_of_one() -> None:
    pace = Pace(capacity=1000)
    pace.observe(4, seconds=400.0)
    assert pace.next_steps(until_cut=100) == 1


@pytest.mark.parametrize(
    "metric, values, stops_after",
    [
        ("val_loss", [1.0, 0.9, 0.95, 0.96], 4),
        ("val_loss", [1.0, 0.9, 0.95, 0.8, 0.9, 0.9], 6),
        ("val_accuracy", [0.1, 0.2, 0.2, 0.2], 4),
        ("val_loss", [math.nan, math.nan], 2),
    ],
)
def test_training_stops_after_patience_evaluations_without_improvement(
    metric: str, values: list[float], stops_after: int
) -> None:
    early = EarlyStopping(StopWhen(metric=metric, patience=2))
    for number, value in enumerate(values, 1):
        early.observe(value)
        assert early.exhausted == (number == stops_after)


def test_early_stopping_goes_on_from_a_checkpoint_as_if_nothing_had_happened() -> None:
    rule = StopWhen(metric="val_loss", patience=2, min_delta=0.1)
    before = EarlyStopping(rule)
    for value in (1.0, 0.95):
        before.observe(value)
    after = EarlyStopping(rule)
    after.restore(before.state())
    after.observe(0.93)
    assert after.exhausted
    other = EarlyStopping(StopWhen(metric="val_accuracy"))
    other.restore(before.state())
    assert other.best is None
