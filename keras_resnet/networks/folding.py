"""Fold batch norm for inference."""

from typing import Any

import keras
import numpy as np
from keras import layers

from .float32 import UncopiedLayer, in_float32
from .graph import Replacement, is_layer, operation_of, rebuild


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Fold batch norm into the preceding layers: at inference it is a constant scale and shift.

    A batch norm is folded into a kernel and bias if it is the only reader of a convolution or dense
    layer. Any other becomes one `Rescaling`. The new model has no nested models, computes in
    float32, is for inference only, and has the same outputs up to rounding.

    Args:
        model: a Functional or Sequential model, with or without nested models.

    Raises:
        ValueError: a layer cannot be copied, or the model is neither Functional nor Sequential.
    """
    flat = rebuild(model, in_float32)
    for layer in flat.layers:
        if isinstance(layer, UncopiedLayer):
            raise ValueError(
                f"layer {layer.layer.name} of {model.name} is a {type(layer.layer).__name__}, which"
                " cannot be copied from its `get_config()`"
            )
    folded = _foldable(flat)
    norms = {layer: norm for norm, layer in folded.items()}

    def replace(operation: Any, name: str) -> Replacement:
        if operation in folded:
            return (lambda x, **_: x), []
        if is_layer(operation, layers.BatchNormalization):
            scale, shift = (_along_axis(operation, v) for v in _scale_and_shift(operation))
            rescaling = layers.Rescaling(scale.tolist(), shift.tolist(), dtype="float32", name=name)
            return (lambda x, **_: rescaling(x)), []  # Rescaling takes no mask
        if operation not in norms:
            return in_float32(operation, name)
        scale, shift = _scale_and_shift(norms[operation])
        *kernels, bias = [w.astype(np.float64) for w in operation.get_weights()] + [0.0] * (
            not operation.use_bias
        )
        # The outputs are the last axis of the last kernel; of a depthwise one, [.., C, multiplier].
        outputs = kernels[-1].shape[-2:] if is_layer(operation, layers.DepthwiseConv2D) else (-1,)
        kernels[-1] = kernels[-1] * scale.reshape(outputs)
        config = operation.get_config() | {"use_bias": True, "name": name}
        return type(operation).from_config(config), [*kernels, bias * scale + shift]

    return rebuild(flat, replace)


_FOLD_INTO = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)


def _foldable(model: keras.Model) -> dict[Any, Any]:
    """Map each batch norm that can be folded to the layer whose output it alone reads."""
    outputs = {id(tensor) for tensor in keras.tree.flatten(model.outputs)}
    foldable = {}
    for norm in model.layers:
        if not is_layer(norm, layers.BatchNormalization) or len(norm._inbound_nodes) != 1:
            continue
        layer = operation_of(norm.input)
        if (
            is_layer(layer, *_FOLD_INTO)
            and layer.activation is keras.activations.linear
            and getattr(layer, "data_format", "channels_last") == "channels_last"
            # More weights would belong to an adapter (LoRA) or a quantized kernel.
            and len(layer.weights) == 1 + is_layer(layer, layers.SeparableConv2D) + layer.use_bias
            and _axis(norm) == len(norm.input.shape) - 1
            and len(layer._inbound_nodes) == 1
            and len(layer._outbound_nodes) == 1
            and id(norm.input) not in outputs
        ):
            foldable[norm] = layer
    return foldable


def _axis(norm: layers.BatchNormalization) -> int:
    axis = norm.axis[0] if isinstance(norm.axis, (list, tuple)) else norm.axis
    return axis % len(norm.input.shape)


def _along_axis(norm: layers.BatchNormalization, values: np.ndarray) -> np.ndarray:
    """Reshape `[C]` to broadcast along a batch norm's axis; unchanged if that is the last."""
    return values.reshape([-1] + [1] * (len(norm.input.shape) - 1 - _axis(norm)))


def _scale_and_shift(norm: layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch norm at inference as a scale and a shift, `[C]` each, in float64."""
    mean, variance = (np.asarray(v, np.float64) for v in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, np.float64)
    shift = -mean * scale
    if norm.center:
        shift = shift + np.asarray(norm.beta, np.float64)
    return scale, shift
