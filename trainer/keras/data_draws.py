"""Draws within a tf.data.Dataset that a restart does not repeat: known from its functions, without reading it."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

_DRAWS = frozenset(
    {
        "Multinomial",
        "ParameterizedTruncatedNormal",
        "RandomGamma",
        "RandomPoissonV2",
        "RandomShuffle",
        "RandomStandardNormal",
        "RandomUniform",
        "RandomUniformInt",
        "SampleDistortedBoundingBoxV2",
        "TruncatedNormal",
    }
)
"""Operations of TensorFlow that draw by a state of their own, which begins anew with each iterator."""
_KEEPS_STATE = ("AssignVariableOp", "AssignAddVariableOp", "RngReadAndSkip", "RngSkip", "Stateful")


def unrepeatable(dataset: Any) -> Iterator[str]:
    """Sentences for a person: what is drawn, and what to do. One of each kind at most."""
    found = {kind for node in _nodes(dataset) for kind in _kinds(node)}
    if "unseeded" in found:
        yield (
            "the dataset draws without a seed (tf.random or tf.image within its map), so each start draws anew, and a run "
            "that was killed ends with other weights than one that was not. Call keras.utils.set_random_seed at the script's top"
        )
    if "state" in found:
        yield (
            "the dataset draws by a layer or generator that remembers how often it drew, and it is read ahead of training: after "
            "a restart it draws anew. Make the layer a part of the model, or draw by the example: tf.image.stateless_random_*"
        )
    if "at once" in found:
        yield (
            "the dataset draws in several calls at once (num_parallel_calls), and which example gets which draw is chance. Draw "
            "by the example, tf.image.stateless_random_*, or map without num_parallel_calls"
        )


def _kinds(node: Any) -> Iterator[str]:
    parallel = getattr(node, "_num_parallel_calls", None) is not None
    for wrapped in node._functions():
        for operation in _operations(wrapped.function):
            if operation.op in _DRAWS:
                if not (operation.attr["seed"].i or operation.attr["seed2"].i):
                    yield "unseeded"
                elif parallel:
                    yield "at once"
            elif operation.op.startswith(_KEEPS_STATE):
                yield "state"


def _operations(function: Any) -> Iterator[Any]:
    """Those of a function and of all functions within it, as NodeDef."""
    graph = function.graph.as_graph_def()
    yield from graph.node
    for within in graph.library.function:
        yield from within.node_def


def _nodes(dataset: Any) -> Iterator[Any]:
    """The dataset and all it is made from."""
    if isinstance(dataset, tf.data.Dataset):
        yield dataset
        for made_from in dataset._inputs():
            yield from _nodes(made_from)
