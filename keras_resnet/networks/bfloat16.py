"""Convert models to bfloat16."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from .float32 import UncopiedLayer, in_float32
from .graph import Replacement, rebuild


def bfloat16_copy(model: keras.Model) -> keras.Model:
    """Return a copy of a model that computes images in bfloat16 and rows of numbers in float32.

    A layer computes in float32 if its output is one row per image, `[N, C]` or `[N, 1, 1, C]`:
    logits in bfloat16, which has 8 significant bits, would often tie. Weights are converted to the
    type of their layer.

    Args:
        model: a Functional or Sequential model of images `[N, H, W, C]`.

    Raises:
        ValueError: the model is neither, or a layer cannot be copied.
    """

    def replace(operation: Any, name: str) -> Replacement:
        copied, weights = in_float32(operation, name)
        if isinstance(copied, UncopiedLayer):
            raise ValueError(
                f"layer {operation.name} of {model.name} is a {type(operation).__name__}, which"
                " cannot be copied to bfloat16; export the model in float32"
            )
        if isinstance(copied, layers.Layer) and not _gives_rows(operation):
            copied.dtype_policy = "bfloat16"
        return copied, weights

    return rebuild(model, replace)


def stored_in_bfloat16(
    model: keras.Model,
) -> tuple[Callable[[tf.Tensor], Any], dict[str, tf.Variable]]:
    """Return a model as a function that reads weights of bfloat16, each stored once.

    Args:
        model: a model, usually a `bfloat16_copy`. The function does not use its variables. Weights
            of layers that compute in float32 are converted in the graph.

    Returns:
        The function, and its weights by the path of the model's.
    """
    stored = [
        tf.Variable(tf.cast(weight.value, "bfloat16") if weight.dtype == "float32" else weight)
        for weight in model.weights
    ]

    def run(images: tf.Tensor) -> Any:
        with keras.StatelessScope(list(zip(model.weights, stored, strict=True))):
            return model(images, training=False)

    return run, {w.path: own for w, own in zip(model.weights, stored, strict=True)}


def _gives_rows(operation: Any) -> bool:
    """Return whether the outputs of an operation have no height and width, or both are 1."""
    outputs = [tensor for node in operation._inbound_nodes for tensor in node.output_tensors]
    return all(side == 1 for tensor in outputs for side in tensor.shape[1:-1])
