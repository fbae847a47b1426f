"""Train batch norm with TensorFlow's fused kernel.

Keras 3 composes batch norm from separate TensorFlow operations. `fuse` computes it with
`FusedBatchNormV3`, one kernel of oneDNN or cuDNN. The layers keep their Keras class, so `save`
writes the same file as before.

On a CPU the kernel runs twice in the forward pass. Its statistics are float32 sums over all rows
of the batch, and their error is up to 3.5 times that of Keras. Therefore the first run treats each
column of the image as separate channels: [batch, height, width, channels] becomes
[batch * height, 1, 1, width * channels]. The sums are shorter by a factor of the width, and the
statistics of the columns are combined exactly (Chan, Golub and LeVeque 1979). The second run
normalizes with the result.
"""

from types import MethodType
from typing import Any

import keras
import tensorflow as tf

from .hardware import has_avx512, has_gpu


def fuse(layer: keras.layers.BatchNormalization) -> None:
    """Replace the `call` of one batch norm layer with one that uses the fused kernel.

    The choice depends only on dtype and processor, never on timing:

    - float32: the kernel in float32.
    - bfloat16: the kernel in bfloat16 on a GPU or a processor with AVX-512, otherwise in float32.
    - float16: the kernel in float16 on a GPU, otherwise in float32.
    - float64, other dtypes, an axis other than the last, a rank other than 4, a mask, batch
      renormalization, and inference on a GPU: Keras' own operations.

    Statistics are computed in float32, and the moving averages follow Keras' formula. A frozen
    layer (`trainable=False`) runs in inference mode. With the kernel an empty batch leaves the
    moving averages unchanged; Keras' own operations make them NaN.

    With `synchronized=True` and several replicas the statistics are taken over the images of all
    replicas, for float64 inputs too. This takes one all-reduce in the forward pass and one in the
    backward pass. Replicas may have batches of different sizes, or empty ones. As in Keras, each
    replica's gradients of gamma and beta cover its own images, and the optimizer sums them.

    A layer whose class overrides `call` is left unchanged.
    """
    if type(layer).call is keras.layers.BatchNormalization.call:
        layer.call = MethodType(_call, layer)


def _call(layer: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
    dtype = _kernel_dtype(inputs.dtype)
    training = bool(training and layer.trainable)
    replica = tf.distribute.get_replica_context()
    synchronized = (
        training and layer.synchronized and replica is not None and replica.num_replicas_in_sync > 1
    )
    if synchronized and inputs.dtype == "float64":
        dtype = "float64"
    if (
        dtype is None
        or mask is not None
        or layer.renorm
        or len(inputs.shape) != 4
        or layer.axis not in (-1, 3)
        or (has_gpu() and not training)
    ):
        return type(layer).call(layer, inputs, training=training, mask=mask)

    x = tf.cast(inputs, dtype)
    precise = "float64" if dtype == "float64" else "float32"
    channels = x.shape[-1]
    gamma = tf.cast(layer.gamma, precise) if layer.scale else tf.ones(channels, precise)
    beta = tf.cast(layer.beta, precise) if layer.center else tf.zeros(channels, precise)
    moving_mean = tf.cast(layer.moving_mean, precise)
    moving_variance = tf.cast(layer.moving_variance, precise)
    if not training:
        outputs = _normalize(x, gamma, beta, moving_mean, moving_variance, layer.epsilon)
        return tf.cast(outputs, layer.compute_dtype)

    if synchronized:
        outputs, mean, variance, count = _over_replicas(x, gamma, beta, layer.epsilon)
    else:
        over_batch = _by_kernel_statistics if has_gpu() else _by_column_statistics
        outputs, mean, variance = over_batch(x, gamma, beta, layer.epsilon)
        count = _rows(x)
    for moving, old, new in (
        (layer.moving_mean, moving_mean, mean),
        (layer.moving_variance, moving_variance, variance),
    ):
        updated = old * layer.momentum + new * (1.0 - layer.momentum)
        moving.assign(_unless_empty(count, updated, old))
    return tf.cast(outputs, layer.compute_dtype)


def _kernel_dtype(dtype: Any) -> str | None:
    """Return the dtype the kernel runs in for inputs of `dtype`; None for Keras' operations."""
    match tf.as_dtype(dtype).name:
        case "float32":
            return "float32"
        case "bfloat16":
            return "bfloat16" if has_gpu() or has_avx512() else "float32"
        case "float16":
            return "float16" if has_gpu() else "float32"
    return None


def _rows(x: tf.Tensor) -> int | tf.Tensor:
    """Return the number of values per channel, as an `int` if it is statically known."""
    known = x.shape[:-1].num_elements()
    return tf.reduce_prod(tf.shape(x)[:-1]) if known is None else known


def _unless_empty(count: int | tf.Tensor, value: tf.Tensor, otherwise: tf.Tensor) -> tf.Tensor:
    if isinstance(count, int):
        return value if count else otherwise
    return tf.where(count > 0, value, otherwise)


def _kernel(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float) -> Any:
    """Run the kernel in training mode; return the output, the mean and the biased variance."""
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    # The kernel divides the variance by n - 1, Keras by n.
    count = _rows(x)
    n = tf.cast(count, tf.float32)
    zeros = tf.zeros_like(mean)
    variance = _unless_empty(count, variance * ((n - 1) / n), zeros)
    return y, _unless_empty(count, mean, zeros), variance


def _kernel_gradients(
    dy: tf.Tensor,
    x: tf.Tensor,
    gamma: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
    is_training: bool,
) -> tuple[tf.Tensor, ...]:
    """Return the gradients of x, gamma and beta on a CPU; an empty batch gives zeros.

    On a GPU the kernel expects the inverse standard deviation instead of the variance, and has no
    deterministic version for `is_training=False`.
    """
    dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=dy,
        x=x,
        scale=gamma,
        reserve_space_1=mean,
        reserve_space_2=variance,
        reserve_space_3=tf.zeros([0]),
        epsilon=epsilon,
        is_training=is_training,
    )
    zeros, count = tf.zeros_like(gamma), _rows(x)
    return dx, _unless_empty(count, dgamma, zeros), _unless_empty(count, dbeta, zeros)


