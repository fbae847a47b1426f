"""Measure how fast a network's gradient changes between two images, as Balduzzi et al. do (2017).

*The Shattered Gradients Problem: If resnets are the answer, then what is the question?*,
arXiv:1702.08591: at random weights, the gradients of deep plain networks at neighboring inputs
resemble white noise; those of residual networks stay similar.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf


def gradient_correlations(
    model: keras.Model,
    segments: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    points: int = 33,
    batch_norm: bool = True,
) -> list[tuple[float, float]]:
    """Return how similar the gradients at two images are, by the distance of the images.

    The gradient is that of the first logit for the image. It is computed at images that lie at
    equal distances between two given ones, and two gradients are compared by their cosine: 1 where
    they are the same, about 0 where they have nothing to do with each other.

    Args:
        model: a network with logits as output. Its statistics stay as they are.
        segments: pairs of preprocessed images, each float32 `[H, W, 3]`.
        points: the number of images per pair.
        batch_norm: whether batch norm uses the statistics of the images between two given ones, as
            in training; otherwise it uses its moving statistics. Those of a network that has not
            been trained change nothing, so it is then a network without batch norm.

    Returns:
        Pairs of a distance, as a share of that of the given images, and the mean cosine.
    """
    sums = np.zeros(points)
    share = np.linspace(0, 1, points, dtype=np.float32)[:, None, None, None]
    for start, end in segments:
        gradients = _gradients(model, start + share * (end - start), batch_norm)
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        units = gradients / np.maximum(norms, np.finfo(np.float64).tiny)
        cosines = units @ units.T
        sums += [np.diagonal(cosines, lag).mean() for lag in range(points)]
    return [(lag / (points - 1), sums[lag] / len(segments)) for lag in range(points)]


def _gradients(model: keras.Model, images: np.ndarray, batch_norm: bool) -> np.ndarray:
    """Return the gradient at each image of its own first logit, float64 `[N, H * W * C]`."""
    statistics = [(variable, variable.numpy()) for variable in model.non_trainable_variables]
    inputs = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        logit = tf.reduce_sum(tf.cast(model(inputs, training=batch_norm)[:, 0], tf.float32))
    gradient = tape.gradient(logit, inputs).numpy().astype(np.float64)
    for variable, value in statistics:
        variable.assign(value)
    return gradient.reshape(len(images), -1)
