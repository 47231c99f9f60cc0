"""Of several workers one writes files: what the others save with Keras, they save where nobody looks, and read it there again.

Each writes by itself: Keras makes variables on the way, which in a strategy's scope all workers make together.
"""

import contextlib
import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.saving import saving_api

from trainer.keras.strategies import outside_of_strategy
from trainer.replaced import replaced

log = logging.getLogger(__name__)


@contextlib.contextmanager
def saved_by_one(*, chief: bool) -> Iterator[None]:
    """Within it, models and weights that Keras writes go, but for the chief's, to a temporary folder of this process."""
    aside = _Aside(chief=chief)
    with contextlib.ExitStack() as stack:
        for owner, name, place in (
            (saving_api, "save_model", 1),
            (saving_api, "save_weights", 1),
            (keras.saving, "save_model", 1),
            (keras.models, "save_model", 1),
            (keras.Model, "export", 1),
        ):
            stack.enter_context(replaced(owner, name, aside.writing(getattr(owner, name), place)))
        for owner, name, place in (
            (saving_api, "load_model", 0),
            (saving_api, "load_weights", 1),
            (keras.saving, "load_model", 0),
            (keras.models, "load_model", 0),
        ):
            stack.enter_context(replaced(owner, name, aside.reading(getattr(owner, name), place)))
        yield


class _Aside:
    def __init__(self, *, chief: bool) -> None:
        self._chief = chief
        self._folder = ""
        self._paths: dict[str, str] = {}

    def writing(self, function: Callable[..., Any], place: int) -> Callable[..., Any]:
        """`function` with another path, its argument number `place`."""

        def by_itself(*arguments: Any, **named: Any) -> Any:
            with outside_of_strategy():
                return function(*arguments, **named)

        return functools.wraps(function)(by_itself if self._chief else self._with_path(by_itself, place, self._other))

    def reading(self, function: Callable[..., Any], place: int) -> Callable[..., Any]:
        """`function` with the path that was written instead."""
        return self._with_path(function, place, lambda path: self._paths.get(os.path.abspath(path), path))

    def _with_path(self, function: Callable[..., Any], place: int, other: Callable[[str], str]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if len(arguments) > place:
                given = list(arguments)
                given[place] = other(os.fspath(given[place]))
                return function(*given, **named)
            return function(*arguments, **named | {"filepath": other(os.fspath(named["filepath"]))})

        return call

    def _other(self, path: str) -> str:
        """Where it is written instead. A path that stands for it already stays."""
        if self._folder and path.startswith(self._folder):
            return path
        if not self._folder:
            self._folder = tempfile.mkdtemp(prefix="orch-not-the-chief-")
            log.info("worker 0 writes the script's files; this worker's go to %s", self._folder)
        known = self._paths.setdefault(
            os.path.abspath(path), os.path.join(self._folder, str(len(self._paths)), os.path.basename(path))
        )
        os.makedirs(os.path.dirname(known), exist_ok=True)
        return known
