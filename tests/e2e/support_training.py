"""What the jobs of these tests train: the demo, and the same so slowly that a test can act in mid-run."""

from typing import Any

STEPS = 900
TRAIN: dict[str, Any] = {
    "task": "trainer.tasks.digits:Digits",
    "steps": STEPS,
    "global_batch_size": 64,
    "seed": 17,
    "evaluate": {"every": STEPS // 2},
}
CHECKPOINT = {"every": STEPS // 10}

# The same training and the same weights. What starts from nothing takes two minutes at least however fast the machine is, so
# that tests have the time to disturb it; what goes on from a checkpoint runs at full speed, so that they need not wait for it.
PACED = """
import time

import keras

from trainer.tasks.digits import Digits


class Pause(keras.callbacks.Callback):
    first = None

    def on_epoch_end(self, epoch, logs=None):
        self.first = epoch if self.first is None else self.first
        if self.first == 0:
            time.sleep(3)


class Paced(Digits):
    def callbacks(self):
        return [Pause()]
"""
PACED_TRAIN = TRAIN | {"task": "code/paced.py:Paced"}
