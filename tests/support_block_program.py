"""Run by test_blocks.py, in a process of its own: two logical CPUs must be set up before TensorFlow starts.

Prints one JSON object: for each check "ok" or a traceback.
"""

import contextlib
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.data.feed import Feed, ResidentFeed, StreamFeed
from trainer.data.order import Order
from trainer.data.shares import on_replicas
from trainer.data.sources import ArraySource, source_of
from trainer.errors import ConfigError, TaskError
from trainer.model.build import build_model
from trainer.model.reach import reach
from trainer.process.collective import Collective, Decision
from trainer.process.evaluate import Evaluator
from trainer.program.global_batch import GlobalBatch
from trainer.program.ranges import Ranges
from trainer.program.steps import CompiledBlock, choose_mode
from trainer.task import Task

CHECKS: list[Callable[[], None]] = []
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(53, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int32") + (X[:, 1] > 0)
WEIGHTS = np.linspace(0.5, 1.5, 53).astype("float32")
STEPS, BATCH = 20, 8


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS.append(function)
    return function


class Small(Task):
    def __init__(self, optimizer: str = "adam", dropout: float = 0.0) -> None:
        self._optimizer = optimizer
        self._dropout = dropout

    def model(self) -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(8, activation="relu", kernel_regularizer="l2"),
                keras.layers.Dropout(self._dropout),
                keras.layers.Dense(8, activity_regularizer="l2"),
                keras.layers.Dense(3),
            ]
        )

    def train_data(self) -> Any:
        return X, Y, WEIGHTS

    def loss(self) -> Any:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def optimizer(self) -> Any:
        return self._optimizer

    def metrics(self) -> Any:
        return ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]


class TwoOutputs(Small):
    def model(self) -> keras.Model:
        inputs = keras.Input((6,))
        shared = keras.layers.Dense(8, activation="relu")(inputs)
        return keras.Model(
            inputs, {"a": keras.layers.Dense(3, name="a")(shared), "b": keras.layers.Dense(1, name="b")(shared)}
        )

    def train_data(self) -> Any:
        return X, {"a": Y, "b": X[:, :1]}

    def loss(self) -> Any:
        return {"a": super().loss(), "b": "mse"}

    def metrics(self) -> Any:
        return {"a": ["accuracy"], "b": ["mae"]}


class LargeScale(Small):
    """Its loss is scaled so far that gradients of many steps overflow, on one device too."""

    def optimizer(self) -> Any:
        return keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.1), initial_scale=2.0**127, dynamic_growth_steps=3
        )


class TwoOptimizers(Small):
    """As Keras' guide to GANs has it: a compile of the model's own takes two, and its step applies them first."""

    def model(self) -> keras.Model:
        class Model(keras.Sequential):
            def compile(self, head: Any, rest: Any) -> None:
                super().compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
                self.head, self.rest = head, rest

            def train_step(self, data: Any) -> Any:
                x, y, _ = data
                *rest, kernel, bias = self.trainable_variables
                with tf.GradientTape(persistent=True) as tape:
                    loss = self.compute_loss(x, y, self(x, training=True))
                self.head.apply(tape.gradient(loss, [kernel, bias]), [kernel, bias])
                self.rest.apply_gradients(zip(tape.gradient(loss, rest), rest, strict=True))
                return {"loss": loss}

        model = Model(super().model().layers)
        model.compile(keras.optimizers.Adam(), keras.optimizers.SGD(0.1, momentum=0.5))
        return model


class NotForXla(Small):
    """Its forward pass calls Python, which XLA cannot."""

    def model(self) -> keras.Model:
        class Python(keras.layers.Layer):
            def call(self, inputs: Any) -> Any:
                doubled = tf.numpy_function(lambda value: value, [tf.stop_gradient(inputs)], tf.float32)
                return inputs + 0.0 * tf.ensure_shape(doubled, inputs.shape)

        return keras.Sequential([keras.Input((6,)), Python(), keras.layers.Dense(3)])


