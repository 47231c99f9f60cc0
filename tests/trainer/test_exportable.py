"""Which models can be exported whole is known before training, and asking costs training nothing."""

import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.export import exportable
from trainer.export.exportable import Form, form_of


class WithArguments(keras.Model):  # type: ignore[misc]
    def __init__(self, units: int) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(units)

    def call(self, x: Any) -> Any:
        return self.hidden(x)


@keras.saving.register_keras_serializable("tests")
class WithConfig(WithArguments):
    def get_config(self) -> dict[str, Any]:
        return {"units": self.hidden.units}


@keras.saving.register_keras_serializable("tests")
class Forgets(WithArguments):
    """What is read again is a smaller model: its configuration tells too little."""

    def __init__(self, units: int = 2) -> None:
        super().__init__(units)

    def get_config(self) -> dict[str, Any]:
        return {}


def _built(model: Any) -> Any:
    model(np.zeros((2, 3), "float32"))
    return model


def _plain() -> Any:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (_plain, Form("model")),
        (lambda: _built(WithConfig(4)), Form("model", own_classes=True)),
        (lambda: keras.Sequential([keras.Input((3,)), WithConfig(4)]), Form("model", own_classes=True)),
    ],
)
def test_a_model_that_can_be_read_again_is_exported_whole(make: Any, form: Form) -> None:
    assert form_of(make()) == form


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: _built(WithArguments(4)), "get_config()"),
        (lambda: _built(Forgets(4)), "get_config()"),
        (lambda: keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x * 2)]), "keras.Layer"),
    ],
    ids=["no get_config", "forgets", "lambda"],
)
def test_any_other_is_exported_as_weights_with_one_warning(
    make: Any, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    form = form_of(make())
    assert form.kind == "weights"
    assert form.why
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert remedy in warnings[0]


@pytest.mark.parametrize("module", ["__main__", __name__])
def test_a_class_that_is_not_registered_is_not_found_again(module: str, caplog: pytest.LogCaptureFixture) -> None:
    made = type("Net", (WithConfig,), {"__module__": module})
    assert form_of(_built(made(4))).kind == "weights"
    assert "register_keras_serializable" in caplog.text
    keras.saving.register_keras_serializable("tests", f"Net of {module}")(made)
    assert form_of(_built(made(4))) == Form("model", own_classes=True)


def test_a_large_model_is_not_written_to_see(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(exportable, "TRIED_BYTES_MAX", 10)
    monkeypatch.setattr(keras.Model, "save", lambda *_: pytest.fail("it was written"))
    assert form_of(_plain()) == Form("model")
    assert form_of(_built(WithConfig(4))) == Form("model", own_classes=True)
    assert form_of(_built(WithArguments(4))).kind == "weights"


def test_asking_leaves_model_and_random_states_as_they_were() -> None:
    def draw() -> list[Any]:
        return [
            random.random(),
            np.random.random(),
            float(tf.random.uniform([])),
            keras.random.uniform((2,)).numpy().tolist(),
            keras.layers.Dense(3).build((None, 2)),
            keras.layers.Dropout(0.5).seed_generator.state.numpy().tolist(),
        ]

    keras.utils.set_random_seed(7)
    model = _plain()
    model.compile("adam", "mse", metrics=["mae"])
    weights = model.get_weights()
    expected = draw()
    keras.utils.set_random_seed(7)
    again = _plain()
    again.compile("adam", "mse", metrics=["mae"])
    form_of(again)
    for one, other in zip(weights, again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert draw() == expected
    assert again.compiled
