"""Tasks that the worker's tests train. Loaded by file, as a user's are."""

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.task import Task
from trainer.tasks.digits import Digits

EXAMPLES = 70
STEPS_LOGGED = 400


class Numbered(Task):
    """Each example is its own number; `seen`, a variable of the task, logs which examples each step took."""

    def __init__(self, batch: int, data: str = "arrays") -> None:
        self.batch = batch
        self.data = data

    def model(self) -> keras.Model:
        self.seen = tf.Variable(tf.fill((STEPS_LOGGED, self.batch), -1), trainable=False)
        return keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(4), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
        )

    def train_data(self) -> Any:
        x = np.arange(EXAMPLES, dtype="float32")[:, None]
        y = np.arange(EXAMPLES, dtype="int32")
        if self.data == "dataset":
            return tf.data.Dataset.from_tensor_slices((x, y))
        if self.data == "generator":
            return lambda: zip(x, y, strict=True)
        return x, y

    def train_step(self, model: Any, optimizer: Any, batch: Any) -> dict[str, Any]:
        x, number = batch
        step = tf.cast(optimizer.iterations, tf.int32)
        self.seen.assign(tf.tensor_scatter_nd_update(self.seen, [[step]], [number]))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x / EXAMPLES, training=True) - x / EXAMPLES) ** 2)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


class NeverBetter(Digits):
    """Its learning rate is 0: the evaluation never improves."""

    def optimizer(self) -> Any:
        return keras.optimizers.SGD(0.0)


class Hooked(Digits):
    """Prints each hook, and stops in the third epoch."""

    def callbacks(self) -> list[Any]:
        class Printing(keras.callbacks.Callback):
            def on_train_begin(self, logs: Any = None) -> None:
                print("HOOK train_begin", flush=True)

            def on_train_end(self, logs: Any = None) -> None:
                print("HOOK train_end", flush=True)

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                print("HOOK epoch_begin", epoch, flush=True)

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                print("HOOK epoch_end", epoch, sorted(logs), flush=True)
                self.model.stop_training = epoch == 2

        return [Printing()]


class StopsWhenStopped(Digits):
    """After two epochs it says so, and waits for the file `go`; at the end of the third it wants to end."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = Path(folder)

    def callbacks(self) -> list[Any]:
        there, go = self._folder / "there", self._folder / "go"

        class Stops(keras.callbacks.Callback):
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                while epoch == 1 and not go.exists():
                    there.touch()
                    time.sleep(0.02)
                self.model.stop_training = epoch == 2

        return [Stops()]


class Raises(Digits):
    def train_step(self, model: Any, optimizer: Any, batch: Any) -> dict[str, Any]:
        return self.helper(batch)

    def helper(self, batch: Any) -> dict[str, Any]:
        raise KeyError("a slip of the user's")


class NoLoss(Digits):
    def loss(self) -> Any:
        return None


class Slow(Digits):
    """A generator that takes its time: blocks are short, and there is time to be stopped."""

    def train_data(self) -> Any:
        images, labels = super().train_data()
        for image, label in zip(images, labels, strict=True):
            time.sleep(0.0005)
            yield image, label


class Weighted(Digits):
    """Weights of examples, a regulariser and an activity loss."""

    def model(self) -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((8, 8)),
                keras.layers.Flatten(),
                keras.layers.Dense(16, kernel_regularizer="l2"),
                keras.layers.Dense(16, activation="relu", activity_regularizer="l2"),
                keras.layers.Dense(10),
            ]
        )

    def train_data(self) -> Any:
        images, labels = super().train_data()
        return images, labels, np.linspace(0.0, 2.0, len(labels)).astype("float32")


class ManyLayers(Digits):
    """BatchNormalization, whose statistics differ between replicas, and Dropout."""

    def model(self) -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((8, 8)),
                keras.layers.Flatten(),
                keras.layers.Dense(16),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Dropout(0.3),
                keras.layers.Dense(10),
            ]
        )


class MixesRows(Digits):
    """Its layer takes a mean over the rows of a batch."""

    def model(self) -> keras.Model:
        class Centred(keras.layers.Layer):
            def call(self, x: Any) -> Any:
                return x - tf.reduce_mean(x, 0)

        flat = [keras.Input((8, 8)), keras.layers.Flatten(), Centred(name="centred"), keras.layers.Dense(10)]
        return keras.Sequential(flat)


class HiddenVariable(Digits):
    """Its step uses a variable where nothing looks for one."""

    def train_step(self, model: Any, optimizer: Any, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(y, model(x, training=True), from_logits=True)
            loss = tf.reduce_mean(losses) * _hidden.scale
        _hidden.scale.assign(_hidden.scale * 0.99)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return {"loss": loss}


def _hidden() -> None: ...


_hidden.scale = tf.Variable(1.0, name="temperature", trainable=False)


class ChecksPredictions(keras.callbacks.Callback):
    """Predicts with the model at an epoch's end, with every one of its rows."""

    def __init__(self, inputs: Any) -> None:
        super().__init__()
        self._inputs = inputs

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        predicted = self.model.predict(self._inputs, verbose=0)
        np.testing.assert_allclose(predicted, self.model(self._inputs).numpy(), rtol=1e-5)


