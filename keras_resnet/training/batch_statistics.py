"""Recompute batch norm's statistics after training, as the paper's authors did.

Their README (github.com/KaimingHe/deep-residual-networks): "BN statistics are computed by average
(not moving average) on a sufficiently large training batch after the training procedure".
"""

import keras
import numpy as np
import tensorflow as tf


def set_population_statistics(model: keras.Model, batches: tf.data.Dataset, steps: int) -> None:
    """Set every batch norm's moving statistics to the mean and variance of many images.

    The variance is taken over all images: the mean of the batch variances plus the variance of the
    batch means.

    Args:
        model: a network built outside of any strategy.
        batches: `(images [N, H, W, C], labels)`, as in training.
        steps: the number of batches.
    """
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [norm.momentum for norm in norms]
    means = [np.zeros(norm.moving_mean.shape) for norm in norms]
    squares = [np.zeros(norm.moving_mean.shape) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # makes the moving statistics those of the last batch
    forward = tf.function(lambda images: model(images, training=True), autograph=False)
    for images, _ in batches.take(steps):
        forward(images)
        for norm, mean, square in zip(norms, means, squares, strict=True):
            batch_mean = norm.moving_mean.numpy().astype(np.float64)
            mean += batch_mean / steps
            square += (norm.moving_variance.numpy() + batch_mean**2) / steps
    for norm, momentum, mean, square in zip(norms, before, means, squares, strict=True):
        norm.momentum = momentum
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(np.maximum(square - mean**2, 0.0))
