"""Texts.

An array of texts is taken as it is; TextVectorization is a layer of the model, adapted in `model`. The export takes texts.
A model that works on texts is compiled as graph: XLA has no strings.
"""

import keras
import numpy as np

from trainer.task import Task

TEXTS = ["a fine film", "what a dull film", "dull and long", "fine, very fine", "long but fine", "a dull evening"]
LIKED = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]


class Reviews(Task):
    def model(self):
        words = keras.layers.TextVectorization(max_tokens=50, output_sequence_length=6)
        words.adapt(TEXTS)
        return keras.Sequential(
            [
                keras.Input((), dtype="string"),
                words,
                keras.layers.Embedding(50, 8, mask_zero=True),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(1, activation="sigmoid"),
            ]
        )

    def train_data(self):
        return np.array(TEXTS * 16), np.array(LIKED * 16, "float32")

    def loss(self):
        return "binary_crossentropy"
