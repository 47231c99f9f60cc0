"""Optimizers: each of Keras', schedules, averages of weights, accumulation, clipping, mixed precision, two at once."""

from typing import Any

import keras
import numpy as np

from tests.conformance.base import WIDTH, Case
from tests.conformance.catalogue import entry

stock = keras.optimizers
S = stock.schedules
STOCK = {
    "Adadelta": {"learning_rate": 1.0}, "Adafactor": {"learning_rate": 0.02}, "Adagrad": {"learning_rate": 0.1},
    "Adam": {"learning_rate": 0.01}, "AdamW": {"learning_rate": 0.01, "weight_decay": 0.1}, "Adamax": {"learning_rate": 0.01},
    "Ftrl": {"learning_rate": 0.1}, "Lamb": {"learning_rate": 0.01}, "Lion": {"learning_rate": 0.001},
    "Muon": {"learning_rate": 0.01}, "Nadam": {"learning_rate": 0.01}, "RMSprop": {"learning_rate": 0.01, "momentum": 0.5},
    "SGD": {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True},
}  # fmt: skip
"""Those of keras.optimizers that have no entry of their own."""

SIGNS = "Lion takes the sign of a sum: where it is near zero, the last bit of a gradient decides"


class Stock(Case):
    """One of Keras' optimizers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def optimizer(self) -> Any:
        return getattr(stock, self.name)(**STOCK[self.name])


for _name in STOCK:
    # The first steps of Adam and its kin divide a gradient by itself: what is near zero shows its rounding.
    entry(
        f"keras.optimizers.{_name}",
        id=f"optimizer-{_name}",
        params={"name": _name},
        part="fast" if _name == "Adam" else "ci" if _name == "Muon" else "whole",
        also=("two",) if _name in ("Adam", "SGD") else (),
        allowed=dict.fromkeys(("one", "xla", "four", "two"), 3e-5) if _name != "SGD" else {},
    )(Stock)


@entry(
    "ScheduleFreeAdamW",
    other=True,
    why="the first step of fit throws the initial weights away, unless the optimizer is built before; here it is built before",
)
class ScheduleFree(Case):
    def optimizer(self) -> Any:
        return stock.ScheduleFreeAdamW(0.01, warmup_steps=3)

    def before_fit(self, model: Any) -> None:
        if not model.built:
            model.build((None, WIDTH))
        model.optimizer.build(model.trainable_variables)


SCHEDULES = {
    "CosineDecay": lambda: S.CosineDecay(0.0, 10, warmup_target=0.2, warmup_steps=4),
    "CosineDecayRestarts": lambda: S.CosineDecayRestarts(0.2, 4),
    "ExponentialDecay": lambda: S.ExponentialDecay(0.2, 3, 0.7, staircase=True),
    "InverseTimeDecay": lambda: S.InverseTimeDecay(0.2, 4, 0.5),
    "PiecewiseConstantDecay": lambda: S.PiecewiseConstantDecay([3, 8], [0.2, 0.1, 0.02]),
    "PolynomialDecay": lambda: S.PolynomialDecay(0.2, 10, 0.01, power=2.0),
}


class Scheduled(Case):
    """A schedule of the learning rate."""

    def __init__(self, name: str) -> None:
        self.name = name

    def optimizer(self) -> Any:
        return stock.SGD(SCHEDULES[self.name](), momentum=0.5)


for _name in SCHEDULES:
    entry(
        f"The schedule {_name}",
        id=f"schedule-{_name}",
        params={"name": _name},
        part="ci" if _name == "CosineDecay" else "whole",
    )(Scheduled)


@keras.saving.register_keras_serializable("conformance")
class Halving(S.LearningRateSchedule):
    """A schedule of one's own."""

    def __call__(self, step: Any) -> Any:
        return 0.2 * 0.5 ** keras.ops.floor(keras.ops.cast(step, "float32") / 5.0)

    def get_config(self) -> dict[str, Any]:
        return {}


@entry("A schedule of one's own", part="whole")
class OwnSchedule(Case):
    def optimizer(self) -> Any:
        return stock.SGD(Halving())


class _With(Case):
    """SGD or Adam with other arguments."""

    arguments: dict[str, Any] = {}

    def optimizer(self) -> Any:
        return stock.SGD(0.1, momentum=0.8, **self.arguments)


@entry("Averages of the weights: the model ends with them, and they are exported", also=("two",))
class Ema(_With):
    arguments = {"use_ema": True, "ema_momentum": 0.8}


@entry("Averages that are written to the weights every 5 steps")
class EmaOverwriting(_With):
    arguments = {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 5}


