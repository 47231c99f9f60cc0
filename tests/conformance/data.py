"""Forms of data: generators, datasets of single examples and of batches, texts, columns, sparse and ragged values, remainders."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.conformance.base import HELD_OUT, TRAINED, WIDTH, Case, make
from tests.conformance.catalogue import entry

layers = keras.layers


def of_batches(data: Any, size: int) -> Iterator[Any]:
    """Batches of arrays, the last one smaller."""
    x, y = data
    for start in range(0, len(x), size):
        yield x[start : start + size], y[start : start + size]


@entry("A tf.data.Dataset of single examples, in its own order", part="whole")
class Dataset(Case):
    def train_data(self) -> Any:
        return tf.data.Dataset.from_tensor_slices(make("numbers", TRAINED, 1))

    def evaluation_data(self) -> Any:
        return tf.data.Dataset.from_tensor_slices(make("numbers", HELD_OUT, 2))


class _Ready(Case):
    """Its batches are used as they are, by fit too."""

    ready = True


@entry("A tf.data.Dataset of batches, the last one smaller, for training and evaluation", part="fast", also=("two",))
class BatchedDataset(_Ready):
    def train_data(self) -> Any:
        return tf.data.Dataset.from_tensor_slices(make("numbers", TRAINED, 1)).batch(10)

    def evaluation_data(self) -> Any:
        return tf.data.Dataset.from_tensor_slices(make("numbers", HELD_OUT, 2)).batch(12)


@entry("A shuffled tf.data.Dataset, of training and of evaluation", part="fast", also=("two",))
class Shuffled(Case):
    seed: int | None = None

    def train_data(self) -> Any:
        return tf.data.Dataset.from_tensor_slices(make("numbers", TRAINED, 1)).shuffle(30, self.seed)

    def evaluation_data(self) -> Any:
        return tf.data.Dataset.from_tensor_slices(make("numbers", HELD_OUT, 2)).cache().shuffle(30)


@entry("A tf.data.Dataset shuffled with a seed", part="whole")
class ShuffledWithASeed(Shuffled):
    seed = 11


@entry("A generator of batches, which says nothing of its length")
class GeneratorOfBatches(_Ready):
    """The oracle gets the same as a dataset of known length: of an unknown one, fit runs half a step more in each epoch."""

    def train_data(self) -> Any:
        if self.by_oracle:
            return tf.data.Dataset.from_tensor_slices(make("numbers", TRAINED, 1)).batch(10)
        return lambda: of_batches(make("numbers", TRAINED, 1), 10)


@entry(
    "A dataset of unknown length, with Dropout",
    random="layer",
    other=True,
    why="fit begins one more step at each epoch's end, finds no data, and seeds, decay and schedules move on; here it is as "
    "with a known length",
)
class UnknownLength(_Ready):
    def layers(self) -> Any:
        return [layers.Dense(8, "tanh"), layers.Dropout(0.3, seed=2)]

    def train_data(self) -> Any:
        data = tf.data.Dataset.from_tensor_slices(make("numbers", TRAINED, 1)).batch(8)
        return data if self.by_oracle else data.filter(lambda x, y: True)


class Numbered(keras.utils.PyDataset):
    """Batches by number, in another order after each epoch."""

    def __init__(self, ends_before: int = 0) -> None:
        """`ends_before`: how often it is told of an epoch's end before there was one."""
        super().__init__()
        self.x, self.y = make("numbers", TRAINED, 1)
        self.order = np.arange(TRAINED)
        self.epoch = -ends_before

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        rows = self.order[index * 10 : index * 10 + 10]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self) -> None:
        self.epoch += 1
        if self.epoch > 0:
            self.order = np.random.default_rng(self.epoch).permutation(TRAINED)


@entry(
    "A PyDataset that orders itself anew at the end of each epoch",
    other=True,
    why="fit tells the dataset of an epoch's end before the first epoch; here the first epoch has the first order",
)
class OwnPyDataset(_Ready):
    def train_data(self) -> Any:
        return Numbered(ends_before=1 if self.by_oracle else 0)


@entry("A generator of single examples", part="whole")
class Generator(Dataset):
    def train_data(self) -> Any:
        x, y = make("numbers", TRAINED, 1)
        return super().train_data() if self.by_oracle else lambda: zip(x, y, strict=True)


class _Rest(Case):
    """44 examples: five batches of 8, and 4 more."""

    def train_data(self) -> Any:
        return make("numbers", 44, 1)


