#!/usr/bin/env bash
# Keras 3.15.1 on TensorFlow 2.21.0: fit over a shuffled tf.data.Dataset does not train on the orders that the dataset gives one
# after the other. Between two epochs it begins one more reading, which it throws away, so that the epochs have the dataset's first,
# third and fifth order. With dataset.repeat(3) and steps_per_epoch they have the first three.
# Seen: epochs of fit have orders 1, 3, 5; with repeat and steps_per_epoch 1, 2, 3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet tensorflow-cpu==2.21.0 keras==3.15.1
TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1 "$folder/venv/bin/python" - <<'PYTHON'
import keras
import tensorflow as tf


def shuffled():
    numbers = tf.data.Dataset.range(8).map(lambda number: (tf.cast([number], tf.float32), tf.cast([number], tf.float32)))
    return numbers.shuffle(8, seed=5)


class Watched(keras.Sequential):
    def train_step(self, data):
        seen.append(int(data[1][0, 0]))
        return super().train_step(data)


def orders(dataset, **options):
    seen.clear()
    model = Watched([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(dataset, epochs=3, verbose=0, **options)
    return [1 + given.index(seen[at : at + 8]) for at in (0, 8, 16)]


seen = []
fresh = shuffled()
given = [[int(y[0]) for _, y in fresh] for _ in range(5)]
plain = orders(shuffled().batch(1))
repeated = orders(shuffled().batch(1).repeat(3), steps_per_epoch=8)
print(f"keras {keras.__version__}: orders of the epochs: {plain}; repeated: {repeated}")
assert (plain, repeated) == ([1, 3, 5], [1, 2, 3])
PYTHON
