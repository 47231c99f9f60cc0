"""Columns of a CSV file.

`table` reads CSV, Parquet and Arrow files, with the package pyarrow; a word among numbers or a number that is missing is an
error. `adapt` teaches preprocessing layers what the file holds, in `model`. They are layers of the model, so the export takes
raw columns; what they learned is part of checkpoints and export. Here `flats.csv` lies beside the task; pandas' columns and
frames are taken as well.
"""

from pathlib import Path

import keras

from trainer.data import table
from trainer.task import Task

FILE = Path(__file__).with_name("flats.csv")


class Rents(Task):
    def __init__(self) -> None:
        self.columns = table(FILE, types={"area": float, "rent": float})

    def model(self):
        area, district = keras.Input((1,), name="area"), keras.Input((), name="district", dtype="string")
        scaled = keras.layers.Normalization()
        scaled.adapt(self.columns["area"][:, None])
        known = keras.layers.StringLookup(output_mode="one_hot")
        known.adapt(self.columns["district"])
        features = keras.layers.concatenate([scaled(area), known(district)])
        return keras.Model([area, district], keras.layers.Dense(1)(features))

    def train_data(self):
        return (self.columns["area"][:, None], self.columns["district"]), self.columns["rent"]

    def loss(self):
        return "mae"
