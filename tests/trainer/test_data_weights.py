"""train.class_weight: the weights that Keras' `fit` gives."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from trainer.config import TrainSection
from trainer.data.sources import source_of
from trainer.errors import ConfigError

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
weights = pytest.importorskip("trainer.data.weights")
X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
LABELS = np.arange(24) % 4
CLASS_WEIGHT = {0: 0.25, 2: 3.0}
EXPECTED = np.array([0.25, 1, 3, 1] * 6, "float32")
MODEL = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])


def weighted(data: Any, model: Any = MODEL) -> Any:
    return weights.weighted(source_of(data, lambda: data, "train_data", model=model), CLASS_WEIGHT, "train_data")


@pytest.mark.parametrize(
    "labels",
    [LABELS, LABELS[:, None], LABELS.astype("float32"), np.eye(4, dtype="float32")[LABELS]],
    ids=["numbers", "column", "floats", "one-hot"],
)
def test_each_example_has_the_weight_of_its_class(labels: Any) -> None:
    assert np.array_equal(weighted((X, labels)).rows(np.arange(24))[2], EXPECTED)
    slices = tf.data.Dataset.from_tensor_slices((X, labels))
    for data in (slices, slices.batch(24), lambda: zip(X, labels, strict=True), lambda: iter([(X, labels)])):
        found = weighted(data)
        batch = next(found.batches(0) if type(found).__name__ == "BatchSource" else found.batches(24, 0))
        assert np.array_equal(batch[2], EXPECTED)
        assert batch[2].dtype == np.float32
        assert len(found.sample(2)) == 3


def test_weights_of_pixels_are_those_that_fit_makes_of_a_dataset() -> None:
    masks = np.random.default_rng(1).integers(0, 4, (6, 2, 2))
    for data in ((X[:6], masks[..., None]), tf.data.Dataset.from_tensor_slices((X[:6], masks[..., None])).batch(6)):
        assert np.array_equal(weighted(data).sample(6)[2], np.array([0.25, 1, 3, 1], "float32")[masks])


@pytest.mark.parametrize("one_hot", [False, True])
def test_training_on_them_is_fit_with_class_weight(one_hot: bool) -> None:
    labels = np.eye(4, dtype="float32")[LABELS] if one_hot else LABELS
    loss = ("" if one_hot else "sparse_") + "categorical_crossentropy"

    def trained(*data: Any, **options: Any) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "softmax")])
        model.compile(keras.optimizers.SGD(0.5), loss)
        model.fit(*data, batch_size=8, epochs=3, shuffle=False, verbose=0, **options)
        return model.get_weights()  # type: ignore[no-any-return]

    x, y, sample_weight = weighted((X, labels)).arrays
    expected = trained(X, labels, class_weight=CLASS_WEIGHT)
    for one, other in zip(trained(x, y, sample_weight=sample_weight), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "data, said",
    [
        ((X, LABELS, np.ones(24)), "gives sample_weight"),
        ((X, {"a": LABELS, "b": LABELS}), "several outputs"),
        ((X,), "no labels"),
        ((X, LABELS.astype(str)), "labels of another kind"),
    ],
)
def test_what_keras_refuses_is_refused_with_its_reason(data: Any, said: str) -> None:
    for form in (data, tf.data.Dataset.from_tensor_slices(data)):
        with pytest.raises(ConfigError, match=said):
            weighted(form)


def test_class_numbers_may_be_text_as_json_has_them() -> None:
    train = {"task": "a:B", "steps": 1}
    section = TrainSection.model_validate(train | {"class_weight": {"0": 0.5, "3": 2}})
    assert section.class_weight == {0: 0.5, 3: 2.0}
    assert TrainSection.model_validate_json(section.model_dump_json()) == section
    for wrong in ({"cat": 1.0}, {0: -1.0}, {0: "much"}, {}):
        with pytest.raises(ValidationError):
            TrainSection.model_validate(train | {"class_weight": wrong})
