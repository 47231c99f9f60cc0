"""A task's data for one job: both of its methods called, and once the model is known, their sources, checked against it."""

import logging
import time
from dataclasses import replace
from typing import Any

import numpy as np

from trainer.config import TrainSection
from trainer.data.counting import evaluation_limit
from trainer.data.kinds import Batch, named_leaves
from trainer.data.order import Calendar
from trainer.data.sources import ArraySource, BatchSource, ByNumber, ExamplesSource, Source, StreamSource, source_of
from trainer.data.weights import weighted
from trainer.errors import ConfigError
from trainer.task import Task, model_overrides, overrides

log = logging.getLogger(__name__)


class TaskData:
    """Training and evaluation data. `source` and `evaluation` are there after `fit_to`."""

    source: Source
    evaluation: Source | None

    def __init__(self, task: Task, train: TrainSection) -> None:
        """Calls the task's methods."""
        self._task, self._train = task, train
        self._training_data = self._call("train_data")
        self._evaluation_data = self._call("evaluation_data")

    def fit_to(self, model: Any, examples: int) -> Batch:
        """Find out what the data is, now that the model is known. Gives a batch of `examples`, or of the data's own size.

        Raises:
            ConfigError: nothing that this model can be trained on.
        """
        self.source = self._source(self._training_data, "train_data", model)
        if isinstance(self.source, BatchSource):
            self._say_what_does_not_count(self.source)
        _check_labels(self._task, model, self.source.sample(3), "train_data")
        if self._train.class_weight:
            self.source = weighted(self.source, self._train.class_weight, "train_data")
        self.evaluation = None
        if self._evaluation_data is not None:
            self.evaluation = self._source(self._evaluation_data, "evaluation_data", model)
            if not isinstance(self.evaluation, ByNumber) and self.evaluation.endless:
                raise ConfigError(
                    "the data of evaluation_data() never ends, and an evaluation reads all of it",
                    remedy="Leave out its repeat(), or take(n).",
                )
            if not overrides(self._task, "evaluate_step"):
                _check_labels(self._task, model, self.evaluation.sample(3), "evaluation_data")
        self._training_data = self._evaluation_data = None
        return self.source.sample(examples)

    def calendar(self, *, callbacks: bool) -> Calendar:
        """When epochs of training begin and end. Reads an epoch to count it, where epochs matter and nothing else tells.

        Args:
            callbacks: whether there are any, for which epochs matter.
        """
        source, train = self.source, self._train
        length: int | None
        if isinstance(source, ByNumber):
            length = source.examples
            calendar = Calendar(length, train.global_batch_size, train.remainder)
        elif isinstance(source, StreamSource):
            length = self._length(source, source.known, train.global_batch_size, callbacks)
            calendar = Calendar(length, train.global_batch_size, train.remainder)
        else:
            length = self._length(source, source.known, 1, callbacks)
            calendar = Calendar(length, 1)
            length = length and length * source.batch_size
        if isinstance(self.evaluation, StreamSource | BatchSource):
            self.evaluation = replace(self.evaluation, at_most=evaluation_limit(length))
        return calendar

    def order(self) -> dict[str, Any]:
        """What a checkpoint must agree with besides seed and batch size, so that training goes on in the same order."""
        return {"remainder": self._train.remainder, "batched": isinstance(self.source, BatchSource)}

    def check_order(self, saved: dict[str, Any] | None) -> None:
        """Raises ConfigError where a checkpoint was made with the data in another order; None: by a version that knew one."""
        then: dict[str, Any] = {"remainder": "carry", "batched": False} | (saved or {})
        now = self.order()
        if then["batched"] != now["batched"]:
            forms = {True: "batches", False: "single examples"}
            raise ConfigError(
                f"the checkpoint was made when train_data() gave {forms[then['batched']]}, and it gives "
                f"{forms[now['batched']]} now: the order of the data would break off",
                remedy="Let it give what it gave (`batched` in the task), or start from nothing (--fresh).",
            )
        if not now["batched"] and then["remainder"] != now["remainder"]:
            raise ConfigError(
                f"the checkpoint was made with train.remainder {then['remainder']}, and the job file says "
                f"{now['remainder']}: the order of the data would break off",
                remedy=f"Set train.remainder to {then['remainder']}, or start from nothing (--fresh).",
            )

    def examples_seen(self, calendar: Calendar, step: int) -> int:
        """Examples that the first `step` steps took; of batches of the data's own, by the size of the first one."""
        taken = calendar.examples_taken(step)
        return taken * self.source.batch_size if isinstance(self.source, BatchSource) else taken

    def _call(self, method: str) -> Any:
        import keras

        keras.utils.set_random_seed(self._train.seed)
        began = time.monotonic()
        data = getattr(self._task, method)()
        if data is not None:
            log.info("called %s type=%s seconds=%.2f", method, type(data).__name__, time.monotonic() - began)
        return data

    def _source(self, data: Any, method: str, model: Any) -> Source:
        source = source_of(
            data,
            getattr(self._task, method),
            method,
            model=model,
            batched=self._task.batched,
            seed=self._train.seed,
        )
        log.info("%s is %s", method, _described(source))
        return source

    def _say_what_does_not_count(self, source: BatchSource) -> None:
        size, asked = source.batch_size, self._train.global_batch_size
        log.info("train_data gives batches of %d; train.global_batch_size (%d) is not used", size, asked)
        if self._train.remainder != "carry":
            log.info("train_data gives batches; train.remainder (%s) is not used", self._train.remainder)

    def _length(self, source: StreamSource | BatchSource, known: int | None, size: int, callbacks: bool) -> int | None:
        """The elements of an epoch, `size` of which make a step; None where it is not known, or none ends in this training."""
        train = self._train
        by_epoch = train.epochs is not None or train.evaluate.every == "epoch"
        if known is not None or not (by_epoch or (callbacks and not source.endless)):
            return known
        began = time.monotonic()
        # Of an epoch longer than the whole training nothing more need be known.
        at_most = None if train.steps is None else train.steps * size
        length = source.count_batches(at_most) if isinstance(source, BatchSource) else source.count_examples(at_most)
        seconds = time.monotonic() - began
        if length is None:
            log.warning(
                "an epoch of train_data is longer than the %d steps of this training: none ends in it, and what is due at the "
                "end of an epoch does not happen seconds=%.1f",
                train.steps,
                seconds,
            )
        else:
            unit = "batches" if isinstance(source, BatchSource) else "examples"
            log.info("counted an epoch of train_data %s=%d seconds=%.1f", unit, length, seconds)
        return length


