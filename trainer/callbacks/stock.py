"""What Keras' own callbacks need here: who of several workers writes, files that go on after a restart, and the averages of
an optimizer with use_ema.

Each callback has an Adapter, through which its hooks are called.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.callbacks import summary
from trainer.errors import TaskError

Known = Mapping[str, Any]
"""What a checkpoint knows of an adapter's files."""

_CONTENT_BYTES_MAX = 8 << 20
"""A longer table is cut back where it lies, and not kept in the checkpoint."""


class Diverged(TaskError):
    """The loss is no number, and a callback ended training for it."""


class Adapter:
    """Calls one callback. By itself, as it is: on every worker."""

    passing: Container[str] = ()
    """Attributes that are no part of what the callback remembers."""

    def __init__(self, callback: keras.callbacks.Callback, callbacks: Sequence[Any], *, chief: bool, mark: str) -> None:
        """`callbacks` are all of the job; `mark` names the files of this job and this callback."""
        self.callback = callback
        self._callbacks, self._chief, self._mark = callbacks, chief, mark
        self._own = type(callback).__module__.startswith("keras.")
        if not chief and hasattr(callback, "verbose") and not isinstance(callback, keras.callbacks.ProgbarLogger):
            callback.verbose = 0

    def start(self, known: Known | None) -> None:
        """Before the model is set. `known`: the `files` of the checkpoint that training goes on from, None for a fresh start."""

    def begun(self) -> None:
        """After on_train_begin."""

    def files(self) -> dict[str, Any]:
        """What a checkpoint must know beside the attributes."""
        return {}

    def call(self, hook: str, *arguments: Any, **named: Any) -> None:
        """Call a hook."""
        # Of one of Keras' own, whose attribute `verbose` does not rule all that it prints.
        silent = (
            contextlib.redirect_stdout(io.StringIO()) if self._own and not self._chief else contextlib.nullcontext()
        )
        with silent:
            getattr(self.callback, hook)(*arguments, **named)


class Writing(Adapter):
    """Only writes: on the chief alone. A subclass may do more; on the others it writes where nobody looks."""

    @property
    def _called(self) -> bool:
        return self._chief or not self._own

    def call(self, hook: str, *arguments: Any, **named: Any) -> None:
        if self._called:
            super().call(hook, *arguments, **named)


class Sending(Adapter):
    """ProgbarLogger and RemoteMonitor, which have no place to write to: the chief's alone are called."""

    passing = ("progbar",)

    def call(self, hook: str, *arguments: Any, **named: Any) -> None:
        if self._chief:
            super().call(hook, *arguments, **named)


class Saving(Adapter):
    """ModelCheckpoint decides on every worker, and saves on the chief."""

    def call(self, hook: str, *arguments: Any, **named: Any) -> None:
        model = self.callback.model
        with contextlib.nullcontext() if self._chief or model is None else _without_saving(model):
            super().call(hook, *arguments, **named)


class Table(Writing):
    """CSVLogger: its file has what the checkpoint knows, and goes on from there."""

    passing = ("csv_file", "writer", "append", "append_header", "filename")

    def start(self, known: Known | None) -> None:
        callback: Any = self.callback
        self._append = callback.append
        if not self._chief:
            callback.filename = os.devnull
        elif known:
            self._base = self._rewritten(known)
            callback.append = True
        else:
            self._base = _length(callback.filename) if callback.append else 0

    def begun(self) -> None:
        callback: Any = self.callback
        callback.append = self._append

    def files(self) -> dict[str, Any]:
        callback: Any = self.callback
        if not self._chief:
            return {}
        size = _length(callback.filename)
        content = _read(callback.filename)[self._base :] if size - self._base <= _CONTENT_BYTES_MAX else None
        return {"base": self._base, "size": size, "content": content}

    def _rewritten(self, known: Known) -> int:
        """Put the file back to what it was, also where it is gone; where in it this job's lines begin."""
        path = self.callback.filename
        if known["content"] is None:
            summary.cut_file(path, known["size"])
            return int(known["base"])
        before = _read(path)[: known["base"]]
        if folder := os.path.dirname(path):
            tf.io.gfile.makedirs(folder)
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(before + known["content"])
        return len(before)


class Events(Writing):
    """TensorBoard: its event files have what the checkpoint knows, and new ones go on."""

    passing = (
        "_writers", "_summary_module", "_prev_summary_state", "_is_tracing", "_profiler_started", "_batch_trace_context",
        "log_dir", "_log_write_dir", "_train_dir", "_val_dir", "write_graph", "_should_write_train_graph",
    )  # fmt: skip

    def start(self, known: Known | None) -> None:
        callback: Any = self.callback
        self._write_graph = callback.write_graph
        if not self._chief:
            if self._called:
                callback.log_dir = tempfile.mkdtemp(prefix="orch-not-the-chief-")
            return
        callback._summary_module = summary.Summary(self._mark)
        summary.cut_back(callback.log_dir, self._mark, known["sizes"] if known else {})
        callback.write_graph = callback.write_graph and not known

    def begun(self) -> None:
        callback: Any = self.callback
        callback.write_graph = self._write_graph

    def files(self) -> dict[str, Any]:
        callback: Any = self.callback
        if not self._chief:
            return {}
        for writer in callback._writers.values():
            writer.flush()
        return {"sizes": summary.sizes(callback.log_dir, self._mark)}


