#!/usr/bin/env bash
# Keras 3.15.1 on TensorFlow 2.21.0: a metric whose result() returns its variable, as own metrics often do, makes fit show the
# validation's value as the training's. fit keeps the results of the last training step as they are, resets the metrics for
# validation, and reads the numbers afterwards, when the variable holds the validation's value. With a copy it is right.
# Seen, for a maximum that is 5.0 in training and 2.0 in validation: history "largest" 2.0, beside "val_largest" 2.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet tensorflow-cpu==2.21.0 keras==3.15.1
TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1 "$folder/venv/bin/python" - <<'PYTHON'
import keras
import numpy as np


class Largest(keras.metrics.Metric):
    def __init__(self):
        super().__init__(name="largest")
        self.value = self.add_weight(shape=(), initializer="zeros", name="value")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(keras.ops.maximum(self.value, keras.ops.max(keras.ops.abs(y_true - y_pred))))

    def result(self):
        return self.value


class Copied(Largest):
    def result(self):
        return self.value + 0.0


seen = {}
x = np.ones((8, 1), "float32")
for kind in (Largest, Copied):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=[kind()])
    history = model.fit(x, 5.0 * x, validation_data=(x, 2.0 * x), verbose=0).history
    seen[kind.__name__] = (float(history["largest"][0]), float(history["val_largest"][0]))
print(f"keras {keras.__version__}: (largest, val_largest) {seen}")
assert seen == {"Largest": (2.0, 2.0), "Copied": (5.0, 2.0)}
PYTHON