def _normalize(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
) -> tf.Tensor:
    if x.dtype == tf.float64:
        return (x - mean) * (gamma * tf.math.rsqrt(variance + epsilon)) + beta
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    )[0]


def _by_kernel_statistics(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> Any:
    """Normalize with one run of the kernel, which TensorFlow can differentiate."""
    return _kernel(x, gamma, beta, epsilon)


def _by_column_statistics(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> Any:
    """Normalize with statistics combined from those of the image's columns."""

    @tf.custom_gradient
    def normalized(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        mean, variance = _column_statistics(x)
        y = _normalize(x, gamma, beta, mean, variance, epsilon)

        def gradients(dy: tf.Tensor, *_: Any) -> tuple[tf.Tensor, ...]:
            return _kernel_gradients(dy, x, gamma, mean, variance, epsilon, is_training=True)

        return (y, mean, variance), gradients

    return normalized(x, gamma, beta)


def _column_statistics(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the mean and the biased variance per channel, both 0 for an empty batch."""
    precise = tf.float64 if x.dtype == tf.float64 else tf.float32
    if x.dtype == tf.float64 or x.shape[2] == 1:  # exact enough, or a single column
        mean, variance = tf.nn.moments(tf.cast(x, precise), [0, 1, 2])
        zeros, count = tf.zeros_like(mean), _rows(x)
        return _unless_empty(count, mean, zeros), _unless_empty(count, variance, zeros)
    channels = x.shape[-1]
    if has_gpu():
        return _kernel(x, tf.ones(channels), tf.zeros(channels), 0.0)[1:]
    dynamic = tf.shape(x)
    batch, height, width = (x.shape[i] or dynamic[i] for i in range(3))
    columns = tf.reshape(x, tf.stack([batch * height, 1, 1, width * channels]))
    columns.set_shape([None, 1, 1, None if x.shape[2] is None else x.shape[2] * channels])
    ones = tf.ones([width * channels])
    _, means, variances = _kernel(columns, ones, tf.zeros_like(ones), 0.0)
    means, variances = (tf.reshape(part, [-1, channels]) for part in (means, variances))
    mean = tf.reduce_mean(means, axis=0)
    between = tf.reduce_mean(tf.square(means - mean), axis=0)
    return mean, tf.reduce_mean(variances, axis=0) + between


def _over_replicas(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> Any:
    """Normalize by the statistics of all replicas.

    Returns:
        The output, the mean, the biased variance and the number of rows of all replicas.
    """
    replica = tf.distribute.get_replica_context()
    precise = gamma.dtype

    @tf.custom_gradient
    def normalized(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        mean, variance = (tf.cast(part, tf.float64) for part in _column_statistics(x))
        n = tf.cast(_rows(x), tf.float64)
        # In float64 the difference of squares below keeps all digits of float32.
        sums = tf.concat([n * mean, n * (variance + tf.square(mean)), [n]], axis=0)
        sums = replica.all_reduce("SUM", sums)
        count = sums[-1]
        mean, squares = tf.split(tf.math.divide_no_nan(sums[:-1], count), 2)
        variance = tf.cast(tf.maximum(squares - tf.square(mean), 0), precise)
        mean = tf.cast(mean, precise)
        y = _normalize(x, gamma, beta, mean, variance, epsilon)

        def gradients(dy: tf.Tensor, *_: Any) -> tuple[tf.Tensor, ...]:
            inverse = tf.math.rsqrt(variance + epsilon)
            if x.dtype == tf.float64 or has_gpu():
                precise_dy, difference = tf.cast(dy, precise), tf.cast(x, precise) - mean
                dx = tf.cast(precise_dy * (gamma * inverse), x.dtype)
                dgamma = tf.reduce_sum(precise_dy * difference, [0, 1, 2]) * inverse
                dbeta = tf.reduce_sum(precise_dy, [0, 1, 2])
            else:
                dx, dgamma, dbeta = _kernel_gradients(
                    dy, x, gamma, mean, variance, epsilon, is_training=False
                )
            sums = replica.all_reduce("SUM", tf.concat([dgamma, dbeta], axis=0))
            factor = tf.math.divide_no_nan(-gamma * inverse, tf.cast(count, precise))
            scale, offset = (factor * part for part in tf.split(sums, 2))
            dx += _normalize(x, scale, offset, mean, variance, epsilon)
            # Second-order gradients would miss the terms that pass through the statistics.
            return tuple(
                tf.raw_ops.PreventGradient(
                    input=part, message="synchronized batch norm has no second-order gradients"
                )
                for part in (dx, dgamma, dbeta)
            )

        return (y, mean, variance, count), gradients

    return normalized(x, gamma, beta)
