"""Find the feature maps and the weights of class activation maps (Zhou et al. 2016).

*Learning Deep Features for Discriminative Localization*, arXiv:1512.04150, section 2.
"""

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from .graph import deep_recursion, input_of, is_layer, operation_of
from .logits import before_reshaping

MAPS = "maps"
"""the name of the output of the last feature maps"""


def with_maps(network: keras.Model) -> keras.Model:
    """Add the last feature maps, `[N, h, w, C]`, to the outputs of a network.

    Args:
        network: a model with a dict of outputs, of which "logits" are those of a dense layer on the
            global average of the maps.

    Raises:
        ValueError: the network ends in other layers.
    """
    pooled = before_reshaping(input_of(_of_dense(network)))
    pool = operation_of(pooled)
    if not is_layer(pool, layers.GlobalAveragePooling2D) or pool.data_format != "channels_last":
        raise _refusal(network, f"its dense layer reads a {type(pool).__name__}")
    with deep_recursion(len(network.layers)):
        outputs = {**network.output, MAPS: input_of(pooled)}
        return keras.Model(network.inputs[0], outputs, name=network.name)


def activation_map(maps: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Return the class activation map of one class per image.

    The mean of a map and the bias of its class are the logit of the class.

    Args:
        maps: the last feature maps, `[N, h, w, C]`.
        weights: the weights of a class in the last dense layer, `[N, C]`.

    Returns:
        `[N, h, w]`.
    """
    return tf.einsum("nhwc,nc->nhw", maps, weights)


def classifier_of(network: keras.Model) -> layers.Dense:
    """Return the dense layer that gives the logits of a network `with_maps`.

    Args:
        network: the network.

    Raises:
        ValueError: the logits come from another layer.
    """
    return operation_of(_of_dense(network))


def _of_dense(network: keras.Model) -> Any:
    """Return the output of the dense layer of a network."""
    logits = before_reshaping(network.output["logits"])
    last = operation_of(logits)
    if not is_layer(last, layers.Dense) or last.activation is not keras.activations.linear:
        raise _refusal(network, f"its logits come from a {type(last).__name__}")
    return logits


def _refusal(network: keras.Model, reason: str) -> ValueError:
    return ValueError(
        f"heat_map is True; {network.name} has no class activation map, because {reason}: give a"
        " network that ends in global average pooling and one dense layer"
    )