class BestWeights(Adapter):
    """EarlyStopping. With an optimizer that averages weights, the best ones are the averages, which training ends with.

    Keras keeps the raw weights, and puts them in the averages' place at the end.
    """

    def call(self, hook: str, *arguments: Any, **named: Any) -> None:
        callback: Any = self.callback
        before = callback.best_weights
        super().call(hook, *arguments, **named)
        if callback.best_weights is before or callback.best_weights is None or self._swapped():
            return
        averages = averages_of(callback.model)
        weights = zip(callback.model.weights, callback.best_weights, strict=True)
        callback.best_weights = [
            keras.ops.convert_to_numpy(averages[id(variable)]) if id(variable) in averages else value
            for variable, value in weights
        ]

    def _swapped(self) -> bool:
        """Whether the model holds the averages already, and the optimizer the raw weights."""
        swaps = [one for one in self._callbacks if isinstance(one, keras.callbacks.SwapEMAWeights)]
        return any(one._ema_weights_in_model for one in swaps)


class NotANumber(Adapter):
    """TerminateOnNaN: a job that it ends has not succeeded."""

    def sees(self, logs: Mapping[str, Any]) -> bool:
        """Whether the loss is no number."""
        return "loss" in logs and not bool(np.all(np.isfinite(logs["loss"])))

    def diverged(self, step: int, logs: Mapping[str, Any]) -> Diverged:
        """For a person."""
        return Diverged(
            f"the loss is {logs['loss']} after step {step}, and TerminateOnNaN ended training",
            remedy="Lower the learning rate, clip the gradients (the optimizer's clipnorm), or look for NaN in the data. "
            "The last checkpoint is from before.",
        )


_ADAPTERS: tuple[tuple[type, type[Adapter]], ...] = (
    (keras.callbacks.ModelCheckpoint, Saving),
    (keras.callbacks.CSVLogger, Table),
    (keras.callbacks.TensorBoard, Events),
    (keras.callbacks.EarlyStopping, BestWeights),
    (keras.callbacks.TerminateOnNaN, NotANumber),
    (keras.callbacks.ProgbarLogger, Sending),
    (keras.callbacks.RemoteMonitor, Sending),
)


def adapters(callbacks: Sequence[Any], *, chief: bool, run: str) -> list[Adapter]:
    """One for each callback. `run` is the run directory, which tells the files of one job from another's."""
    made = []
    for index, callback in enumerate(callbacks):
        kind = next((adapter for stock, adapter in _ADAPTERS if isinstance(callback, stock)), Adapter)
        made.append(kind(callback, callbacks, chief=chief, mark=f"{summary.mark_of(run)}-{index}"))
    return made


def flattened(callbacks: Any) -> list[Any]:
    """What is in None, one callback, a CallbackList, or a list or tuple of these, nested too."""
    if callbacks is None:
        return []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    if isinstance(callbacks, list | tuple):
        return [one for part in callbacks for one in flattened(part)]
    return [callbacks]


def listens(callback: Any, hook: str) -> bool:
    """Whether a hook of each batch does something, by the class, by an attribute of the object, and by its settings."""
    method = getattr(callback, hook)
    if getattr(method, "_is_default", False):
        return False
    function = getattr(method, "__func__", None)
    if function is keras.callbacks.ModelCheckpoint.on_train_batch_end:
        return bool(callback.save_freq != "epoch")
    if function is getattr(keras.callbacks.TensorBoard, hook, None):
        return bool(callback.update_freq != "epoch" or callback._should_trace)
    # Within training, a progress bar says nothing of evaluations.
    return not (hook.startswith("on_test") and function is getattr(keras.callbacks.ProgbarLogger, hook, None))


def averages_of(model: keras.Model) -> dict[int, Any]:
    """The averages of an optimizer with use_ema, by the id of the variable."""
    optimizer: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    found: dict[int, Any] = {}
    for one in getattr(optimizer, "optimizers", [optimizer]):
        if getattr(one, "use_ema", False) and hasattr(one, "_model_variables_moving_average"):
            pairs = zip(one._trainable_variables, one._model_variables_moving_average, strict=True)
            found |= {id(variable): average for variable, average in pairs}
    return found


@contextlib.contextmanager
def _without_saving(model: keras.Model) -> Iterator[None]:
    """Within it, the model's save and save_weights do nothing."""
    names = ("save", "save_weights")
    # Into the object's own attributes, past Keras' tracking: they come before the methods of the class.
    vars(model).update(dict.fromkeys(names, lambda *arguments, **named: None))
    try:
        yield
    finally:
        for name in names:
            del vars(model)[name]


def _length(path: str) -> int:
    return int(tf.io.gfile.stat(path).length) if tf.io.gfile.exists(path) else 0


def _read(path: str) -> bytes:
    if not tf.io.gfile.exists(path):
        return b""
    with tf.io.gfile.GFile(path, "rb") as file:
        return bytes(file.read())
