#!/usr/bin/env bash
# Keras 3.15.1 on TensorFlow 2.21.0, MirroredStrategy: with BatchNormalization(synchronized=True) behind a layer that adds a loss
# (activity_regularizer, add_loss), all replicas of a process see the loss of the last one. A layer keeps what was added in a
# Python list, which the threads of all replicas share; they change places at each collective, and a synchronized
# BatchNormalization is one in the middle of the model: the second replica has cleared and filled the list again before the first
# one reads model.losses. Without synchronized each replica has its own.
# Seen, where the losses are 8 and 72: [8.0, 72.0] plain, [72.0] (the same tensor for both) synchronized.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet tensorflow-cpu==2.21.0 keras==3.15.1
TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=-1 "$folder/venv/bin/python" - <<'PYTHON'
import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
inputs = [np.full((4, 2), value, "float32") for value in (1.0, 3.0)]


def losses(synchronized):
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((2,)),
                keras.layers.Dense(2, kernel_initializer="ones", activity_regularizer=keras.regularizers.L2(1.0)),
                keras.layers.BatchNormalization(synchronized=synchronized),
            ]
        )

    def on_one(x):
        model(x, training=True)
        return tf.add_n(model.losses)

    own = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(inputs[context.replica_id_in_sync_group])
    )
    outputs = tf.function(lambda x: strategy.run(on_one, args=(x,)))(own)
    return [float(value) for value in strategy.experimental_local_results(outputs)]


plain, synchronized = losses(False), losses(True)
print(f"keras {keras.__version__}: added to the loss on two replicas: plain {plain}, synchronized {synchronized}")
assert plain == [8.0, 72.0]
assert set(synchronized) == {72.0}
PYTHON