class Sentences(Task):
    """Texts whose layer knows nothing of how many there are. `backwards`: it learned its words in another order."""

    def __init__(self, backwards: bool = False) -> None:
        self._backwards = backwards

    def _texts(self) -> Any:
        words = np.random.default_rng(2).choice(["good", "bad", "fine", "poor", "film", "plot"], (160, 5))
        return np.array([" ".join(row) for row in words], dtype=object), (words == "good").any(1).astype("float32")

    def train_data(self) -> Any:
        return self._texts()

    def evaluation_data(self) -> Any:
        texts, labels = self._texts()
        return texts[:45], labels[:45]

    def callbacks(self) -> list[Any]:
        return [ChecksPredictions(tf.constant(self._texts()[0][:45].tolist()))]

    def model(self) -> keras.Model:
        text = keras.layers.TextVectorization(max_tokens=20, output_sequence_length=8)
        text.adapt(self._texts()[0])
        if self._backwards:
            text.set_vocabulary(text.get_vocabulary(include_special_tokens=False)[::-1])
        model = keras.Sequential(
            [
                keras.Input((), dtype="string"),
                text,
                keras.layers.Embedding(20, 8, mask_zero=True),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(1, "sigmoid"),
            ]
        )
        # Looks at each lookup of a word by itself: their number must not get lost on the way over replicas.
        model.compile(keras.optimizers.Adagrad(0.1), "binary_crossentropy", metrics=["accuracy"])
        return model


class StockCallbacks(Task):
    """Keras' own callbacks as scripts have them, and one of the task's own that counts."""

    def __init__(self, folder: str, by_batch: bool = False) -> None:
        self._folder = Path(folder)
        self._by_batch = by_batch

    def train_data(self) -> Any:
        x = np.random.default_rng(0).normal(size=(160, 6)).astype("float32")
        return x, x[:, :1] * x[:, 1:2]

    def evaluation_data(self) -> Any:
        x = np.random.default_rng(1).normal(size=(48, 6)).astype("float32")
        return x, x[:, :1] * x[:, 1:2]

    def model(self) -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(16, "relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.2),
                keras.layers.Dense(1),
            ]
        )

    def optimizer(self) -> Any:
        return keras.optimizers.Adam(0.03)

    def loss(self) -> Any:
        return "mse"

    def callbacks(self) -> Any:
        class Cooling(keras.callbacks.Callback):
            """What on_train_begin sets is what the first start begins with, and no later one."""

            def __init__(self) -> None:
                super().__init__()
                self.epochs = 0

            def on_train_begin(self, logs: Any = None) -> None:
                self.model.optimizer.learning_rate = 0.05

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                self.epochs += 1
                rate = float(self.model.optimizer.learning_rate) * (0.99 if self.epochs % 2 else 0.97)
                self.model.optimizer.learning_rate = rate
                print(f"EPOCH {epoch} of {self.epochs} val_loss {logs['val_loss']!r}", flush=True)

        kind = keras.callbacks
        here = self._folder
        here.mkdir(exist_ok=True, parents=True)
        return (
            Cooling(),
            kind.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.02),
            kind.EarlyStopping("val_loss", patience=4, restore_best_weights=True, verbose=1),
            kind.CSVLogger(str(here / "log.csv")),
            kind.ModelCheckpoint(str(here / "best.keras"), "val_loss", save_best_only=True, verbose=1),
            kind.TensorBoard(str(here / "events"), update_freq=5 if self._by_batch else "epoch"),
        )
