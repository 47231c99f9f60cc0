"""Images of a folder.

Each folder in `folder` is a class. Keras' reader gives batches, in an order that its seed decides. Augmentation is made of
layers of the model, which do nothing in evaluations and in the export; their draws go by `train.seed`.
"""

import keras

from trainer.task import Task


class Pictures(Task):
    def __init__(self, folder: str, size: int = 16) -> None:
        self.folder, self.size = folder, size

    def read(self, part):
        return keras.utils.image_dataset_from_directory(
            self.folder,
            subset=part,
            validation_split=0.25,
            seed=1,
            image_size=(self.size, self.size),
            batch_size=8,
            verbose=False,
        )

    def model(self):
        return keras.Sequential(
            [
                keras.Input((self.size, self.size, 3)),
                keras.layers.Rescaling(1 / 255),
                keras.layers.RandomFlip("horizontal"),
                keras.layers.RandomTranslation(0.1, 0.1),
                keras.layers.Conv2D(8, 3, activation="relu"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(2),
            ]
        )

    def train_data(self):
        return self.read("training")

    def evaluation_data(self):
        return self.read("validation")

    def loss(self):
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def metrics(self):
        return ["accuracy"]
