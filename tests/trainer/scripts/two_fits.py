"""A script as people write it: lazy layers, stock callbacks, two calls of fit. It may kill itself once, on the way."""

import argparse
import hashlib
import json
import os
import pathlib
import signal

import keras
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--files", type=pathlib.Path, required=True)
parser.add_argument("--die", default="", choices=["", "batch", "validation", "callback", "between", "second"])
parser.add_argument("--unseeded", action="store_true")
parser.add_argument("--dropout", type=float, default=0.2)
parser.add_argument("--data-seed", type=int, default=0)
args = parser.parse_args()
args.files.mkdir(exist_ok=True)
if not args.unseeded:
    keras.utils.set_random_seed(3)


def die(where: str) -> None:
    mark = args.files / f"died-{where}-{os.environ.get('TF_CONFIG', '')[-4:-2].strip()}"
    if args.die == where and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Deadly(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(batch)
        if len(self.batches) == 45:
            die("batch")

    def on_test_batch_end(self, batch, logs=None):
        if len(self.batches) > 30 and batch == 2:
            die("validation")

    def on_epoch_end(self, epoch, logs=None):
        print("EPOCH", epoch, json.dumps(logs, sort_keys=True), flush=True)
        if epoch == 2:
            die("callback")


class Second(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.params["epochs"] == 2 and batch == 9:
            die("second")


rng = np.random.default_rng(args.data_seed)
x = rng.normal(size=(300, 8)).astype("float32")
y = (x[:, :1] * x[:, 1:2] + 0.1 * rng.normal(size=(300, 1))).astype("float32")
model = keras.Sequential([keras.layers.Dense(16, "relu"), keras.layers.Dropout(args.dropout), keras.layers.Dense(1)])
model.compile("adam", "mse", metrics=["mae"])
deadly = Deadly()
callbacks = [
    deadly,
    keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=0, min_delta=0.05),
    keras.callbacks.EarlyStopping(monitor="val_loss", patience=3, restore_best_weights=True),
    keras.callbacks.CSVLogger(args.files / "log.csv"),
    keras.callbacks.ModelCheckpoint(args.files / "best.keras", save_best_only=True),
]
first = model.fit(x, y, batch_size=16, epochs=5, validation_split=0.2, callbacks=callbacks, verbose=0)
die("between")
model.layers[0].trainable = False
model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
second = model.fit(x, y, batch_size=16, epochs=2, callbacks=[Second()], verbose=0)
model.save(args.files / "model.keras")
digest = hashlib.sha256(b"".join(weights.tobytes() for weights in model.get_weights())).hexdigest()
told = {
    "first": first.history,
    "second": second.history,
    "batches": deadly.batches,
    "evaluation": model.evaluate(x, y, verbose=0),
    "prediction": float(model.predict(x[:3], verbose=0).sum()),
    "weights": digest,
    "sizes": [float(np.abs(weights).sum()) for weights in model.get_weights()],
}
print("TOLD", json.dumps(told), flush=True)
