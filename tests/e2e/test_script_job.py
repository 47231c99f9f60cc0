"""A script with model.fit, unchanged, on two nodes: a pod is deleted, and it ends with the weights of a run on this machine."""

import os

import pytest
from support_cluster import Room, orch

from trainer.rundir.commits import list_commits
from trainer.rundir.open import open_store

pytestmark = pytest.mark.e2e

# The first start pauses within the second epoch, so that a test has the time to disturb it: what a callback holds in a module's
# global is not what a checkpoint gives back.
SCRIPT = """
import sys
import time

import keras

from trainer.tasks.digits import load_digits

keras.utils.set_random_seed(5)
images, labels = load_digits()
started = []


class Pause(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        started.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        if "--paced" in sys.argv and started[:1] == [0] and started[-1] > 0:
            time.sleep(1)


model = keras.Sequential([keras.Input((8, 8)), keras.layers.Flatten(), keras.layers.Dense(32, "relu"), keras.layers.Dense(10)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile("adam", loss, metrics=["accuracy"])
callbacks = [Pause(), keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1), keras.callbacks.CSVLogger("/tmp/log.csv")]
history = model.fit(images, labels, batch_size=64, epochs=12, validation_split=0.2, callbacks=callbacks, verbose=2)
print("accuracy", history.history["accuracy"][-1])
"""


def test_a_script_loses_a_pod_and_ends_with_the_weights_of_a_local_run(room: Room) -> None:
    code = room.mount_code("train.py", SCRIPT)
    train = {"script": "code/train.py", "args": ["--paced"]}
    job = room.job_file("script", train=train, checkpoint={"every": 10}, **code)
    local = orch(
        room.folder,
        os.environ,
        *("run", str(job), "--workers", "2", "--directory", str(room.folder / "here"), "-o", "json"),
        *("--set", "train.args=[]"),
        timeout_s=200,
    )
    assert local.code == 0, local.stderr

    room.orch("submit", str(job))
    status = room.wait_for_status("script", lambda status: status["state"] == "running" and status["step"] > 0)
    store = open_store(status["run_directory"])
    room.wait_for("a checkpoint", lambda: bool(list_commits(store)))
    room.api.delete_namespaced_pod(room.pods("script")[1].metadata.name, room.namespace)
    status = room.wait_for_status("script", lambda status: status["state"] == "succeeded", timeout_s=300)
    assert (status["code"], status["restarts"]) == (0, 1)
    assert status["weights_sha256"] == local.json()["weights_sha256"]
    assert status["metrics"]["accuracy"] == local.json()["metrics"]["accuracy"] > 0.9
    room.orch("delete", "script")
