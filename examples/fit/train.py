"""A script as tutorials have it: a small CNN on handwritten digits, with stock callbacks, in two calls of fit.

python examples/fit/train.py            # plain Keras
orch run examples/fit/job.yaml          # the same with checkpoints; --workers 2 as well
"""

import argparse
from importlib import resources

import keras
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--out", default="runs/fit-files")
args = parser.parse_args()
keras.utils.set_random_seed(7)

with resources.files("trainer.tasks").joinpath("data/optdigits.npz").open("rb") as file, np.load(file) as data:
    images, labels = data["images"][..., None].astype("float32") / 16, data["labels"].astype("int32")
held_out = np.arange(len(labels)) % 5 == 0

features = keras.Sequential(
    [
        keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
        keras.layers.BatchNormalization(synchronized=True),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
    ],
    name="features",
)
model = keras.Sequential([keras.Input((8, 8, 1)), features, keras.layers.Dropout(0.2), keras.layers.Dense(10)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def callbacks(part: str) -> list[keras.callbacks.Callback]:
    """Those of one part of the training."""
    return [
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1, factor=0.5),
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=3, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(f"{args.out}/{part}.keras", monitor="val_accuracy", save_best_only=True),
        keras.callbacks.CSVLogger(f"{args.out}/{part}.csv"),
        keras.callbacks.TensorBoard(f"{args.out}/{part}"),
    ]


def fit(part: str, epochs: int) -> None:
    """Train, and say what came of it."""
    history = model.fit(
        images[~held_out],
        labels[~held_out],
        batch_size=64,
        epochs=epochs,
        validation_data=(images[held_out], labels[held_out]),
        callbacks=callbacks(part),
        verbose=2,
    )
    print(part, "val_accuracy", f"{max(history.history['val_accuracy']):.4f}")


model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
fit("all", args.epochs)

features.trainable = False
model.compile(keras.optimizers.SGD(1e-2, momentum=0.9), loss, metrics=["accuracy"])
fit("head", max(1, args.epochs // 4))
model.save(f"{args.out}/model.keras")
