"""Where examples come from, and their exact order. For tasks: `Examples`, and files that are read as such."""

from trainer.data.examples import Examples
from trainer.data.images import Images, images
from trainer.data.records import arrayrecords, tfrecords
from trainer.data.tables import table

__all__ = ["Examples", "Images", "arrayrecords", "images", "table", "tfrecords"]
