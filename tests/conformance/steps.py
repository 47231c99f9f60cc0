"""Steps of one's own: train_step, test_step, compute_loss, compute_metrics of the model; those of the task; two networks."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.conformance.base import HELD_OUT, TRAINED, WIDTH, Case, make, registered
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


@entry("compute_loss of the model, with a metric of its own", part="fast", fast=("four", "two"))
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


@entry("compute_metrics of the model")
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


@entry("train_step and test_step of the model, with trackers", part="fast", fast=("four", "two"))
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
    allowed=dict.fromkeys(("one", "xla", "four", "two"), 3e-6),
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


@entry("test_step of the model that gives another number, on batches of one size")
class TestStep(_Of):
    body = WithTestStep

    def evaluation_data(self) -> Any:
        return make("numbers", 8, 2)


@entry("train_step of the task: a tape of one's own", part="fast", fast=("four", "two"))
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


@entry("train_step of the task without self.share: a mean of the batch")
class TaskTrainStepWithoutShare(TaskTrainStep):
    def share(self, mean: Any) -> Any:
        return mean


@registered
class Pair(keras.Model):
    """Generator and critic."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.generator = keras.Sequential([keras.Input((3,)), layers.Dense(6, "tanh"), layers.Dense(WIDTH)])
        self.critic = keras.Sequential([keras.Input((WIDTH,)), layers.Dense(8, "tanh"), layers.Dense(1)])

    def call(self, x: Any) -> Any:
        return self.critic(x)


def doubt(y: float, p: Any) -> Any:
    """Cross entropy against one label for all."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=y * tf.ones_like(p), logits=p))


class _Gan(Case):
    def train_data(self) -> Any:
        return make("numbers", TRAINED, 1)[0]

    def evaluation_data(self) -> Any:
        return None

    def loss(self) -> Any:
        return None

    def metrics(self) -> Any:
        return []

    def optimizer(self) -> Any:
        return keras.optimizers.Adam(0.01)


GAN = {"allowed": dict.fromkeys(("one", "xla", "four", "two"), 3e-4)}


@entry(
    "Two networks and two optimizers in the task's train_step; noise from a generator of the task",
    random=True,
    part="fast",
    **GAN,
)
class GanOfTheTask(_Gan):
    def model(self) -> Any:
        self.noise = keras.random.SeedGenerator(3)
        model = Pair()
        self.other = keras.optimizers.SGD(0.05, momentum=0.9)
        self.other.build(model.critic.trainable_variables)
        return model

    def train_step(self, model: Any, optimizer: Any, batch: Any) -> Any:
        z = keras.random.normal((tf.shape(batch)[0], 3), seed=self.noise)
        with tf.GradientTape(persistent=True) as tape:
            fake = model.generator(z, training=True)
            on_real, on_fake = model.critic(batch, training=True), model.critic(fake, training=True)
            critic_loss = self.share(doubt(1.0, on_real) + doubt(0.0, on_fake))
            loss = self.share(doubt(1.0, on_fake))
        for network, own, value in ((model.critic, self.other, critic_loss), (model.generator, optimizer, loss)):
            own.apply_gradients(
                zip(tape.gradient(value, network.trainable_variables), network.trainable_variables, strict=True)
            )
        return {"loss": loss, "critic": critic_loss}

    def facts(self) -> Any:
        return {"other": int(self.other.iterations), "noise": np.asarray(self.noise.state.value).tolist()}


@registered
class KerasGan(Pair):
    """As Keras' guide writes it: compile takes two optimizers, train_step has trackers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.noise = keras.random.SeedGenerator(3)
        self.d_tracker, self.g_tracker = keras.metrics.Mean(name="d_loss"), keras.metrics.Mean(name="g_loss")

    def compile(self, d_optimizer: Any, g_optimizer: Any) -> None:
        super().compile()
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer

    @property
    def metrics(self) -> Any:
        return [self.d_tracker, self.g_tracker]

    def train_step(self, real: Any) -> Any:
        z = keras.random.normal((ops.shape(real)[0], 3), seed=self.noise)
        with tf.GradientTape() as tape:
            d_loss = doubt(1.0, self.critic(real)) + doubt(0.0, self.critic(self.generator(z)))
        self.d_optimizer.apply(tape.gradient(d_loss, self.critic.trainable_weights), self.critic.trainable_weights)
        with tf.GradientTape() as tape:
            g_loss = doubt(1.0, self.critic(self.generator(z)))
        self.g_optimizer.apply(
            tape.gradient(g_loss, self.generator.trainable_weights), self.generator.trainable_weights
        )
        self.d_tracker.update_state(d_loss)
        self.g_tracker.update_state(g_loss)
        return {"d_loss": self.d_tracker.result(), "g_loss": self.g_tracker.result()}


@entry(
    "A GAN as Keras' guide writes it: train_step of the model, two optimizers of its own compile", random=True, **GAN
)
class GanOfTheGuide(_Gan):
    def model(self) -> Any:
        model = KerasGan()
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), keras.optimizers.Adam(0.01))
        return model


@registered
class WithTarget(Body):
    """A second network follows the first slowly, and gives a part of the target."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = layers.Dense(1, trainable=False)

    def call(self, x: Any) -> Any:
        hidden = self.hidden(x)
        if not self.target.built:
            self.target(hidden)
        return self.out(hidden)

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            hidden = self.hidden(x)
            wanted = y + 0.1 * tf.stop_gradient(self.target(hidden))
            loss = ops.mean(ops.square(wanted - self.out(hidden)))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        for slow, fast in zip(self.target.variables, self.out.variables, strict=True):
            slow.assign(0.8 * slow + 0.2 * fast)
        self._loss_tracker.update_state(loss)
        return {"loss": self._loss_tracker.result()}


@entry("A target network that follows by a moving average")
class TargetNetwork(_Of):
    body = WithTarget

    def metrics(self) -> Any:
        return []


@entry(
    "Class weights in the job file",
    part="fast",
    train={"class_weight": {0: 1.0, 1: 3.0}},
    why="class 2, which is not named, counts 1",
)
class ClassWeights(Case):
    kind = "labels"


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


assert HELD_OUT % 8
