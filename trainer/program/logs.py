"""What a step returns, made the numbers of an epoch or of an evaluation.

A value that is the result of a metric (all that Keras' own steps return) is that metric's, which goes on counting. Any other
value, as a train_step of the user's own may return, is averaged over the examples of its steps. Either way all of it is in
variables.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import ConfigError

Scores = dict[str, float | np.ndarray]
"""Values by name; a metric may have one for each class."""


class Average(keras.Metric):  # type: ignore[misc]
    """The mean of a tensor of any shape over what it was weighted with."""

    def __init__(self, name: str, shape: Sequence[int], dtype: str) -> None:
        super().__init__(name=name, dtype=dtype)
        self._total = self.add_variable(tuple(shape), "zeros", name="total")
        self._weight = self.add_variable((), "zeros", name="weight")

    def update_state(self, value: Any, weight: Any) -> None:
        weight = tf.cast(weight, self.dtype)
        self._total.assign_add(tf.cast(value, self.dtype) * weight)
        self._weight.assign_add(weight)

    def result(self) -> Any:
        return tf.math.divide_no_nan(self._total.value, self._weight.value)


class Logs:
    """The values of one kind of step. Everything but `names` and `averages` is called within its program, on a replica."""

    def __init__(
        self, strategy: tf.distribute.Strategy, model: keras.Model, others: Sequence[keras.Metric] = ()
    ) -> None:
        """`others`: metrics that the model does not list (the task's own): they begin anew with the model's."""
        self._strategy = strategy
        self._model = model
        self._others = list(others)
        self._found: dict[str, tuple[keras.Metric, str | None]] = {}
        """Names of results, with their metric, and their key where it gives several. Empty: all metrics of the model."""
        self.averages: list[Average] = []

    def learn(self, trace: Callable[[Callable[[Any], None]], Any], method: str) -> None:
        """Learn what a step returns, where that may be something else than all metrics of the model.

        Args:
            trace: traces a step once, without running it, and gives what it returned to the function that it is called with.
            method: the step's name, for errors.

        Raises:
            ConfigError: it does not return values by name.
        """
        taken: dict[str, tuple[keras.Metric, str | None] | tuple[tuple[int, ...], str]] = {}

        with _results_by_identity([*self._model.metrics, *self._others]) as known:

            def take(outputs: Any) -> None:
                if not isinstance(outputs, dict):
                    raise ConfigError(
                        f"{method}() returned {type(outputs).__name__}, not values by name",
                        remedy='Return a dict of scalar tensors: {"loss": loss}.',
                    )
                for name, value in flat(outputs).items():
                    owner = known.get(id(value))
                    if owner is None:
                        value = tf.convert_to_tensor(value)
                        if not value.shape.is_fully_defined():
                            raise ConfigError(
                                f"{method}() returned {name} with an unknown shape", remedy="Return scalars."
                            )
                        dtype = value.dtype.name if value.dtype in (tf.float32, tf.float64) else "float32"
                        taken[str(name)] = (tuple(value.shape), dtype)
                    else:
                        taken[str(name)] = owner[1]

            trace(take)
        with self._strategy.scope():
            for name, what in taken.items():
                if isinstance(what[0], keras.Metric):
                    self._found[name] = what
                else:
                    average = Average(name, *what)
                    self.averages.append(average)
                    self._found[name] = (average, None)

    def update(self, outputs: Any, examples: Any) -> None:
        """Take what a step of `examples` examples returned."""
        values = flat(outputs)
        for average in self.averages:
            average.update_state(values[average.name], examples)

    def results(self) -> dict[str, Any]:
        """Tensors by name, from the variables as they are."""
        if not self._found:
            results = flat(self._model.get_metrics_result())
            return {name: tf.convert_to_tensor(value) for name, value in results.items()}
        results = {}
        for name, (metric, key) in self._found.items():
            result = metric.result()
            results[name] = tf.convert_to_tensor(result if key is None else flat(result)[key])
        return results

    def reset(self) -> None:
        """Begin anew."""
        self._model.reset_metrics()
        for metric in [*self._others, *self.averages]:
            metric.reset_state()


def flat(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results by name; of a metric that gives several by name, each by its own, as Keras logs them."""
    found: dict[str, Any] = {}
    for name, value in results.items():
        found |= flat(value) if isinstance(value, Mapping) else {str(name): value}
    return found


def as_scores(results: dict[str, Any]) -> Scores:
    """Tensors of a program as numbers and arrays."""
    arrays = {name: np.asarray(value) for name, value in results.items()}
    return {name: float(array) if array.ndim == 0 else array for name, array in arrays.items()}


def as_numbers(scores: Scores) -> dict[str, float]:
    """The same for messages and files: of a metric with several values one number each, `f1_score[0]`."""
    numbers: dict[str, float] = {}
    for name, value in scores.items():
        if isinstance(value, np.ndarray):
            for index in np.ndindex(value.shape):
                numbers[f"{name}[{','.join(map(str, index))}]"] = float(value[index])
        else:
            numbers[name] = value
    return numbers


_Owner = tuple[Any, tuple[keras.Metric, str | None]]


@contextlib.contextmanager
def _results_by_identity(metrics: Sequence[keras.Metric]) -> Iterator[dict[int, _Owner]]:
    """While a step is traced: whose result a tensor is, by its id."""
    known: dict[int, _Owner] = {}

    def watched(metric: keras.Metric) -> Callable[[], Any]:
        result = metric.result

        def call() -> Any:
            value = result()
            for key, part in flat(value).items() if isinstance(value, dict) else [(None, value)]:
                known[id(part)] = (part, (metric, key))
            return value

        return call

    for metric in metrics:
        object.__setattr__(metric, "result", watched(metric))
    try:
        yield known
    finally:
        for metric in metrics:
            object.__delattr__(metric, "result")
