"""What optimizers of Keras count wrongly with gradient_accumulation_steps, put right."""

import keras
import numpy as np
import pytest

from trainer.model.corrections import correct


@pytest.mark.parametrize("small_steps", [6, 7])
def test_averages_move_with_updates_and_are_the_weights_at_the_end(small_steps: int) -> None:
    """Whatever the number of the last step: of seven, the last begins an update that never comes."""
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5, gradient_accumulation_steps=3)
    correct(optimizer)
    weight = keras.Variable(8.0)
    optimizer.build([weight])
    for _ in range(small_steps):
        optimizer.apply([keras.ops.convert_to_tensor(2.0)], [weight])
    average = 0.5 * 6.0 + 0.5 * 4.0  # it begins with the first updated weight
    assert float(np.asarray(weight)) == 4.0
    optimizer.finalize_variable_values([weight])
    assert float(np.asarray(weight)) == average


def test_a_schedule_goes_by_updates() -> None:
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.25])
    optimizer = keras.optimizers.SGD(rates, gradient_accumulation_steps=3)
    correct(optimizer)
    weight = keras.Variable(8.0)
    optimizer.build([weight])
    for _ in range(6):
        optimizer.apply([keras.ops.convert_to_tensor(2.0)], [weight])
    assert float(np.asarray(weight)) == 8.0 - 2.0 - 0.5
