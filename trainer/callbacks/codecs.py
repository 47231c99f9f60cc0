"""Single values that JSON does not know, as values that it does, and arrays as a checkpoint can hold them."""

import base64
import datetime
import decimal
import enum
import pathlib
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.checkpoint.shards import dtype_of
from trainer.errors import ConfigError


@dataclass(frozen=True)
class Codec:
    """How values of some types are written. What `plain` gives may hold what an Encoder takes, and is encoded in turn."""

    types: tuple[type, ...]
    plain: Callable[[Any], Any]
    back: Callable[[Any, Any], Any]
    """From the plain value, and the object that stands in the value's place now."""


def _generator_back(state: Any, existing: Any) -> Any:
    if isinstance(existing, np.random.Generator):
        existing.bit_generator.state = state
    return existing


def _old_generator_back(state: Any, existing: Any) -> Any:
    if isinstance(existing, np.random.RandomState):
        existing.set_state(state)
    return existing


def _random_back(state: Any, existing: Any) -> Any:
    if isinstance(existing, random.Random):
        existing.setstate(state)
    return existing


def _enum_back(place: Any, existing: Any) -> Any:
    kind = imported_object(place[:2])
    return existing if kind is None else kind[place[2]]


CODECS: dict[str, Codec] = {
    "bytes": Codec((bytes,), lambda value: base64.b64encode(value).decode(), lambda text, _: base64.b64decode(text)),
    "bytearray": Codec(
        (bytearray,), lambda value: base64.b64encode(value).decode(), lambda text, _: bytearray(base64.b64decode(text))
    ),
    "complex": Codec((complex,), lambda value: [value.real, value.imag], lambda parts, _: complex(*parts)),
    "range": Codec((range,), lambda value: [value.start, value.stop, value.step], lambda parts, _: range(*parts)),
    "datetime": Codec(
        (datetime.datetime,), lambda value: value.isoformat(), lambda text, _: datetime.datetime.fromisoformat(text)
    ),
    "date": Codec((datetime.date,), lambda value: value.isoformat(), lambda text, _: datetime.date.fromisoformat(text)),
    "time": Codec((datetime.time,), lambda value: value.isoformat(), lambda text, _: datetime.time.fromisoformat(text)),
    "timedelta": Codec(
        (datetime.timedelta,),
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts, _: datetime.timedelta(*parts),
    ),
    "decimal": Codec((decimal.Decimal,), str, lambda text, _: decimal.Decimal(text)),
    "path": Codec((pathlib.Path,), str, lambda text, _: pathlib.Path(text)),
    "enum": Codec(
        (enum.Enum,), lambda value: [type(value).__module__, type(value).__qualname__, value.name], _enum_back
    ),
    "generator": Codec((np.random.Generator,), lambda value: value.bit_generator.state, _generator_back),
    "old_generator": Codec((np.random.RandomState,), lambda value: value.get_state(legacy=False), _old_generator_back),
    "random": Codec((random.Random,), lambda value: value.getstate(), _random_back),
}


def codec_of(value: Any) -> str | None:
    """The name of the codec for `value`. The order of the table counts: a datetime is a date too."""
    return next((name for name, codec in CODECS.items() if isinstance(value, codec.types)), None)


def importable(value: Any) -> list[str] | None:
    """Module and name of a function or a class that an import finds."""
    place = [getattr(value, "__module__", None), getattr(value, "__qualname__", None)]
    if not all(isinstance(part, str) for part in place):
        return None
    return place if imported_object(place) is value else None  # type: ignore[return-value]


def imported_object(place: Any) -> Any:
    """What an import finds there, among the modules that are imported already; or None."""
    value: Any = sys.modules.get(place[0])
    for part in place[1].split("."):
        value = getattr(value, part, None)
    return value


def storable(array: np.ndarray) -> tuple[np.ndarray | None, str]:
    """An array of a dtype that a checkpoint can hold, with the same bytes, and the dtype that it had.

    None for arrays of objects.
    """
    dtype = array.dtype
    if dtype.hasobject:
        return None, str(dtype)
    try:
        dtype_of(dtype.name)
    except ConfigError:
        raw = np.ascontiguousarray(array)
        return raw.reshape(-1).view(np.uint8).reshape(*array.shape, dtype.itemsize), dtype.str
    return array, dtype.name


def original(array: np.ndarray, dtype: str) -> np.ndarray:
    """The array that `storable` was given: a copy, which may be written to."""
    if array.dtype.name == dtype:
        return np.array(array)
    shape, wanted = array.shape[:-1], np.dtype(dtype)
    return np.array(np.ascontiguousarray(array).reshape(-1).view(wanted).reshape(shape))
