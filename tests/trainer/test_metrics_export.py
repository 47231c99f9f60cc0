"""What a run leaves behind beside checkpoints: event files and the exported model, on a local path and on GCS."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support_mounts import small_disk

from trainer.errors import SaveRefused
from trainer.export.exporter import export_model
from trainer.process.tensorboard import TensorBoard
from trainer.rundir.open import open_store

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")


def test_scalars_are_found_in_the_event_file(run_url: str, tmp_path: Path) -> None:
    store = open_store(run_url)
    board = TensorBoard(store, 3)
    board.scalars(10, {"loss": 0.5, "accuracy": 0.75})
    board.scalars(20, {"loss": float("nan")})
    board.close()
    (entry,) = store.list("tensorboard/attempt-3/")
    path = tmp_path / "events"
    path.write_bytes(store.get(entry.name))
    events = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    found = [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]
    assert found[:2] == [(10, "loss", 0.5), (10, "accuracy", 0.75)]
    assert np.isnan(found[2][2])


def test_the_exported_model_predicts_as_the_trained_one(run_url: str, tmp_path: Path) -> None:
    store = open_store(run_url)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])

    class OwnLoss(keras.losses.Loss):
        """Keras can write it, but only who has this class can read it."""

        def call(self, y_true: object, y_pred: object) -> object:
            return y_pred

    for attempt, loss in enumerate(("mse", OwnLoss(), lambda y_true, y_pred: y_pred), 1):
        model.compile("adam", loss)
        where = export_model(model, store, attempt)
        assert where == f"{run_url}/export/attempt-{attempt}/model.keras"
        path = tmp_path / f"{attempt}.keras"
        path.write_bytes(store.get(f"export/attempt-{attempt}/model.keras"))
        loaded = keras.models.load_model(path, compile=attempt == 1)
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
        assert model.compiled
    assert export_model(model, store, 1)  # the same name again: the answer to an earlier try was lost


def test_events_that_cannot_be_written_never_end_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "run") as disk:
        disk.fill()
        board = TensorBoard(open_store(str(tmp_path / "run")), 1)
        board.scalars(10, {"loss": 0.5})
        board._waiting.join()
        disk.free()
        monkeypatch.setattr("trainer.process.tensorboard.AGAIN_S", 0.0)
        for step in range(20, 30):
            board.scalars(step, {"loss": 0.25})
        board._waiting.join()
        disk.fill()
        for step in range(30, 500):
            board.scalars(step, {"loss": 0.25})
        board._waiting.join()
        disk.free()
        board.scalars(1000, {"loss": 0.125})
        board.close()
        found = []
        for path in sorted((tmp_path / "run/tensorboard/attempt-1").iterdir()):
            try:
                for record in tf.data.TFRecordDataset(str(path)):
                    found.append(tf.compat.v1.Event.FromString(record.numpy()).step)
            except tf.errors.DataLossError:
                pass  # the end of a file that was full
        assert {20, 29, 1000} <= set(found)


def test_an_export_waits_for_room_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(300)])
    with small_disk(tmp_path / "disk") as disk:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "disk"))
        disk.fill()
        with pytest.raises(SaveRefused, match="Free space in"):
            export_model(model, open_store(str(tmp_path / "run")), 1)
        threading.Timer(1.0, disk.free).start()
        where = export_model(model, open_store(str(tmp_path / "run")), 1, patience_s=30)
        assert [path.name for path in (tmp_path / "disk").iterdir()] == []
    assert Path(where).stat().st_size > 300 * 300 * 4


def test_an_export_waits_for_its_store_and_says_what_is_lost(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    began = time.monotonic()
    with pytest.raises(SaveRefused, match="The last checkpoint is saved: start again"):
        export_model(model, open_store(str(tmp_path / "run")), 1, patience_s=0.7)
    assert time.monotonic() - began >= 0.5
