#!/usr/bin/env bash
# Keras 3.15.1 on TensorFlow 2.21.0: set_weights on a Normalization layer that was adapted before changes what get_weights gives,
# and nothing of what the layer computes. Its call uses constants that adapt() made of the weights; they are made anew only when
# weights are loaded from a file, or by finalize_state(). Two models with equal weights so predict differently, without a warning:
# met by whoever carries weights over with get_weights and set_weights, or assigns variables from a checkpoint of their own.
# Seen: weights equal, predictions -0.5 and 8.0 for the same input; after finalize_state() both are -0.5.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet tensorflow-cpu==2.21.0 keras==3.15.1
TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1 "$folder/venv/bin/python" - <<'PYTHON'
import keras
import numpy as np


def adapted(*values):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Normalization()])
    model.layers[0].adapt(np.array([[value] for value in values], "float32"))
    return model


source, target = adapted(9.0, 13.0), adapted(1.0, 3.0)
target.set_weights(source.get_weights())
x = np.array([[10.0]], "float32")
equal = all(np.array_equal(a, b) for a, b in zip(source.get_weights(), target.get_weights(), strict=True))
of_source, of_target = float(source(x)[0, 0]), float(target(x)[0, 0])
target.layers[0].finalize_state()
finalized = float(target(x)[0, 0])
print(f"keras {keras.__version__}: weights equal {equal}, predictions {of_source} and {of_target}, finalized {finalized}")
assert (equal, of_source, of_target, finalized) == (True, -0.5, 8.0, -0.5)
PYTHON
