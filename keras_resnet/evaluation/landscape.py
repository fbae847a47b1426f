"""Compute the loss around the weights of a network, as Li et al. do (2018).

*Visualizing the Loss Landscape of Neural Nets*, arXiv:1712.09913, section 4: the weights move along
two random directions, each filter of which is as long as the network's own filter.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf


def loss_landscape(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    points: int = 21,
    reach: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """Return the cross-entropy around the weights of a network, on a plane through them.

    The kernels of convolutions and dense layers move. Batch norm and biases stay as they are, and
    batch norm uses its moving statistics. At the end the weights are those of before.

    Args:
        model: a network with logits as output.
        images: preprocessed images, float32 `[N, H, W, 3]`, in one batch.
        labels: class numbers, int `[N]`.
        points: the number of points along each direction; odd, so that the network is in the
            middle.
        reach: the distance from the middle to the edge; at 1, what is added to a filter is as long
            as the filter itself.
        seed: the seed of the directions.

    Returns:
        The mean loss at each point, float64 `[points, points]`.
    """
    kernels = _kernels(model)
    before = [kernel.numpy() for kernel in kernels]
    first, second = (filter_directions(before, (seed, number)) for number in (0, 1))
    batch, targets = tf.constant(images), tf.constant(labels)

    @tf.function(autograph=False)
    def loss() -> tf.Tensor:
        logits = tf.cast(model(batch, training=False), tf.float32)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))

    found = np.empty((points, points))
    steps = np.linspace(-reach, reach, points)
    try:
        for row, a in enumerate(steps):
            for column, b in enumerate(steps):
                for kernel, value, one, other in zip(kernels, before, first, second, strict=True):
                    kernel.assign(value + a * one + b * other)
                found[row, column] = loss()
    finally:
        for kernel, value in zip(kernels, before, strict=True):
            kernel.assign(value)
    return found


def filter_directions(
    kernels: Sequence[np.ndarray], seed: int | tuple[int, ...]
) -> list[np.ndarray]:
    """Return a random direction for each kernel, whose filters are as long as the kernel's own.

    Without this, networks of smaller weights would seem sharper (section 4 of Li et al.).

    Args:
        kernels: float32 `[..., out]`.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    directions = []
    for kernel in kernels:
        axes = tuple(range(kernel.ndim - 1))
        direction = random.normal(size=kernel.shape)
        length = np.sqrt((direction**2).sum(axis=axes, keepdims=True))
        wanted = np.sqrt((kernel.astype(np.float64) ** 2).sum(axis=axes, keepdims=True))
        directions.append((direction * wanted / length).astype(np.float32))
    return directions


def _kernels(model: keras.Model) -> list[keras.Variable]:
    return [
        layer.kernel
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)
    ]
