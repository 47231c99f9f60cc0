"""Callbacks: every call that fit makes, and each of keras.callbacks."""

import csv
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.conformance.base import Case, make
from tests.conformance.catalogue import entry

C = keras.callbacks


class _Called(Case):
    """All calls are compared."""

    every_call = True


@entry("Every call with its number and its logs", part="fast", also=("four",))
class EveryCallOfFit(_Called):
    pass


@entry("Every call of a job without an evaluation", part="whole")
class EveryCallWithoutEvaluation(_Called):
    def evaluation_data(self) -> Any:
        return None


@entry("model.stop_training in the middle of an epoch", train={"epochs": 3})
class StopsTraining(_Called):
    def own_callbacks(self) -> Any:
        class Stops(C.Callback):
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                self.model.stop_training = epoch == 1

        return [Stops()]


class WarmUp(C.Callback):
    """The learning rate grows with every batch; it counts them itself."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        self.model.optimizer.learning_rate = 0.1 * min(1.0, self.seen / 9)


@entry("A warm-up by batch that counts itself", also=("two",))
class WarmUpByBatch(Case):
    def own_callbacks(self) -> Any:
        self.warm_up = WarmUp()
        return [self.warm_up]

    def facts(self) -> Any:
        return {"seen": self.warm_up.seen}


def rate(model: Any) -> float:
    """The optimizer's learning rate."""
    return float(np.asarray(model.optimizer.learning_rate))


class _Stock(Case):
    """More epochs of a task that gets worse again, with some of Keras' callbacks."""

    def evaluation_data(self) -> Any:
        x, y = make("numbers", 16, 2)
        return x, -y

    def own_callbacks(self) -> Any:
        self.stock = self.tested()
        return self.stock

    def tested(self) -> Any:
        raise NotImplementedError


SIX: dict[str, Any] = {"train": {"epochs": 4}}


@entry("ReduceLROnPlateau", also=("two",), **SIX)
class ReduceLrOnPlateau(_Stock):
    def tested(self) -> Any:
        return [C.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.0)]

    def facts(self) -> Any:
        return {"wait": self.stock[0].wait}


@entry("ReduceLROnPlateau on the training loss", part="whole", **SIX)
class PlateauOfTheLoss(_Stock):
    def tested(self) -> Any:
        return [C.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=0.3)]


@entry("EarlyStopping", **SIX)
class EarlyStopping(_Stock):
    def tested(self) -> Any:
        return [C.EarlyStopping(patience=1)]

    def facts(self) -> Any:
        return {"stopped": self.stock[0].stopped_epoch, "wait": self.stock[0].wait}


@entry("EarlyStopping that restores the best weights", part="fast", **SIX)
class EarlyStoppingRestoring(_Stock):
    def tested(self) -> Any:
        return [C.EarlyStopping(patience=2, restore_best_weights=True)]

    def facts(self) -> Any:
        return {"best": self.stock[0].best_epoch, "stopped": self.stock[0].stopped_epoch}


@entry("ModelCheckpoint that keeps the best", part="whole", **SIX)
class CheckpointOfTheBest(_Stock):
    def tested(self) -> Any:
        return [C.ModelCheckpoint(self.folder / "best.weights.h5", save_best_only=True, save_weights_only=True)]

    def facts(self) -> Any:
        return {"files": sorted(path.name for path in Path(self.folder).glob("*.h5"))}


@entry("ModelCheckpoint every 4 batches, with the epoch in its name", part="whole")
class CheckpointByBatch(_Stock):
    def tested(self) -> Any:
        name = self.folder / "{epoch:02d}.weights.h5"
        return [C.ModelCheckpoint(name, save_freq=4, save_weights_only=True)]

    def facts(self) -> Any:
        return {"files": sorted(path.name for path in Path(self.folder).glob("*.h5"))}


