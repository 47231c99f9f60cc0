"""A session takes the place of parts of Keras' `fit`, for as long as a script runs."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras
from keras.src import callbacks as of_callbacks
from keras.src.backend.tensorflow import trainer as of_fit

from trainer.keras.places import check_known
from trainer.replaced import replaced


class Following(Protocol):
    """What is done in the place of Keras' own."""

    def fit(self, keras_fit: Callable[..., Any], model: keras.Model, arguments: dict[str, Any]) -> Any: ...

    def callbacks(self, *arguments: Any, **named: Any) -> keras.callbacks.CallbackList: ...

    def epochs(self, *arguments: Any, **named: Any) -> Any: ...


@contextlib.contextmanager
def followed_by(session: Following) -> Iterator[None]:
    """Within it `session` hears of each call of fit.

    Raises:
        ConfigError: this Keras is not one that orch knows.
    """
    check_known()
    keras_fit = of_fit.TensorFlowTrainer.fit
    signature = inspect.signature(keras_fit)

    @functools.wraps(keras_fit)
    def fit(model: keras.Model, *arguments: Any, **named: Any) -> Any:
        given = signature.bind(model, *arguments, **named)
        given.apply_defaults()
        return session.fit(keras_fit, model, {name: given.arguments[name] for name in list(signature.parameters)[1:]})

    with (
        replaced(of_fit.TensorFlowTrainer, "fit", fit),
        replaced(of_fit, "TFEpochIterator", session.epochs),
        replaced(of_callbacks, "CallbackList", _Made(session.callbacks)),
    ):
        yield


class _MadeMeta(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, keras.callbacks.CallbackList)


def _Made(make: Callable[..., Any]) -> Any:
    """In the place of the class CallbackList: what it makes, `make` makes."""
    return _MadeMeta("CallbackList", (), {"__new__": lambda cls, *arguments, **named: make(*arguments, **named)})
