"""A script with a strategy and a distributed dataset of its own, as guides for several workers have it."""

import json
import os

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(1)
workers = len(json.loads(os.environ.get("TF_CONFIG", '{"cluster": {"worker": [0]}}'))["cluster"]["worker"])
strategy = tf.distribute.MultiWorkerMirroredStrategy() if workers > 1 else tf.distribute.get_strategy()
assert strategy.num_replicas_in_sync == workers
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(16)
with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
if workers > 1:
    data = strategy.experimental_distribute_dataset(data)
history = model.fit(data, epochs=2, verbose=0)
sizes = [float(np.abs(weights).sum()) for weights in model.get_weights()]
print("TOLD", json.dumps({"history": history.history, "sizes": sizes, "evaluation": model.evaluate(data, verbose=0)}))
