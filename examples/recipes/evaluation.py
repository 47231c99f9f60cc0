"""An evaluation of your own.

`evaluate_step` gives scalars over a batch, which are averaged over all examples; their names get `val_`, by which `stop_when`
and `export.best` know them. For what is no mean (AUC, recall), give `metrics`, and leave `evaluate_step` out.

    train: {task: evaluation.py:Denoise, steps: 2000, evaluate: {every: 100}, stop_when: {metric: val_psnr, mode: max}}
"""

import keras
import numpy as np

from trainer.task import Task
from trainer.tasks.digits import load_digits


class Denoise(Task):
    def model(self):
        layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(64, activation="sigmoid")]
        return keras.Sequential([keras.Input((64,)), *layers])

    def pairs(self, part):
        clean = load_digits()[0].reshape(-1, 64)[part]
        return clean + np.random.normal(0.0, 0.2, clean.shape), clean

    def train_data(self):
        return self.pairs(slice(0, 1500))

    def evaluation_data(self):
        return self.pairs(slice(1500, None))

    def loss(self):
        return "mse"

    def evaluate_step(self, model, batch):
        noisy, clean = batch
        error = keras.ops.mean(keras.ops.square(model(noisy, training=False) - clean), axis=1)
        return {"mse": keras.ops.mean(error), "psnr": keras.ops.mean(-10.0 * keras.ops.log10(error + 1e-9))}
