"""Data and optimizer of a task as made_with.py compares them, and the rate that a resumed job trains with. Imports Keras."""

import logging
import zlib
from typing import Any

import keras
import numpy as np

from trainer.checkpoint.made_with import DataMark, MadeWith, changes, flat, of_host_state, of_job
from trainer.checkpoint.replicas import Replicas
from trainer.config import TrainConfig
from trainer.data.checksum import array_of, bytes_of
from trainer.data.sources import ArraySource, ByNumber, Source
from trainer.process.collective import data_differ
from trainer.rundir.checksum import crc32c
from trainer.rundir.commits import Commit

log = logging.getLogger(__name__)

WHOLE_BYTES_MAX = 64 << 20
"""Data up to this size is compared whole."""
ROWS = 256


def made_with(config: TrainConfig, source: Source, evaluation: Source | None, optimizer: Any) -> MadeWith:
    """All that is compared of a job. The optimizer is as the task made it."""
    return of_job(config.train, config.task_root).model_copy(
        update={
            "train_data": mark_of(source),
            "evaluation_data": mark_of(evaluation) if evaluation is not None else None,
            "optimizer": optimizer_config(optimizer),
        }
    )


def mark_of(source: Source) -> DataMark:
    """Examples, shapes, dtypes, and a checksum of the data. Of a stream, which would have to be read, of its first example or
    batch."""
    if not isinstance(source, ArraySource):
        leaves = keras.tree.flatten(source.sample(1))
    elif source.dense and source.size_bytes <= WHOLE_BYTES_MAX:
        leaves = keras.tree.flatten(source.arrays)
    else:
        leaves = keras.tree.flatten(source.rows(some_rows(source.examples, source.size_bytes)))
    arrays = [array_of(leaf) for leaf in leaves]
    return DataMark(
        examples=source.examples if isinstance(source, ByNumber) else source.known,
        shapes=[f"{array.dtype}{list(array.shape[1:])}" if array.dtype.kind in "biufc" else "text" for array in arrays],
        checksum=crc32c([bytes_of(array) for array in arrays]),
    )


def check_equal(made: MadeWith, train: Source, evaluation: Source | None, replicas: Replicas) -> None:
    """A collective: all workers call it, with what each was given by its task.

    Raises:
        ConfigError: the arrays of one worker are not those of another, or not as many. Streams are compared as they are read.
    """
    marks = [(made.train_data, train), (made.evaluation_data, evaluation)]
    told = [mark.model_dump_json() if mark and isinstance(source, ByNumber) else "" for mark, source in marks]
    row = np.array([zlib.crc32(one.encode()) for one in told], np.int64)
    for column in replicas.differing(row)[:1]:
        raise data_differ(("train_data()", "evaluation_data()")[column], "")


def optimizer_config(optimizer: Any) -> dict[str, Any]:
    """Its configuration with dotted keys; empty where it gives none."""
    try:
        config = optimizer.get_config()
    except Exception as error:  # a class of the user's own
        log.debug("the optimizer gives no configuration: %s", error)
        return {}
    return {"class": type(optimizer).__name__} | flat(keras.tree.map_structure(_plain, config))


def go_on_from(commit: Commit, optimizer: Any, now: MadeWith, *, tell: bool) -> None:
    """After a restore, on all workers: the learning rate that the task asks for takes the place of the checkpoint's where the
    task asked for another one when the checkpoint was made. With `tell` what else is not as it was then is said."""
    then = of_host_state(commit.host_state)
    if then is None:
        return
    asked_for = dict(then.optimizer)
    for key, part in _rated(optimizer, now).items():
        asked, before = now.optimizer.get(key), then.optimizer.get(key)
        if not isinstance(asked, float | int):
            continue
        stored = _rate(part)
        if isinstance(before, float | int) and asked != before:
            part.learning_rate = asked
            asked_for[key] = asked
            aside = "" if _same(stored, before) else f" (the checkpoint had come to {stored:.6g})"
            if tell:
                log.warning("learning rate %.6g -> %.6g, as the task says now%s", before, asked, aside)
        elif tell and not _same(asked, stored):
            log.info("learning rate %.6g is the checkpoint's; the task begins with %.6g", stored, asked)
    then = then.model_copy(update={"optimizer": asked_for})
    if tell and (found := changes(then, now)):
        log.warning("%s was made by another job, and training goes on from it: %s", commit.ref.name, "; ".join(found))


def _rated(optimizer: Any, made: MadeWith) -> dict[str, Any]:
    """The optimizers that have a rate, by its key in the configuration. One around another has a rate too, which is not used."""
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        of_variables = optimizer._optimizer_map
        if not isinstance(of_variables, keras.optimizers.OptimizerMap):
            return {}  # a function, which has no configuration
        parts = {f"optimizer_map.{key}": of_variables[key] for key in of_variables}
        parts["default_optimizer"] = of_variables.default_optimizer
        return {f"optimizer_map.{name}.learning_rate": part for name, part in parts.items()}
    keys = [key for key in made.optimizer if key.rpartition(".")[2] == "learning_rate"]
    return {max(keys, key=lambda key: key.count(".")): optimizer} if keys else {}


def _rate(optimizer: Any) -> float:
    return float(np.asarray(optimizer.learning_rate))


def _same(one: float, other: float) -> bool:
    return bool(np.isclose(one, other, rtol=1e-5, atol=0.0))


def some_rows(length: int, size_bytes: int) -> np.ndarray:
    """Rows from all over, of some 16 MB at most."""
    row_bytes = max(1, size_bytes // max(length, 1))
    count = max(2, min(length, ROWS, (16 << 20) // row_bytes))
    return np.unique(np.linspace(0, length - 1, count).astype(np.int64))


def _plain(value: Any) -> Any:
    # A rate of float32 comes back as 0.009999999776482582: what was asked for is told by its first digits.
    return float(f"{float(value):.7g}") if isinstance(value, float | np.floating) else value