@entry("CSVLogger: no line is missing or twice after a kill", part="whole")
class CsvLogger(_Stock):
    def tested(self) -> Any:
        return [C.CSVLogger(self.folder / "log.csv")]

    def facts(self) -> Any:
        with open(self.folder / "log.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        return {"epochs": [row["epoch"] for row in rows], "columns": sorted(rows[0])}


@entry("TensorBoard by epoch", part="whole", needs="tensorboard")
class TensorBoard(_Stock):
    def tested(self) -> Any:
        return [C.TensorBoard(self.folder / "events")]


@entry("TensorBoard by batch: its calls come for each", part="whole", needs="tensorboard")
class TensorBoardByBatch(_Stock):
    def tested(self) -> Any:
        return [C.TensorBoard(self.folder / "events", update_freq=2)]


@entry("LearningRateScheduler", part="whole")
class LearningRateScheduler(_Stock):
    def tested(self) -> Any:
        return [C.LearningRateScheduler(lambda epoch, rate: 0.1 * 0.5**epoch)]

    def facts(self) -> Any:
        return {"rate": rate(self.stock[0].model)}


@entry(
    "TerminateOnNaN: training ends in the batch that is no number",
    part="whole",
    modes=("one", "four", "two"),
    train={"on_nan": "go-on"},
    ends="the loss is nan after step 3, and TerminateOnNaN ended training",
    why="fit ends there as if all were well; a job ends with exit code 70, after the same calls of its callbacks",
)
class TerminateOnNan(_Stock):
    every_call = True

    def tested(self) -> Any:
        return [C.TerminateOnNaN()]

    def train_data(self) -> Any:
        x, y = make("numbers", 48, 1)
        y = y.copy()
        y[7] = np.nan
        return x, y


@entry("LambdaCallback with hooks of batches", part="whole")
class LambdaCallback(_Stock):
    def tested(self) -> Any:
        self.seen: list[int] = []
        return [C.LambdaCallback(on_train_batch_end=lambda batch, logs: self.seen.append(batch))]

    def facts(self) -> Any:
        return {"last": self.seen[-1]}


@entry("History: model.history has every epoch, also after a kill", part="whole")
class History(_Stock):
    def tested(self) -> Any:
        return [C.History()]

    def facts(self) -> Any:
        return {"epochs": self.stock[0].epoch, "names": sorted(self.stock[0].history)}


@entry("ProgbarLogger", part="whole")
class ProgbarLogger(_Stock):
    def tested(self) -> Any:
        return [C.ProgbarLogger()]


@entry("RemoteMonitor without a server: Keras warns, and training goes on", part="whole")
class RemoteMonitor(_Stock):
    def tested(self) -> Any:
        return [C.RemoteMonitor(root="http://127.0.0.1:9")]


@entry("SwapEMAWeights: the averages stand in for the weights in evaluations")
class SwapEmaWeights(_Stock):
    def tested(self) -> Any:
        return [C.SwapEMAWeights(swap_on_epoch=True)]

    def optimizer(self) -> Any:
        return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.8)


@entry("BackupAndRestore: taken over by the trainer's own checkpoints", part="whole")
class BackupAndRestore(_Stock):
    def tested(self) -> Any:
        return [C.BackupAndRestore(self.folder / "backup")]


@entry(
    "A CallbackList instead of a list",
    part="whole",
    other=True,
    why="fit calls the callbacks of a list that was made without the model as if there were none; here they are given it",
)
class ListOfCallbacks(_Stock):
    def callbacks(self) -> Any:
        own = super().callbacks()
        return own if self.by_oracle else C.CallbackList(own)

    def tested(self) -> Any:
        return [C.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.0)]


class KeepsAverages(C.Callback):
    """The averages of the weights at the end of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[list[np.ndarray]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append([np.asarray(one) for one in self.model.optimizer._model_variables_moving_average])


@entry(
    "EarlyStopping(restore_best_weights) with averages of the weights",
    part="whole",
    other=True,
    why="Keras writes the raw weights of the best epoch over the averages; right are the averages of that epoch",
    **SIX,
)
class BestAverages(_Stock):
    def tested(self) -> Any:
        self.keeps = KeepsAverages()
        return [C.EarlyStopping(patience=2, restore_best_weights=True), self.keeps]

    def after_fit(self, model: Any) -> None:
        for weight, average in zip(model.trainable_variables, self.keeps.epochs[self.stock[0].best_epoch], strict=True):
            weight.assign(average)

    def optimizer(self) -> Any:
        return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.8)
