"""Whether the elements of a dataset or a generator are batches, as Keras' `fit` takes them, or single examples.

The model's declared inputs tell; where it has none, the dataset's own build-up and the shapes of its first element.
"""

import logging
from typing import Any

from trainer.data.elements import DatasetElements, Elements

log = logging.getLogger(__name__)

Shape = tuple[int | None, ...]

_EXACT, _BY_A_DIMENSION, _NOT = 2, 1, 0


def elements_are_batches(elements: Elements, model: Any, said: bool | None) -> bool:
    """Whether they are batches.

    Args:
        model: the model, or None.
        said: what the task says, which settles it.
    """
    if said is not None:
        return said
    built_by_batch = isinstance(elements, DatasetElements) and ends_in_batches(elements.dataset)
    element = elements.first()
    as_example, as_batch = fit(element, model)
    if built_by_batch and (as_batch or not as_example):
        return True
    if as_example != as_batch:
        return as_batch > as_example
    batches = _look_like_batches(element)
    log.info(
        "%s: the model does not declare its inputs, so that its elements are taken as %s; "
        "`batched = %s` in the task says otherwise",
        elements.what,
        "batches, since all their arrays begin with the same dimension" if batches else "single examples",
        not batches,
    )
    return batches


def ends_in_batches(dataset: Any) -> bool:
    """Whether a tf.data.Dataset was batched, and not taken apart again, as far as its transformations tell."""
    kind = type(dataset).__name__
    if any(name in kind for name in ("Unbatch", "FlatMap", "Interleave", "Generator", "Window")):
        return False
    if "Batch" in kind:
        return True
    inputs = dataset._inputs() if hasattr(dataset, "_inputs") else []
    return bool(inputs) and all(ends_in_batches(each) for each in inputs)


def fit(element: Any, model: Any) -> tuple[int, int]:
    """How well the inputs of an element fit the model's as one example, and as a batch."""
    pairs = _pairs(_inputs_of(element), model)
    if not pairs:
        return _NOT, _NOT
    return (
        min(_fit(shape, wanted) for shape, wanted in pairs),
        min(_fit(shape[1:], wanted) if shape else _NOT for shape, wanted in pairs),
    )


def _fit(shape: Shape, wanted: Shape) -> int:
    if _agree(shape, wanted):
        return _EXACT
    # Keras adds or removes a last dimension of 1.
    if _agree(shape, wanted[:-1]) and wanted[-1:] == (1,):
        return _BY_A_DIMENSION
    return _BY_A_DIMENSION if _agree(shape[:-1], wanted) and shape[-1:] == (1,) else _NOT


def _agree(shape: Shape, wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(
        one is None or other is None or one == other for one, other in zip(shape, wanted, strict=True)
    )


def _pairs(inputs: Any, model: Any) -> list[tuple[Shape, Shape]]:
    """The shapes of an element's inputs beside those that the model declares, without the batch's dimension."""
    import keras

    try:
        declared = list(model.inputs)
    except (AttributeError, TypeError, ValueError):
        return []
    functional = getattr(model, "_functional", None) or model
    structure = getattr(functional, "_inputs_struct", declared)
    if isinstance(inputs, dict):
        by_name = structure if isinstance(structure, dict) else {tensor.name: tensor for tensor in declared}
        found = [(leaf, by_name[name]) for name, leaf in inputs.items() if name in by_name]
    else:
        leaves = keras.tree.flatten(inputs)
        wanted = keras.tree.flatten(structure)
        found = list(zip(leaves, wanted, strict=True)) if len(leaves) == len(wanted) else []
    return [(_shape(leaf), tuple(tensor.shape[1:])) for leaf, tensor in found]


def _inputs_of(element: Any) -> Any:
    return element[0] if isinstance(element, tuple | list) and element else element


def _shape(leaf: Any) -> Shape:
    import numpy as np

    shape = getattr(leaf, "shape", None)
    return tuple(np.shape(leaf) if shape is None else shape)


def _look_like_batches(element: Any) -> bool:
    import keras

    leaves = [leaf for leaf in keras.tree.flatten(element) if leaf is not None]
    leading = {_shape(leaf)[:1] for leaf in leaves}
    return len(leaves) > 1 and len(leading) == 1 and () not in leading
