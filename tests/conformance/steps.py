"""Steps of one's own: train_step, test_step, compute_loss, compute_metrics of the model; those of the task."""

from typing import Any

import keras
import tensorflow as tf

from tests.conformance.base import Case, make, registered
from tests.conformance.catalogue import entry

layers = keras.layers
ops = keras.ops


@registered
class Body(keras.Model):
    """Two Dense layers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden, self.out = layers.Dense(8, "tanh"), layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.out(self.hidden(x))


class _Of(Case):
    """A model of a class that computes something itself."""

    body: type[keras.Model] = Body

    def model(self) -> Any:
        return self.body()


@registered
class WithComputeLoss(Body):
    """The loss needs x, and has a part that the metric of the model shows."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.code = keras.metrics.Mean(name="code")

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        code = ops.mean(ops.square(self.hidden(x)))
        self.code.update_state(code)
        return ops.mean(ops.square(y - y_pred)) + 0.1 * code


@entry("compute_loss of the model, with a metric of its own", also=("four", "two"))
class ComputeLoss(_Of):
    body = WithComputeLoss

    def loss(self) -> Any:
        return None

    def metrics(self) -> Any:
        return []

    def model(self) -> Any:
        model = self.body()
        model.compile(keras.optimizers.SGD(0.1))
        return model


@registered
class WithComputeMetrics(Body):
    """Adds a number to the metrics that is no metric."""

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "largest": ops.max(ops.abs(y_pred))}


@entry(
    "compute_metrics of the model, which adds a number that is no metric",
    other_logs=("largest",),
    why="fit shows such a number of the last batch; here it is the mean over the epoch, or the evaluation",
)
class ComputeMetrics(_Of):
    body = WithComputeMetrics


@registered
class WithTrainStep(Body):
    """Keras' guide to train_step, with trackers of its own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.mae = keras.metrics.MeanAbsoluteError(name="mae")

    @property
    def metrics(self) -> Any:
        return [self.loss_tracker, self.mae]

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            p = self(x, training=True)
            loss = ops.mean(ops.square(y - p))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        self.loss_tracker.update_state(loss)
        self.mae.update_state(y, p)
        return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, data: Any) -> Any:
        x, y = data
        p = self(x, training=False)
        self.loss_tracker.update_state(100.0 * ops.mean(ops.square(y - p)), sample_weight=ops.shape(x)[0])
        self.mae.update_state(y, p)
        return {metric.name: metric.result() for metric in self.metrics}


class _Compiled(_Of):
    """Compiled without a loss, since its steps know one."""

    def model(self) -> Any:
        model = self.body()
        model.compile(keras.optimizers.SGD(0.1))
        return model


@entry("train_step and test_step of the model, with trackers", part="fast", also=("four",))
class TrainStep(_Compiled):
    body = WithTrainStep


@registered
class WithOwnLoss(Body):
    """Returns its loss as it is, beside a compiled loss that it uses."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(y - self(x, training=True)))
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}


@entry(
    "train_step of the model that returns its own loss without a tracker",
    why="fit shows the loss of the epoch's last batch, or 0.0 where the name is a tracker's; here it is the mean of the epoch",
    other=True,
)
class TrainStepWithoutTracker(_Compiled):
    body = WithOwnLoss

    def evaluation_data(self) -> Any:
        return None

    by_hand = True


@registered
class WithTestStep(Body):
    """Evaluates by something else than it trains by."""

    def test_step(self, data: Any) -> Any:
        x, y = data
        return {"off": 100.0 * ops.mean(ops.abs(y - self(x, training=False)))}


@entry("test_step of the model that gives another number, on batches of one size", part="whole")
class TestStep(_Of):
    body = WithTestStep

    def evaluation_data(self) -> Any:
        return make("numbers", 8, 2)


@entry("train_step of the task: a tape of one's own", part="fast", also=("two",))
class TaskTrainStep(Case):
    def loss(self) -> Any:
        return None

    def metrics(self) -> Any:
        return []

    def train_step(self, model: Any, optimizer: Any, batch: Any) -> Any:
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.share(tf.reduce_mean(tf.square(y - model(x, training=True))))
        weights = model.trainable_weights
        gradients = tape.gradient(loss, weights)
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"loss": loss, "rate": tf.convert_to_tensor(optimizer.learning_rate)}

    def evaluate_step(self, model: Any, batch: Any) -> Any:
        x, y = batch
        error = tf.abs(y - model(x, training=False))
        return {"off": tf.reduce_mean(error), "loss": tf.reduce_mean(tf.square(error))}


@entry("train_step of the task without self.share: a mean of the batch", part="whole")
class TaskTrainStepWithoutShare(TaskTrainStep):
    def share(self, mean: Any) -> Any:
        return mean


@entry(
    "Class weights in the job file",
    train={"class_weight": {0: 1.0, 1: 3.0}},
    other=True,
    why="fit ends with an error where a class of the data is not named; here it counts 1, as Keras documents it",
)
class ClassWeights(Case):
    kind = "labels"
    oracle_class_weight = {0: 1.0, 1: 3.0, 2: 1.0}


@entry("Class weights with one-hot labels", part="whole", train={"class_weight": {0: 0.5, 1: 1.0, 2: 4.0}})
class ClassWeightsOneHot(Case):
    kind = "onehot"


@entry("run_eagerly and steps_per_execution in compile: they change no number", part="whole")
class CompiledOtherwise(Case):
    def model(self) -> Any:
        model = super().model()
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"], steps_per_execution=3)
        return model


@entry("A step that prints and branches on tensors: AutoGraph, as in a tf.function", part="whole")
class Branching(TaskTrainStep):
    def train_step(self, model: Any, optimizer: Any, batch: Any) -> Any:
        x, y = batch
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(tf.square(y - model(x, training=True)))
            if error > 1.0:  # noqa: SIM108
                loss = tf.sqrt(error)
            else:
                loss = error
        weights = model.trainable_weights
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}
