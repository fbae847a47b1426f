"""Choose the numbers that int8 stands for: per channel of a kernel, and per activation."""

from collections.abc import Iterable
from functools import partial

import numpy as np
import tensorflow as tf

from ..networks.steps import Steps

CLIPPED = {
    "maximum": 0.0,
    "99.999th percentile": 1e-5,
    "99.99th percentile": 1e-4,
    "99.9th percentile": 1e-3,
}
"""methods of calibration (Wu et al. 2020, *Integer quantization for deep learning inference*): the
share of an activation's values beyond its bound"""
_BINS = 2**15
"""numbers that are not negative, in bfloat16"""
_SMALLEST = 1e-6
"""the least bound, of an activation that was always zero"""


def quantized_kernel(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round a kernel to integers from -127 to 127, symmetrically and per output channel.

    Args:
        kernel: float32 `[..., out]`.

    Returns:
        The integers, int8, and the real number that 1 stands for, float32 `[out]`.
    """
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = np.maximum(largest, np.finfo(np.float32).tiny * 127) / np.float32(127)
    return np.rint(kernel / scale).astype(np.int8), scale


def magnitudes(network: Steps, batches: Iterable[tf.Tensor]) -> dict[str, np.ndarray]:
    """Count the magnitudes of every activation of a network in float32.

    Args:
        network: the network.
        batches: inputs of the network, float32 `[n, H, W, C]`.

    Returns:
        By the name of the input and of each step: how many values have the magnitude of each
        number in bfloat16, int64 `[32768]`.
    """

    @partial(tf.function, autograph=False, reduce_retracing=True)
    def count(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: _count(value) for name, value in network.values(images).items()}

    totals: dict[str, np.ndarray] = {}
    for batch in batches:
        for name, counts in count(batch).items():
            totals[name] = totals.get(name, np.zeros(_BINS, np.int64)) + counts.numpy()
    return totals


def _count(values: tf.Tensor) -> tf.Tensor:
    # Without its lower half a float32 is a bfloat16, and numbers sort as their bits do.
    bits = tf.bitwise.right_shift(tf.bitcast(tf.abs(values), tf.int32), 16)
    return tf.math.bincount(tf.reshape(bits, [-1]), minlength=_BINS, maxlength=_BINS)


def bounds(counts: dict[str, np.ndarray], clipped: float) -> dict[str, float]:
    """Return the bound of every activation, rounded up to bfloat16.

    Args:
        counts: as `magnitudes` returns them.
        clipped: the share of values that may exceed the bound.
    """
    found = {}
    for name, number in counts.items():
        beyond = number[::-1].cumsum()[::-1]  # values of at least the number of each bin
        last = int(np.flatnonzero(beyond > clipped * number.sum())[-1])
        bound = np.uint32((last + 1) << 16).view(np.float32)
        found[name] = max(float(bound), _SMALLEST)
    return found
