"""The places in Keras on which orch's following of `fit` rests, as they are in the versions that it was tried with."""

import hashlib
import inspect

import keras
from keras.src.backend.tensorflow import trainer as of_fit
from keras.src.callbacks.callback_list import CallbackList
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.epoch_iterator import EpochIterator

from trainer.errors import ConfigError

PLACES = {
    "fit": of_fit.TensorFlowTrainer.fit,
    "evaluate": of_fit.TensorFlowTrainer.evaluate,
    "predict": of_fit.TensorFlowTrainer.predict,
    "_make_function": of_fit.TensorFlowTrainer._make_function,
    "_maybe_symbolic_build": of_fit.TensorFlowTrainer._maybe_symbolic_build,
    "TFEpochIterator": of_fit.TFEpochIterator,
    "EpochIterator": EpochIterator,
    "CallbackList": CallbackList,
    "ArrayDataAdapter.get_tf_dataset": ArrayDataAdapter.get_tf_dataset,
}
_KNOWN = {
    "fit": "a9a6dc02a7ddafa8",
    "evaluate": "a1facf6528168e8d",
    "predict": "ee5831d7d2179667",
    "_make_function": "bb33b7a0da3d2740",
    "_maybe_symbolic_build": "92a504f5eba9b29f",
    "TFEpochIterator": "a39b27f761381661",
    "EpochIterator": "805f917ff4beb967",
    "CallbackList": "87bc1293e5a455ee",
    "ArrayDataAdapter.get_tf_dataset": "2ab7c0854bf89cd1",
}


def digest_of(place: object) -> str:
    """Of its source."""
    source = inspect.getsource(inspect.unwrap(place))  # type: ignore[arg-type]
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def check_known() -> None:
    """Raises ConfigError where a place is not as it was when this was tried: what would be trained is not known."""
    if changed := [name for name, place in PLACES.items() if digest_of(place) != _KNOWN[name]]:
        raise ConfigError(
            f"Keras {keras.__version__} trains in another way than the versions that train.script is made for: "
            f"{', '.join(changed)} differ",
            remedy="Install keras==3.15.1, or give the script as train.command, which is run without checkpoints of orch's.",
        )
