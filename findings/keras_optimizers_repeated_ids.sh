#!/usr/bin/env bash
# Keras 3.15.1 on TensorFlow 2.21.0: optimizers that square a gradient (Adam, Adagrad, RMSprop), and clipnorm, do not add up the
# rows of a sparse gradient that belong to the same index. The gradient of an Embedding has one row for each lookup, so that an id
# that stands twice in a batch counts as a^2 + b^2 where the dense gradient, equal as a sum, gives (a + b)^2. The same batch trains
# to other weights when anything on the way (a sum over replicas, a gradient by hand) makes the gradient dense. SGD is not touched.
# Seen after one step of Adagrad(0.1) from 1.0, rows 1 and 3 for id 0: sparse 0.8741, dense 0.9003.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet tensorflow-cpu==2.21.0 keras==3.15.1
TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1 "$folder/venv/bin/python" - <<'PYTHON'
import keras
import numpy as np
import tensorflow as tf

sparse = tf.IndexedSlices(tf.constant([[1.0], [3.0]]), tf.constant([0, 0]), tf.constant([2, 1]))


def stepped(optimizer, gradient):
    weight = keras.Variable(np.ones((2, 1), "float32"))
    optimizer.build([weight])
    optimizer.apply([gradient], [weight])
    return round(float(weight[0, 0]), 4)


seen = {
    kind.__name__: (stepped(kind(0.1), sparse), stepped(kind(0.1), tf.convert_to_tensor(sparse)))
    for kind in (keras.optimizers.SGD, keras.optimizers.Adagrad, keras.optimizers.RMSprop)
}
print(f"keras {keras.__version__}: weight after one step, (sparse, dense) {seen}")
assert seen["SGD"][0] == seen["SGD"][1]
for name in ("Adagrad", "RMSprop"):
    assert abs(seen[name][0] - seen[name][1]) > 0.01
assert seen["Adagrad"] == (0.8741, 0.9003)
PYTHON
