"""Hooks in this process: the calls are those of Keras' fit, and callbacks that are killed go on as undisturbed ones."""

import copy
import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from support_hooks import BATCH, EPOCHS, STEPS, STEPS_PER_EPOCH, Training, data, events, killed_and_gone_on, make_model

from trainer.callbacks.hooks import Hooks
from trainer.callbacks.stock import Diverged
from trainer.data.order import Calendar
from trainer.errors import ConfigError

HOOKS = [name for name in dir(keras.callbacks.Callback) if name.startswith("on_")]


class Recording(keras.callbacks.Callback):
    """Notes each call, and what it was given."""

    def __init__(self, stop_at: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.stop_at, self.epoch = stop_at, 0
        for name in HOOKS:
            setattr(self, name, lambda *arguments, _name=name, **named: self.note(_name, arguments, named))

    def note(self, name: str, arguments: Any, named: Any) -> None:
        self.calls.append((name, copy.deepcopy(arguments), copy.deepcopy(named)))
        self.epoch = arguments[0] if name == "on_epoch_begin" else self.epoch
        if name == "on_train_batch_end" and self.stop_at == (self.epoch, arguments[0]):
            self.model.stop_training = True


def fit(callbacks: Any, model: keras.Model | None = None) -> keras.Model:
    model = model or make_model()
    x, y = data(BATCH * STEPS_PER_EPOCH, 0)
    held_out = data(32, 1)
    model.fit(
        x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0, validation_data=held_out,
        validation_batch_size=BATCH, callbacks=callbacks,
    )  # fmt: skip
    return model


@pytest.mark.parametrize("stop_at", [None, (2, 1)], ids=["to the end", "stopped within an epoch"])
def test_the_calls_are_those_of_fit(stop_at: Any) -> None:
    ours, keras_own = Recording(stop_at), Recording(stop_at)
    training = Training([ours]).run()
    model = fit([keras_own])
    assert [call[0] for call in ours.calls] == [call[0] for call in keras_own.calls]
    for (name, arguments, named), (_, expected, expected_named) in zip(ours.calls, keras_own.calls, strict=True):
        assert named.keys() == expected_named.keys(), name
        for one, other in zip([*arguments, *named.values()], [*expected, *expected_named.values()], strict=True):
            if isinstance(other, dict):
                assert list(one) == list(other), name
                assert np.allclose(list(one.values()), list(other.values()), rtol=1e-5), name
            else:
                assert one == other, name
    for one, other in zip(training.weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert training.model.history.history.keys() == model.history.history.keys()
    assert training.model.history.epoch == model.history.epoch
    assert ours.params == keras_own.params | {"verbose": "auto"}


def test_what_callbacks_may_be_in() -> None:
    def calls(callbacks: Any) -> int:
        recording = Recording()
        Training(callbacks(recording)).run(1)
        return len(recording.calls)

    assert calls(lambda one: one) == calls(lambda one: [one]) == calls(lambda one: (one,)) == 4
    assert calls(lambda one: [[one], ()]) == calls(lambda one: keras.callbacks.CallbackList([one])) == 4
    assert not Training(None).hooks.active
    with pytest.raises(ConfigError, match=r"a str, which is no keras\.callbacks\.Callback"):
        Training(["nothing"])
    with pytest.raises(ConfigError, match=r"Write History\(\) there"):
        Training([keras.callbacks.History])


C = keras.callbacks


@pytest.mark.parametrize(
    ("callback", "train", "test"),
    [
        (lambda: C.EarlyStopping("loss"), False, False),
        (lambda: C.ReduceLROnPlateau("loss"), False, False),
        (lambda: C.CSVLogger("/dev/null"), False, False),
        (lambda: C.ModelCheckpoint("x.keras"), False, False),
        (lambda: C.ModelCheckpoint("x.keras", save_freq=3), True, False),
        (lambda: C.TensorBoard("x"), False, False),
        (lambda: C.TensorBoard("x", update_freq=2), True, True),
        (lambda: C.TensorBoard("x", update_freq="batch"), True, True),
        (lambda: C.ProgbarLogger(), True, False),
        (lambda: C.TerminateOnNaN(), True, False),
        (lambda: C.SwapEMAWeights(), False, False),
        (lambda: C.LambdaCallback(on_epoch_end=lambda epoch, logs: None), False, False),
        (lambda: C.LambdaCallback(on_train_batch_begin=lambda batch, logs: None), True, False),
        (lambda: C.LambdaCallback(on_batch_end=lambda batch, logs: None), True, False),
        (lambda: C.LambdaCallback(on_test_batch_end=lambda batch, logs: None), False, True),
        (lambda: C.BackupAndRestore("x", save_freq=1), False, False),
    ],
)
def test_a_block_is_one_step_only_where_somebody_listens(callback: Any, train: bool, test: bool) -> None:
    hooks = Training([callback()]).hooks
    assert (hooks.every_batch, hooks.every_test_batch) == (train, test)


def stock(folder: Path) -> list[Any]:
    """As in many scripts, with those that count batches."""
    return [
        C.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.05, cooldown=1),
        C.CSVLogger(str(folder / "log.csv")),
        C.ModelCheckpoint(str(folder / "best.weights.h5"), "val_loss", save_best_only=True, save_weights_only=True),
        C.ModelCheckpoint(str(folder / "{epoch:02d}-{batch:02d}.weights.h5"), save_freq=3, save_weights_only=True),
        C.EarlyStopping("val_loss", patience=2, restore_best_weights=True, min_delta=0.01),
        C.History(),
        C.RemoteMonitor("http://127.0.0.1:9"),
    ]


def scheduled(folder: Path) -> list[Any]:
    return [C.LearningRateScheduler(lambda epoch, rate: rate * 0.8, verbose=1), C.TerminateOnNaN(), C.ProgbarLogger()]


class WarmUp(keras.callbacks.Callback):
    """By batch, counted by itself; its hook is an attribute of the object."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.losses = 0, []
        self.noise = np.random.default_rng(5)
        self.on_train_batch_begin = self._set

    def on_train_begin(self, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = 0.0

    def _set(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        self.model.optimizer.learning_rate = 0.01 * min(1.0, self.seen / 15) * self.noise.uniform(0.5, 1.5)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.losses.append((epoch, logs["loss"]))


@pytest.mark.parametrize("make", [stock, scheduled, lambda folder: [WarmUp()]], ids=["stock", "scheduled", "own"])
@pytest.mark.filterwarnings("ignore:Could not reach RemoteMonitor")
def test_killed_callbacks_end_as_undisturbed_ones(tmp_path: Path, make: Any) -> None:
    whole = tmp_path / "undisturbed"
    whole.mkdir()
    undisturbed = Training(make(whole)).run()
    for commit_at in (6, 8, 11):
        killed = tmp_path / f"killed-{commit_at}"
        killed.mkdir()
        gone_on = killed_and_gone_on(make, killed, commit_at=commit_at, killed_at=commit_at + 5)
        assert_alike(undisturbed, gone_on, [whole, killed], saves=make is stock)


def assert_alike(undisturbed: Training, gone_on: Training, folders: list[Path], *, saves: bool) -> None:
    # The model has to survive what on_train_begin sets.
    assert gone_on.step == undisturbed.step
    for one, other in zip(undisturbed.commit()[1], gone_on.commit()[1], strict=True):
        assert np.array_equal(one, other)
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    if saves:
        assert undisturbed.step < STEPS, "EarlyStopping has to have its say"
        assert (folders[0] / "log.csv").read_bytes() == (folders[1] / "log.csv").read_bytes()
        loaded = [make_model(), make_model()]
        for folder, model in zip(folders, loaded, strict=True):
            model.load_weights(folder / "best.weights.h5")
        for one, other in zip(loaded[0].get_weights(), loaded[1].get_weights(), strict=True):
            assert np.array_equal(one, other)
    histories = [training.model.history for training in (undisturbed, gone_on)]
    assert histories[0].history == histories[1].history
    assert histories[0].epoch == histories[1].epoch


def test_two_undisturbed_trainings_end_alike(tmp_path: Path) -> None:
    one, other = (Training([*stock(tmp_path), WarmUp()]).run().commit()[1] for _ in range(2))
    assert all(np.array_equal(first, second) for first, second in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("append", "lost"),
    [
        (False, False),
        (True, True),
        *(pytest.param(append, not append, marks=pytest.mark.soak) for append in (False, True)),
    ],
)
def test_a_table_has_every_line_once(tmp_path: Path, append: bool, lost: bool) -> None:
    def make(folder: Path) -> list[Any]:
        return [C.CSVLogger(str(folder / "log.csv"), append=append)]

    undisturbed = Training(make(tmp_path)).run()
    expected = (tmp_path / "log.csv").read_text()
    assert len(expected.splitlines()) == 1 + EPOCHS
    assert undisturbed.step == STEPS
    folder = tmp_path / "killed"
    folder.mkdir()
    first = Training(make(folder)).run(9)
    commit = first.commit()
    first.on(18)
    if lost:
        (folder / "log.csv").unlink()
        folder.rmdir()
    Training(make(folder)).go_on_from(commit).run()
    assert (folder / "log.csv").read_text() == expected


@pytest.mark.parametrize("options", [{}, {"update_freq": 2, "histogram_freq": 1, "write_images": True}], ids=str)
def test_tensorboard_has_one_curve(tmp_path: Path, options: Any) -> None:
    def make(folder: Path) -> list[Any]:
        return [C.TensorBoard(str(folder), **options)]

    Training(make(tmp_path / "one")).run()
    killed_and_gone_on(make, tmp_path / "other", commit_at=10, killed_at=19)
    expected, found = events(tmp_path / "one"), events(tmp_path / "other")
    assert {("epoch_loss", 0), ("epoch_loss", EPOCHS - 1), ("epoch_learning_rate", 2)} <= {key[:2] for key in expected}
    assert found == expected
    if options:
        assert ("batch_loss", 12) in {key[:2] for key in found}
        assert any(tag.endswith("histogram") for tag, _, _ in found)
    # A start from nothing in the same folder is a new curve, of the same job.
    Training(make(tmp_path / "other")).run(5)
    assert ("epoch_loss", 1) not in {key[:2] for key in events(tmp_path / "other")}


@pytest.mark.parametrize("swap_on_epoch", [pytest.param(False, marks=pytest.mark.soak), True])
def test_swapped_averages_survive(tmp_path: Path, swap_on_epoch: bool) -> None:
    def make(folder: Path) -> list[Any]:
        return [C.SwapEMAWeights(swap_on_epoch)]

    def model() -> keras.Model:
        return make_model(use_ema=True, ema_momentum=0.8)

    undisturbed = Training(make(tmp_path), model=model()).run()
    for commit_at in (8, 10):
        gone_on = killed_and_gone_on(make, tmp_path, commit_at=commit_at, killed_at=13, model=model)
        for one, other in zip(undisturbed.commit()[1], gone_on.commit()[1], strict=True):
            assert np.array_equal(one, other)
    expected = fit(make(tmp_path), model())
    for one, other in zip(undisturbed.weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("swapping", [False, True])
def test_the_best_weights_of_an_optimizer_that_averages_are_the_averages(swapping: bool) -> None:
    momentum = 0.7
    raw: list[list[np.ndarray]] = []
    losses: list[float] = []

    class Noting(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            raw.append([keras.ops.convert_to_numpy(variable) for variable in self.model.trainable_variables])

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            losses.append(logs["val_loss"])

    early = C.EarlyStopping("val_loss", patience=1, restore_best_weights=True, min_delta=0.02)
    swap = [C.SwapEMAWeights(swap_on_epoch=True)] if swapping else []
    training = Training([Noting(), *swap, early], model=make_model(use_ema=True, ema_momentum=momentum)).run()
    assert training.step < STEPS
    average = raw[0]
    for weights in raw[1 : (early.best_epoch + 1) * STEPS_PER_EPOCH]:
        average = [momentum * old + (1 - momentum) * new for old, new in zip(average, weights, strict=True)]
    assert 0 < early.best_epoch < early.stopped_epoch
    for one, other in zip(training.model.trainable_variables, average, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(one), other, rtol=1e-4, atol=1e-6)


def test_a_job_whose_loss_is_no_number_has_not_succeeded() -> None:
    training = Training([C.TerminateOnNaN()])
    training.y[20] = np.nan
    with pytest.raises(Diverged, match="the loss is nan after step 2"):
        training.run()
    assert training.step == 2


def test_backups_are_orchs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Training([C.BackupAndRestore(str(tmp_path / "backup"), save_freq=1)]).run()
    assert not (tmp_path / "backup").exists()
    assert [record.message for record in caplog.records if "BackupAndRestore is not called" in record.message]


def test_other_workers_write_and_print_nothing_and_decide_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def make(folder: Path) -> list[Any]:
        return [
            *stock(folder), *scheduled(folder), C.TensorBoard(str(folder / "tensorboard")), OwnTable(str(folder / "own.csv")),
        ]  # fmt: skip

    class OwnTable(keras.callbacks.CSVLogger):
        """Writes, and acts on training too."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, logs)
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) * 0.9

    chief, other = tmp_path / "chief", tmp_path / "other"
    chief.mkdir()
    other.mkdir()
    capfd.readouterr()
    one = Training(make(chief)).run()
    assert "LearningRateScheduler setting" in capfd.readouterr().out
    two = Training(make(other), chief=False).run()
    assert capfd.readouterr().out == ""
    assert list(other.iterdir()) == []
    assert {"log.csv", "own.csv", "best.weights.h5", "tensorboard"} <= {path.name for path in chief.iterdir()}
    assert one.step == two.step
    for first, second in zip(one.commit()[1], two.commit()[1], strict=True):
        assert np.array_equal(first, second)


