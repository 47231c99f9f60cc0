"""More than one network, and more than one optimizer: a generator with its critic, a target that follows."""

from typing import Any

import keras
import tensorflow as tf

from tests.conformance.base import TRAINED, WIDTH, Case, make, registered
from tests.conformance.catalogue import entry
from tests.conformance.steps import Body

layers = keras.layers
ops = keras.ops


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
    random="step",
    normal=True,
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
        return {"other": int(self.other.iterations.numpy()), "noise": self.noise.state.numpy().tolist()}


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
    "A GAN as Keras' guide writes it: train_step of the model, two optimizers of its own compile",
    random="step",
    normal=True,
    **GAN,
)
class GanOfTheGuide(_Gan):
    def model(self) -> Any:
        model = KerasGan()
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), keras.optimizers.Adam(0.01))
        return model

    def optimizers(self, model: Any) -> Any:
        return [model.d_optimizer, model.g_optimizer]


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
class TargetNetwork(Case):
    def model(self) -> Any:
        return WithTarget()

    def metrics(self) -> Any:
        return []