def _described(source: Source) -> str:
    if isinstance(source, ArraySource):
        return f"arrays examples={source.examples} size_mb={source.size_bytes / 1e6:.1f}"
    if isinstance(source, ExamplesSource):
        return f"read by number examples={source.examples}"
    kind = "single examples" if isinstance(source, StreamSource) else "batches"
    again = "taken by number" if type(source.elements).__name__ == "PyDatasetElements" else "read again after a restart"
    return f"a stream of {kind} in its own order, {again}"


def _check_labels(task: Task, model: Any, batch: Batch, what: str) -> None:
    """That a loss of Keras gets labels that it can use."""
    import keras

    if overrides(task, "train_step"):
        return
    if isinstance(batch, tuple) and len(batch) > 3:
        raise ConfigError(
            f"{what}() gives {len(batch)} values",
            remedy="Give (x, y) or (x, y, sample_weight); several inputs go into one dict or tuple: ((a, b), y).",
        )
    has_loss = model.loss is not None if model.compiled else overrides(task, "loss")
    if model_overrides(model, "train_step", "compute_loss") or not has_loss:
        return
    x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    if y is None and isinstance(x, dict):
        inputs = {tensor.name for tensor in getattr(model, "inputs", None) or []} | set(
            getattr(model, "input_names", [])
        )
        spare = [name for name in x if name not in inputs]
        said = f"; the model has no input '{spare[0]}'" if inputs and len(spare) == 1 else ""
        raise ConfigError(
            f"{what}() gives one dict ({', '.join(map(str, x))}) and no labels beside it, which the loss needs{said}",
            remedy="Return two values, the inputs and the labels: (inputs, labels).",
        )
    if y is None:
        raise ConfigError(
            f"{what}() gives x alone, and the loss needs labels",
            remedy="Return (x, y); for a model that is to give back its input, (x, x).",
        )
    for name, leaf in named_leaves((x, y)):
        is_label = name == "y" or name.endswith(" of y")
        if is_label and isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OSU":
            examples = ", ".join(dict.fromkeys(repr(_text(value)) for value in leaf.ravel()[:3].tolist()))
            raise ConfigError(
                f"{what}(): the labels ({name}) are texts: {examples}",
                remedy="Make class numbers of them: names, y = numpy.unique(y, return_inverse=True).",
            )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
