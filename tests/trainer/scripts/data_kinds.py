"""fit on every kind of data it takes. It may kill itself once, in the second epoch or after it."""

import argparse
import hashlib
import json
import os
import pathlib
import signal

import keras
import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--files", type=pathlib.Path, required=True)
parser.add_argument("--die", type=int, default=-1)
parser.add_argument("--data", required=True)
parser.add_argument("--unseeded", action="store_true")
args = parser.parse_args()
args.files.mkdir(exist_ok=True)
if not args.unseeded:
    keras.utils.set_random_seed(3)

rng = np.random.default_rng(0)
x = rng.normal(size=(90, 6)).astype("float32")
y = x[:, :1] * x[:, 1:2]
options = {}
if args.data == "arrays":
    data = {"x": x, "y": y, "batch_size": 8}
elif args.data == "batch-shuffle":
    data = {"x": x, "y": y, "batch_size": 8, "shuffle": "batch", "class_weight": None}
elif args.data == "arrays-steps":
    data = {"x": x, "y": y, "batch_size": 8, "steps_per_epoch": 7}
elif args.data == "dataset":
    data = {"x": tf.data.Dataset.from_tensor_slices((x, y)).shuffle(90).batch(8)}
elif args.data == "repeated":
    data = {"x": tf.data.Dataset.from_tensor_slices((x, y)).shuffle(90).repeat().batch(8), "steps_per_epoch": 9}
elif args.data == "unknown-length":
    data = {"x": tf.data.Dataset.from_tensor_slices((x, y)).shuffle(90).filter(lambda a, b: a[0] > -1).batch(8)}
elif args.data == "several-steps":
    data = {"x": x, "y": y, "batch_size": 8}
    options = {"steps_per_execution": 3}
elif args.data == "generator":

    def batches():
        while True:
            rows = np.random.randint(0, len(x), 8)
            yield x[rows], y[rows]

    data = {"x": batches(), "steps_per_epoch": 9}
elif args.data == "pydataset":

    class Rows(keras.utils.PyDataset):
        order = np.arange(len(x))

        def __len__(self):
            return 11

        def __getitem__(self, number):
            rows = self.order[number * 8 : number * 8 + 8]
            return x[rows], y[rows]

        def on_epoch_end(self):
            self.order = np.random.permutation(self.order)

    data = {"x": Rows()}

steps: list[int] = []


class Deadly(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        steps.append(batch)
        mark = args.files / f"died-{os.environ.get('TF_CONFIG', '')[-4:-2].strip()}"
        if len(steps) == args.die and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


model = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(0.01, weight_decay=0.01), "mse", metrics=["mae"], **options)
history = model.fit(**data, epochs=4, callbacks=[Deadly()], verbose=0)
digest = hashlib.sha256(b"".join(weights.tobytes() for weights in model.get_weights())).hexdigest()
sizes = [float(np.abs(weights).sum()) for weights in model.get_weights()]
told = {"history": history.history, "weights": digest, "sizes": sizes, "iterations": int(model.optimizer.iterations)}
print("TOLD", json.dumps(told), flush=True)