def test_what_a_stop_left_undone_is_called_after_the_next_start() -> None:
    """A stop before the evaluation of an epoch: its hooks come after the restart, with the epoch's metrics."""
    first = Recording()
    training = Training([first])
    training.hooks.begin()
    for step in range(STEPS_PER_EPOCH):
        training.hooks.batch_begin(step)
        training.hooks.batch_end(step + 1, {"loss": 10.0 - step})
    blobs = training.hooks.state()
    second = Recording()
    hooks = Hooks([second], make_model(), Calendar(BATCH * STEPS_PER_EPOCH, BATCH), STEPS)
    hooks.restore(blobs)
    hooks.begin()
    begun = len(second.calls)
    assert hooks.block_done(STEPS_PER_EPOCH, {"val_loss": 1.0})
    assert second.calls[begun:] == [("on_epoch_end", (0, {"loss": 7.0, "val_loss": 1.0}), {})]
    assert not hooks.block_done(STEPS_PER_EPOCH, {"val_loss": 1.0})


def test_settings_that_the_user_changes_between_two_starts_count() -> None:
    first = Training([C.ReduceLROnPlateau("loss", patience=9), C.History()]).run(9)
    changed = C.ReduceLROnPlateau("loss", patience=2)
    Training([WarmUp(), changed]).go_on_from(first.commit()).run(10)
    assert changed.patience == 2
    assert changed.wait == first.callbacks[0].wait


def test_one_warning_names_what_no_checkpoint_can_keep(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    class Printing(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.file = (tmp_path / "x").open("a")

        def on_train_end(self, logs: Any = None) -> None:
            self.file.close()

    training = Training([Printing(), *stock(tmp_path)]).run(4)
    training.hooks.state()
    training.on()
    said = [record.message for record in caplog.records if "no checkpoint can keep" in record.message]
    assert len(said) == 1
    assert said[0].endswith(": Printing.file (TextIOWrapper)")
