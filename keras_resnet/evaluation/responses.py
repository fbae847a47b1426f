"""Measure layer responses: Figure 7 of the paper (section 4.2, "Analysis of Layer Responses")."""

from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from ..networks.graph import deep_recursion
from ..networks.spec import ResNetSpec


def layer_responses(
    model: keras.Model, spec: ResNetSpec, batches: Iterable[np.ndarray]
) -> list[tuple[str, float]]:
    """Return the standard deviation of each 3x3 convolution's response, in the order of the layers.

    A response is the output of a convolution "after BN and before other nonlinearity (ReLU/
    addition)". In order "pre", where batch norm comes before the convolution, it is the output of
    the convolution itself.

    Args:
        model: a network that `build` has built.
        spec: its spec.
        batches: preprocessed images, float32 `[N, H, W, 3]` each.

    Returns:
        Pairs of the name of a layer and the standard deviation over images, places and channels.
    """
    names = [
        c.name
        for stage in spec.stages()
        for block in stage
        for c in block.convolutions
        if c.kernel == 3
    ]
    if spec.stem_convolution.kernel == 3:
        names.insert(0, spec.stem_convolution.name)
    suffix = "bn" if spec.order == "post" else "conv"
    outputs = [model.get_layer(f"{name}_{suffix}").output for name in names]
    with deep_recursion(spec.depth):
        inner = keras.Model(model.inputs, outputs)
    run = tf.function(lambda images: inner(images, training=False), reduce_retracing=True)
    count = np.zeros(len(names))
    total, squares = np.zeros(len(names)), np.zeros(len(names))
    for images in batches:
        for number, response in enumerate(run(tf.constant(images))):
            values = np.asarray(response, np.float64)
            count[number] += values.size
            total[number] += values.sum()
            squares[number] += np.square(values).sum()
    deviations = np.sqrt(squares / count - (total / count) ** 2)
    return list(zip(names, deviations.tolist(), strict=True))
