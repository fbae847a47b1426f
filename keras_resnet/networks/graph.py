"""Walk and rebuild the graphs of models.

A rebuilt model shares no operations with the given one, whose graph stays unchanged.
"""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers
from keras.src.models.functional import Functional

Replacement = tuple[Callable[..., Any], list[Any]]
"""a function to call instead of an operation, and the weights to set on it once it is built"""


def rebuild(model: keras.Model, replace: Callable[[Any, str], Replacement]) -> keras.Model:
    """Build a new model from the graph of a model, replacing every operation.

    Nested models are inlined. A layer that is called several times is replaced once.

    Args:
        model: a Functional or Sequential model.
        replace: returns the replacement for an operation, given the operation and a name that is
            unique in the new model.

    Raises:
        ValueError: the model is neither, or is not built.
    """
    graph = graph_of(model)
    if graph is None:
        raise ValueError(f"{model.name} is not a built Functional or Sequential model")
    replacements: dict[int, Replacement] = {}
    names: set[str] = set()

    def replacement(operation: Any) -> Any:
        if graph_of(operation) is not None:
            return operation
        if id(operation) not in replacements:
            name = unused_name(operation.name, names)
            names.add(name)
            replacements[id(operation)] = replace(operation, name)
        return replacements[id(operation)][0]

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        nested = graph_of(operation)
        if "training" in kwargs:
            # The new model is for inference. `predict` overrides the argument, too.
            kwargs["training"] = False
        if nested is None:
            return operation(*args, **kwargs)
        return nested._run_through_graph(args[0], operation_fn=replacement, call_fn=call)

    def new_input(tensor: Any) -> Any:
        names.add(tensor.name)
        dtype = "float32" if keras.backend.is_float_dtype(tensor.dtype) else tensor.dtype
        return keras.Input(batch_shape=(None, *tensor.shape[1:]), dtype=dtype, name=tensor.name)

    with deep_recursion(sum(1 for _ in model._flatten_layers())):
        inputs = keras.tree.map_structure(new_input, graph.input)
        outputs = graph._run_through_graph(inputs, operation_fn=replacement, call_fn=call)
        rebuilt = keras.Model(inputs, outputs, name=model.name)
    for layer, weights in replacements.values():
        if weights:
            _set_weights(layer, weights)
    return rebuilt


def _set_weights(layer: layers.Layer, weights: list[Any]) -> None:
    try:
        layer.set_weights(weights)
    except ValueError as error:
        raise ValueError(
            f"layer {layer.name} is a {type(layer).__name__} whose copy from `get_config()` has"
            " different weights"
        ) from error
    for part in layer._flatten_layers():
        if isinstance(part, layers.Normalization):
            part.finalize_state()


def graph_of(operation: Any) -> Any:
    """Return the graph of a Functional or Sequential model, or None for any other operation."""
    if isinstance(operation, keras.Sequential):
        return operation._functional if type(operation).call is keras.Sequential.call else None
    if isinstance(operation, Functional):
        return operation if type(operation).call is Functional.call else None
    return None


def is_layer(operation: Any, *kinds: Any) -> bool:
    """Return whether an operation is a layer of one of these classes that keeps their `call`."""
    return any(isinstance(operation, k) and type(operation).call is k.call for k in kinds)


def operation_of(tensor: Any) -> Any:
    """Return the layer or operation that computes a tensor."""
    return tensor._keras_history.operation


def input_of(tensor: Any) -> Any:
    """Return the first input of the operation that computes a tensor."""
    operation, node, _ = tensor._keras_history
    return operation._inbound_nodes[node].input_tensors[0]


def unused_name(name: str, names: set[str]) -> str:
    """Return the name, with a number appended if it is in `names`."""
    return next(
        candidate
        for candidate in itertools.chain([name], (f"{name}_{i}" for i in itertools.count(1)))
        if candidate not in names
    )


@contextlib.contextmanager
def deep_recursion(depth: int) -> Iterator[None]:
    """Raise Python's recursion limit for a network of `depth` layers.

    Keras walks the graph of a new model recursively, with at least one call per layer. ResNet-1202
    exceeds Python's default limit.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 1000 + 10 * depth))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