@entry(
    "train.remainder: keep, as fit does: the last batch of an epoch is smaller",
    train={"remainder": "keep"},
    also=("four",),
)
class RemainderKept(_Rest):
    pass


@entry("train.remainder: drop, as fit does with drop_remainder", train={"remainder": "drop"}, part="whole")
class RemainderDropped(_Rest):
    pass


@entry(
    "train.remainder: carry, orch's own: the last batch of an epoch is filled from the next",
    train={"steps": 11, "evaluate": {}},
    other_logs=("loss", "mae"),
    why="fit is given the same 11 batches as one epoch; here the sixth belongs to the first epoch",
    part="whole",
)
class RemainderCarried(_Rest):
    def callbacks(self) -> Any:
        return []


@entry("Texts in an array of objects, looked up within the model")
class Texts(Case):
    def _data(self, count: int, seed: int) -> Any:
        x, y = make("numbers", count, seed)
        words = np.array(["no", "so so", "yes"], object)
        return words[np.digitize(x[:, 0], [-0.5, 0.5])], y

    def train_data(self) -> Any:
        return self._data(TRAINED, 1)

    def evaluation_data(self) -> Any:
        return self._data(HELD_OUT, 2)

    def model(self) -> Any:
        text = keras.Input((), dtype="string")
        number = layers.StringLookup(vocabulary=["no", "so so", "yes"])(text)
        return keras.Model(text, layers.Dense(1)(layers.Embedding(4, 3)(number)))


@entry(
    "Texts of several words: the model makes rows of no fixed length of them; with Adam, which takes each word by itself"
)
class Words(Texts):
    def _data(self, count: int, seed: int) -> Any:
        x, y = make("numbers", count, seed)
        lengths = 1 + np.abs(x[:, 1] * 3).astype(int)
        texts = [
            " ".join(["no", "so", "yes"][(at + n) % 3] for n in range(length)) for at, length in enumerate(lengths)
        ]
        return np.array(texts, object), y

    def model(self) -> Any:
        text = keras.Input((), dtype="string")
        tokens = layers.TextVectorization(vocabulary=["no", "so", "yes"])(text)
        words = layers.Embedding(5, 3, mask_zero=True)(tokens)
        return keras.Model(text, layers.Dense(1)(layers.GlobalAveragePooling1D()(words)))

    def optimizer(self) -> Any:
        return keras.optimizers.Adam(0.05)


@entry("A sparse tensor as x: the numbers are those of the same values, not sparse")
class Sparse(Case):
    def _data(self, count: int, seed: int) -> Any:
        x, y = make("numbers", count, seed)
        x = np.where(np.abs(x) > 0.8, x, 0.0).astype("float32")
        return (x, y) if self.by_oracle else (tf.sparse.from_dense(x), y)

    def train_data(self) -> Any:
        return self._data(TRAINED, 1)

    def evaluation_data(self) -> Any:
        return self._data(HELD_OUT, 2)

    def model(self) -> Any:
        x = keras.Input((WIDTH,), sparse=not self.by_oracle)
        return keras.Model(x, layers.Dense(1)(layers.Dense(8, "tanh")(x)))


@entry("A frame of columns, by name", needs="pandas", part="whole")
class Columns(Case):
    def _data(self, count: int, seed: int) -> Any:
        import pandas as pd

        x, y = make("numbers", count, seed)
        columns = {"a": x[:, 0], "b": x[:, 1]}
        if self.by_oracle:
            return columns, y
        return dict(pd.DataFrame(columns)), y

    def train_data(self) -> Any:
        return self._data(TRAINED, 1)

    def evaluation_data(self) -> Any:
        return self._data(HELD_OUT, 2)

    def model(self) -> Any:
        a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
        return keras.Model({"a": a, "b": b}, layers.Dense(1)(layers.Concatenate()([a, b])))


@entry("A list of arrays as x", part="whole")
class ListOfArrays(Case):
    def _data(self, count: int, seed: int) -> Any:
        x, y = make("numbers", count, seed)
        return [x[:, :2], x[:, 2:]], y

    def train_data(self) -> Any:
        return self._data(TRAINED, 1)

    def evaluation_data(self) -> Any:
        return self._data(HELD_OUT, 2)

    def model(self) -> Any:
        inputs = [keras.Input((2,)), keras.Input((4,))]
        return keras.Model(inputs, layers.Dense(1)(layers.Concatenate()(inputs)))