@functools.cache
def two_replicas() -> tf.distribute.Strategy:
    """One for all: each would number its collectives from the beginning, and those of two would be mixed up."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def one_epoch(feed: Feed) -> Callable[[int, int], np.ndarray]:
    """All steps are of one epoch."""
    return lambda first_step, steps: np.arange(feed.capacity) + first_step == 0


def trained(
    task: Task,
    *,
    strategy: Any = None,
    mode: str = "graph",
    cuts: tuple[int, ...] = (STEPS,),
    stream: bool = False,
    expect_mode: str | None = None,
) -> tuple[list[np.ndarray], list[dict[str, Any]], keras.Model]:
    strategy = strategy or tf.distribute.get_strategy()
    source = source_of(task.train_data(), task.train_data, "train_data")
    assert isinstance(source, ArraySource)
    model = build_model(strategy, task, 7, source.sample(BATCH))
    order = Order(source.examples, BATCH, 7)
    feed: Feed = StreamFeed(strategy, source, order, BATCH, 0) if stream else ResidentFeed(strategy, source, order)
    together = GlobalBatch(strategy)
    ranges = Ranges(strategy, together, "the batch of step")
    block = CompiledBlock(strategy, task, model, feed, mode, together, ranges, one_epoch(feed))  # type: ignore[arg-type]
    if unbuilt := [optimizer for optimizer in reach({"model": model}).optimizers if not optimizer.built]:
        block.build_optimizers(0, unbuilt)
    block.learn(0)
    block.compile(0)
    assert block.mode == (expect_mode or mode)
    step, metrics = 0, []
    for steps in cuts:
        done = block.run(step, steps)
        assert done.steps == steps
        assert done.not_finite_after is None
        metrics.append(done.scores)
        step += steps
    feed.close()
    return [variable.numpy() for variable in model.variables + model.optimizer.variables], metrics, model


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def close(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@check
def weights_do_not_depend_on_how_steps_are_cut_into_blocks() -> None:
    for mode in ("xla", "graph", "eager"):
        task = Small(dropout=0.3)
        whole, _, _ = trained(task, mode=mode)
        cut, _, _ = trained(task, mode=mode, cuts=(1, 2, 10, 7))
        assert same(whole, cut), mode


@check
def xla_graph_and_eager_agree_to_rounding() -> None:
    graph, (in_graph,), _ = trained(Small())
    for mode in ("xla", "eager"):
        other, (metrics,), _ = trained(Small(), mode=mode)
        close(graph, other)
        np.testing.assert_allclose([*metrics.values()], [*in_graph.values()], rtol=1e-4)


@check
def streamed_arrays_train_as_resident_ones() -> None:
    for mode in ("xla", "graph"):
        resident, metrics, _ = trained(Small(), mode=mode, cuts=(13, 7))
        streamed, others, _ = trained(Small(), mode=mode, cuts=(13, 7), stream=True)
        assert same(resident, streamed), mode
        assert metrics == others


@check
def two_replicas_of_one_process_train_what_one_does() -> None:
    mirrored = two_replicas()
    # SGD: its weights follow gradients themselves, while Adam would hide a wrong scale of the loss.
    for task in (Small("sgd"), Small("adam"), TwoOutputs("sgd"), LargeScale()):
        alone, (one,), _ = trained(task)
        for stream in (False, True):
            together, (two,), _ = trained(task, strategy=mirrored, stream=stream)
            close(alone, together)
            assert one.keys() == two.keys()
            np.testing.assert_allclose([*one.values()], [*two.values()], rtol=1e-4)


@check
def optimizers_that_a_step_applies_first_have_their_variables_before_it() -> None:
    alone, (one,), model = trained(TwoOptimizers())
    found = reach({"model": model}).variables
    assert sum("'rest'" in path and "momentum" in path for path in found) == 4, sorted(found)
    assert sum("'head'" in path and "velocity" in path for path in found) == 2, sorted(found)
    together, (two,), _ = trained(TwoOptimizers(), strategy=two_replicas())
    close(alone, together)
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-4)


@check
def metrics_are_those_of_keras_own_fit_over_the_same_batches() -> None:
    for task in (Small("sgd"), TwoOutputs("sgd")):
        _, (ours,), _ = trained(task)
        source = source_of(task.train_data(), task.train_data, "train_data")
        assert isinstance(source, ArraySource)
        model = build_model(tf.distribute.get_strategy(), task, 7, source.sample(BATCH))
        rows = Order(53, BATCH, 7).rows(0, STEPS).reshape(-1)
        x, y, weights = keras.utils.unpack_x_y_sample_weight(source.rows(rows))
        history = model.fit(x, y, BATCH, sample_weight=weights, shuffle=False, verbose=0).history
        assert set(ours) == set(history)
        for name, value in ours.items():
            np.testing.assert_allclose(value, history[name][0], rtol=1e-4, err_msg=name)


@check
def a_model_that_xla_refuses_is_compiled_as_graph() -> None:
    refused, _, _ = trained(NotForXla(), mode="xla", expect_mode="graph")
    graph, _, _ = trained(NotForXla())
    assert same(refused, graph)


@check
def numbers_out_of_range_are_found_wherever_they_are_looked_up() -> None:
    class Ids(Small):
        def __init__(self, label: int = 0, word: int = 0) -> None:
            super().__init__()
            self._label, self._word = label, word

        def model(self) -> keras.Model:
            layers = [keras.layers.Embedding(9, 4, name="words"), keras.layers.Flatten(), keras.layers.Dense(3)]
            return keras.Sequential([keras.Input((5,), dtype="int32"), *layers])

        def train_data(self) -> Any:
            words, labels = np.arange(53 * 5).reshape(53, 5).astype("int32") % 9, Y.copy()
            words[20, 3] += self._word
            labels[20] += self._label
            return words, labels

    row = list(Order(53, BATCH, 7).rows(0, STEPS).reshape(-1)).index(20)
    step, place = row // BATCH + 1, row % BATCH
    for mode, strategy in (("xla", None), ("graph", None), ("eager", None), ("graph", two_replicas())):
        trained(Ids(), mode=mode, strategy=strategy)
        for task, where in (
            (Ids(word=100), f"row {place} of what the layer words looks up: its ids go from 0 to 8"),
            (Ids(label=7), f"row {place} of the labels: with 3 outputs they go from 0 to 2"),
            (Ids(label=-7), f"row {place} of the labels"),
        ):
            with pytest.raises(TaskError, match=f"out of range in the batch of step {step}, {where}"):
                trained(task, mode=mode, strategy=strategy)


@check
def each_replica_has_the_data_on_its_own_device() -> None:
    strategy = two_replicas()
    given = on_replicas(strategy, {"x": X, "y": tf.constant(Y)})
    for leaf in keras.tree.flatten(given):
        devices = [value.device[-5:] for value in strategy.experimental_local_results(leaf)]
        assert devices == ["CPU:0", "CPU:1"], devices


@check
def a_shape_first_met_in_training_is_said_to_be_compiled_for() -> None:
    lengths = [3, 3, 5, 5, 4]

    class Padded(Small):
        def model(self) -> keras.Model:
            flat = keras.layers.GlobalAveragePooling1D()
            model = keras.Sequential([keras.Input((None, 6)), flat, keras.layers.Dense(3)])
            model.compile("sgd", "mse")
            return model

        def train_data(self) -> Any:
            for length in lengths:
                yield np.ones((4, length, 6), "float32"), np.ones((4, 3), "float32")

    task = Padded()
    model = build_model(tf.distribute.get_strategy(), task, 7, next(task.train_data()))
    source = source_of(task.train_data(), task.train_data, "train_data", batched=True)
    feed = StreamFeed(tf.distribute.get_strategy(), source, None, 4, 0)
    compiled = []

    @contextlib.contextmanager
    def compiling() -> Any:
        compiled.append(step)
        yield

    strategy = tf.distribute.get_strategy()
    single = GlobalBatch(strategy)
    ranges = Ranges(strategy, single, "the batch")
    block = CompiledBlock(strategy, task, model, feed, "graph", single, ranges, one_epoch(feed), compiling=compiling)
    block.compile(0)
    step = 0
    while step < 10:
        step += block.run(step, 10 - step).steps
    assert compiled == [2, 4], compiled
    feed.close()


@check
def the_mode_follows_from_the_model_alone() -> None:
    def mode(*layers: Any, asked: str = "auto", replicas: int = 1, batch: Any = X) -> str:
        return choose_mode(asked, keras.Sequential(layers), batch, replicas)

    dense = keras.layers.Dense(3)
    assert mode(dense) == "xla"
    assert mode(dense, replicas=2) == mode(dense, asked="xla", replicas=2) == "graph"
    assert mode(keras.layers.Conv2D(3, 3)) == mode(keras.layers.ConvLSTM1D(3, 3)) == "graph"
    assert mode(keras.layers.Bidirectional(keras.layers.LSTM(3)), keras.layers.GRU(3)) == "xla"
    assert mode(keras.layers.LSTM(3, unroll=True)) == "graph"
    assert mode(keras.Sequential([keras.layers.Conv1D(3, 3)])) == "graph"
    assert mode(keras.layers.Conv2D(3, 3), asked="xla") == "xla"
    assert mode(dense, batch=np.array(["text"])) == mode(dense, asked="graph") == "graph"
    assert mode(dense, asked="eager") == "eager"


class Alone(Collective):
    """Agrees with itself, and counts how often."""

    def __init__(self) -> None:
        self.agreed = 0

    def agree(self, mine: Decision, *, chief: bool) -> Decision:
        self.agreed += 1
        return mine


def evaluator(task: Task, model: Any, data: Callable[[], Any], batch_size: int, strategy: Any = None) -> Evaluator:
    strategy = strategy or tf.distribute.get_strategy()
    source = source_of(data(), data, "evaluation_data")
    made = Evaluator(task, model, source, Alone(), strategy, GlobalBatch(strategy), batch_size=batch_size, mode="graph")
    made.compile()
    return made


@check
def an_evaluation_counts_every_example_once_whatever_the_batch() -> None:
    task = Small()
    _, _, model = trained(task)
    x, y = X[:37], Y[:37]
    expected = {
        f"val_{name}": value for name, value in model.evaluate(x, y, batch_size=37, verbose=0, return_dict=True).items()
    }
    forms: dict[str, Any] = {
        "arrays": lambda: (x, y),
        "dataset": lambda: tf.data.Dataset.from_tensor_slices((x, y)),
        "generator": lambda: zip(x, y, strict=True),
    }
    for form, data in forms.items():
        for batch_size in (1, 8, 37, 64):
            made = evaluator(task, model, data, batch_size)
            result = made.run(lambda: False, slice_s=60)
            assert result is not None
            case = f"{form} batch_size={batch_size}"
            assert result.examples == 37, case
            assert set(result.scores) == set(made.names()) == set(expected), case
            for name, value in expected.items():
                np.testing.assert_allclose(result.scores[name], value, rtol=1e-4, err_msg=f"{case} {name}")


@check
def an_evaluation_in_slices_is_the_whole_one_and_a_stop_ends_it() -> None:
    task = Small()
    _, _, model = trained(task)
    before = [variable.numpy() for variable in model.metrics_variables]
    for data in (lambda: (X[:37], Y[:37]), lambda: zip(X[:37], Y[:37], strict=True)):
        made = evaluator(task, model, data, 8)
        whole = made.run(lambda: False, slice_s=60)
        sliced = made.run(lambda: False, slice_s=0)
        assert made._collective.agreed >= 3  # type: ignore[attr-defined]
        assert whole is not None
        assert sliced is not None
        assert (whole.scores, whole.examples) == (sliced.scores, sliced.examples)
        assert made.run(lambda: True) is None
    # What training had counted is there again.
    assert same(before, [variable.numpy() for variable in model.metrics_variables])


@check
def an_evaluation_that_does_not_fit_the_models_batch_is_refused_before_training() -> None:
    class Stateful(Small):
        def model(self) -> keras.Model:
            return keras.Sequential([keras.Input(batch_shape=(5, 6)), keras.layers.Dense(3)])

    task = Stateful()
    model = build_model(tf.distribute.get_strategy(), task, 7, (X[:5], Y[:5]))
    stream = tf.data.Dataset.from_tensor_slices((X, Y))
    for data, size in ((lambda: (X, Y), 5), (lambda: (X[:50], Y[:50]), 10), (lambda: stream, 5)):
        with pytest.raises(ConfigError, match=r"takes batches of 5 examples alone, and an evaluation batch has (3|10)"):
            evaluator(task, model, data, size)
    fits = evaluator(task, model, lambda: stream.take(50), 5)
    assert fits.run(lambda: False).examples == 50  # type: ignore[union-attr]


@check
def a_model_with_a_train_step_and_no_loss_says_how_to_evaluate() -> None:
    class OwnStep(keras.Sequential):
        def train_step(self, data: Any) -> dict[str, Any]:
            return {}

    class Uses(Small):
        def model(self) -> keras.Model:
            model = OwnStep([keras.Input((6,)), keras.layers.Dense(3)])
            model.compile("sgd")
            return model

    task = Uses()
    with pytest.raises(ConfigError, match="OwnStep a train_step of its own, but nothing says how to evaluate"):
        evaluator(task, build_model(tf.distribute.get_strategy(), task, 7, (X[:5], Y[:5])), lambda: (X, Y), 5)


@check
def a_tasks_variables_are_found_in_its_attributes() -> None:
    class Keeps(Small):
        def model(self) -> keras.Model:
            self.one = tf.Variable(1.0)
            self.more = [keras.Variable(2.0), 3.0]
            return super().model()

    class Holder:
        def __init__(self) -> None:
            self.deep = {"layer": [keras.layers.Dense(1)], "metric": keras.metrics.Mean(name="own")}

    task = Keeps()
    build_model(tf.distribute.get_strategy(), task, 0, (X[:1], Y[:1]))
    task.holder = Holder()  # type: ignore[attr-defined]
    task.holder.deep["layer"][0].build((None, 2))  # type: ignore[attr-defined]
    task.second = keras.optimizers.SGD(momentum=0.5)  # type: ignore[attr-defined]
    task.second.build(task.holder.deep["layer"][0].trainable_variables)  # type: ignore[attr-defined]
    found = reach({"task": task})
    assert [float(variable) for variable in list(found.variables.values())[:2]] == [1.0, 2.0]
    assert [metric.name for metric in found.metrics] == ["own"]
    assert found.optimizers == [task.second]  # type: ignore[attr-defined]
    names = [path.rpartition("/")[2] for path in found.variables]
    assert {"kernel", "bias", "total", "count", "iteration", "learning_rate"} <= set(names)


def main() -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    results = {}
    for function in CHECKS:
        if sys.argv[1:] and function.__name__ not in sys.argv[1:]:
            continue
        try:
            function()
            results[function.__name__] = "ok"
        except Exception:
            results[function.__name__] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