@entry("Gradients accumulated over 3 steps", part="fast", also=("two",))
class Accumulation(_With):
    arguments = {"gradient_accumulation_steps": 3}


@entry("Accumulation over 5 steps, which no epoch is a multiple of", part="whole")
class AccumulationAcrossEpochs(_With):
    arguments = {"gradient_accumulation_steps": 5}


class _Accumulating(Case):
    """The oracle takes three batches as one, without accumulation: the same updates."""

    oracle_batch = 24

    def accumulated(self) -> dict[str, Any]:
        return {} if self.by_oracle else {"gradient_accumulation_steps": 3}

    def optimizers(self, model: Any) -> Any:
        return []


@entry(
    "Accumulation with averages of the weights",
    other=True,
    why="fit takes the unchanged weights into the average at every step; here it moves with updates, as with larger batches",
)
class AccumulationAndEma(_Accumulating):
    def optimizer(self) -> Any:
        return stock.SGD(0.1, use_ema=True, ema_momentum=0.8, **self.accumulated())


@entry(
    "Accumulation with a schedule",
    part="whole",
    other=True,
    why="fit moves the schedule on at every step; here it moves with updates, as with larger batches",
)
class AccumulationAndSchedule(_Accumulating):
    def optimizer(self) -> Any:
        return stock.SGD(S.CosineDecay(0.2, 6), **self.accumulated())


@entry("Clipping of each variable's norm", part="fast", also=("four",))
class ClipNorm(_With):
    arguments = {"clipnorm": 0.05}


@entry("Clipping by the norm of all gradients", part="whole")
class ClipGlobalNorm(_With):
    arguments = {"global_clipnorm": 0.05}


@entry("Clipping of values", part="whole")
class ClipValue(_With):
    arguments = {"clipvalue": 0.02}


@entry("Decoupled weight decay, with variables that are left out")
class WeightDecay(Case):
    def optimizer(self) -> Any:
        optimizer = stock.SGD(0.1, weight_decay=0.1)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        return optimizer


HALF = "half precision rounds a sum of parts and a sum of all differently, at 3 digits (float16) or 2 (bfloat16)"
_COARSE = {"xla": 3e-3, "four": 3e-3, "two": 3e-3}


class _Mixed(Case):
    """A policy for all layers; the last one gives float32, as Keras' guide says."""

    policy = ""

    def model(self) -> Any:
        keras.config.set_dtype_policy(self.policy)
        hidden = [keras.layers.Dense(16, "tanh"), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1, dtype="float32")]
        return keras.Sequential([keras.Input((WIDTH,)), *hidden])


@entry("mixed_float16: the loss is scaled by an optimizer around the optimizer", part="fast", allowed=_COARSE, why=HALF)
class MixedFloat16(_Mixed):
    policy = "mixed_float16"


@entry("mixed_bfloat16", allowed=dict.fromkeys(_COARSE, 0.03), why=HALF, part="whole")
class MixedBfloat16(_Mixed):
    policy = "mixed_bfloat16"


@entry("LossScaleOptimizer that has to halve its scale at once, and doubles it every 3 steps")
class LossScale(Case):
    def optimizer(self) -> Any:
        return stock.LossScaleOptimizer(stock.SGD(0.1), initial_scale=2.0**127, dynamic_growth_steps=3)


@entry(
    "An overflow in one example alone: the step is left out, on all replicas", part="whole", train={"on_nan": "go-on"}
)
class LossScaleOverflow(Case):
    def train_data(self) -> Any:
        x, y = super().train_data()
        y = y.copy()
        y[17] = 1e30
        return x, y

    def optimizer(self) -> Any:
        return stock.LossScaleOptimizer(stock.SGD(0.01), initial_scale=1024.0)


@entry("MultiOptimizer: two optimizers for parts of one model", part="whole")
class TwoOptimizers(Case):
    def model(self) -> Any:
        model = super().model()
        parts = stock.OptimizerMap(stock.SGD(0.1), {f".*{model.layers[0].name}/.*": stock.Adam(0.01)})
        model.compile(stock.MultiOptimizer(parts), "mse", metrics=["mae"])
        return model


@entry("A learning rate that is a variable of the task, changed by a callback", part="whole")
class OwnRate(Case):
    def optimizer(self) -> Any:
        return stock.SGD(0.2)

    def own_callbacks(self) -> Any:
        class Lower(keras.callbacks.Callback):
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                rate = float(np.asarray(self.model.optimizer.learning_rate))
                self.model.optimizer.learning_rate = rate * 0.3

        return [Lower()]
