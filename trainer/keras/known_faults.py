"""What Keras' own `fit` is known to do wrong, and what of the data no restart repeats, where a script meets it: told once, with
the remedy. It is left as it is."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter

from trainer.callbacks.stock import averages_of
from trainer.keras.data_draws import unrepeatable
from trainer.keras.epochs import Epochs


def known_faults(model: keras.Model, epochs: Epochs, callbacks: Sequence[Any]) -> Iterator[str]:
    """For a person, a sentence or two each."""
    if isinstance(epochs.data_adapter, TFDatasetAdapter):
        yield from unrepeatable(epochs.data_adapter.get_tf_dataset())
    alone = model.distribute_strategy.num_replicas_in_sync == 1
    traced_alone = model.steps_per_execution == 1 and not model.jit_compile and not model.run_eagerly
    if alone and traced_alone and epochs.num_batches is None:
        yield (
            "Keras runs half a step more at each epoch's end of data of unknown length (Dropout, weight decay and schedules move "
            "on). Give fit steps_per_epoch, or the dataset its length: dataset.apply(tf.data.experimental.assert_cardinality(n))"
        )
    keeps_best = any(isinstance(one, keras.callbacks.EarlyStopping) and one.restore_best_weights for one in callbacks)
    if keeps_best and averages_of(model):
        yield (
            "EarlyStopping(restore_best_weights=True) puts raw weights in the place of the averages that use_ema makes. Leave "
            "out one of the two"
        )
    if any(isinstance(one, keras.callbacks.BackupAndRestore) for one in callbacks):
        yield (
            "BackupAndRestore is not called: orch's own checkpoints do its work, to the step, and hold what its files lack (the "
            "seeds of Dropout, what callbacks remember)"
        )
