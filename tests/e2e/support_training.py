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
CHECKPOINT = {"every": STEPS // 30}
"""The first comes within the second epoch: a test need not wait long, and what goes on from it runs at full speed."""

# The same training and the same weights. What starts from nothing takes two minutes at least however fast the machine is, so
# that tests have the time to disturb it; what goes on from a checkpoint runs at full speed, so that they need not wait for it.
PACED = """
import time

import keras

from trainer.tasks.digits import Digits


EPOCHS = []  # of this process: what a callback remembers outlives it


class Pause(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        EPOCHS.append(epoch)
        if EPOCHS[0] == 0:
            time.sleep(3)


class Paced(Digits):
    def callbacks(self):
        return [Pause()]
"""
PACED_TRAIN = TRAIN | {"task": "code/paced.py:Paced"}
