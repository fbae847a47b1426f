"""A trained network as it is served: batch norm is arithmetic on constants, so it is done once, beforehand."""

from typing import Any

import keras
import numpy as np
from keras import layers

from .model import deep_recursion


def fold(model: keras.Model) -> keras.Model:
    """The same function in float32 with fewer steps: a functional model of stock layers, for inference only.

    A batch norm that directly and alone follows a convolution is folded into its kernel and bias; any other becomes one
    scale and shift (`Rescaling`). Outputs differ from the model's by rounding.
    """
    folded = _folded(model)
    norms = {convolution: norm for norm, convolution in folded.items()}
    stand_ins: dict[Any, Any] = {}

    def stand_in(operation: Any) -> Any:
        if not isinstance(operation, layers.Layer):
            return operation  # such as ops.pad, which has no weights
        if isinstance(operation, layers.BatchNormalization):
            scale, shift = _scale_and_shift(operation)
            return layers.Rescaling(scale.tolist(), shift.tolist(), name=operation.name)
        config = operation.get_config() | {"dtype": "float32"}
        if operation in norms:
            config["use_bias"] = True
        stand_ins[operation] = type(operation).from_config(config)
        return stand_ins[operation]

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation.name in gone:
            return args[0]
        if isinstance(operation, layers.Rescaling):
            return operation(args[0])  # without the mask that batch norm takes
        return operation(*args, **kwargs)

    gone = {norm.name for norm in folded}
    with deep_recursion(len(model.layers)):
        clone = keras.models.clone_model(model, clone_function=stand_in, call_function=call)
    for layer, replacement in stand_ins.items():
        weights = layer.get_weights()
        if layer in norms:
            scale, shift = _scale_and_shift(norms[layer])
            kernel, *bias = (weight.astype(np.float64) for weight in weights)
            weights = [kernel * scale, (bias[0] if bias else 0.0) * scale + shift]
        replacement.set_weights(weights)
    return clone


def _folded(model: keras.Model) -> dict[layers.Layer, layers.Layer]:
    """The batch norms that can go, each with the convolution that it directly and alone follows."""
    outputs = {id(tensor) for tensor in keras.tree.flatten(model.outputs)}
    found = {}
    for layer in model.layers:
        if not isinstance(layer, layers.BatchNormalization) or len(layer._inbound_nodes) != 1:
            continue
        tensor = layer.input
        before, _, _ = tensor._keras_history
        if (
            type(before) is layers.Conv2D
            and before.activation is keras.activations.linear
            and before.data_format == "channels_last"
            and list(layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]) in ([-1], [3])
            and len(before._inbound_nodes) == 1
            and len(before._outbound_nodes) == 1
            and id(tensor) not in outputs
        ):
            found[layer] = before
    return found


def _scale_and_shift(norm: layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """`[C]` each, in float64."""
    mean, variance = (np.asarray(v, np.float64) for v in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, np.float64)
    shift = -mean * scale
    if norm.center:
        shift = shift + np.asarray(norm.beta, np.float64)
    return scale, shift
