"""What is exported, and how it is read.

When training is done, the model lies in `export/` of the run directory as `.keras`, with `export.best` the best one beside it.
Classes of your own are registered, or known by loading the task; a model that Keras cannot write is exported as weights.
Preprocessing that is part of the model is part of the export.

    export: {best: val_loss}

    from trainer.exported import load
    model = load("runs/digits")               # or gs://bucket/prefix
    best = load("runs/digits", best=True)
"""

import keras

from trainer.task import Task
from trainer.tasks.digits import load_digits


@keras.saving.register_keras_serializable("recipes")
class Classifier(keras.Model):
    """A model of a class of its own; get_config lets Keras make it anew."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.flatten, self.body = keras.layers.Flatten(), keras.layers.Dense(hidden, activation="relu")
        self.head = keras.layers.Dense(10, activation="softmax")

    def call(self, images):
        return self.head(self.body(self.flatten(images)))

    def get_config(self):
        return super().get_config() | {"hidden": self.hidden}


class Digits(Task):
    def model(self):
        return Classifier(16)

    def train_data(self):
        images, labels = load_digits()
        return images[:1500], labels[:1500]

    def evaluation_data(self):
        images, labels = load_digits()
        return images[1500:], labels[1500:]

    def loss(self):
        return "sparse_categorical_crossentropy"
