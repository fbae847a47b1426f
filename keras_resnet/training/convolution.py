"""Train 3x3 convolutions faster: compute their input gradient as a forward convolution."""

import platform
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from .hardware import has_avx512, has_gpu


def flipping_pays() -> bool:
    """Return whether `flip_input_gradient` is faster: on x86 CPUs without AVX-512.

    With AVX-512 the gain is negligible. GPUs and other processors were not measured.
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and not has_avx512() and not has_gpu()


def flip_input_gradient(layer: keras.layers.Conv2D) -> None:
    """Compute the input gradient of a 3x3 convolution as a forward convolution.

    That convolution's kernel is flipped along height and width, and its input and output channels
    are swapped. `flipping_pays` tells where this is faster.

    Only layers with a 3x3 kernel, strides and dilation of 1, one group, padding "same" and
    channels last are changed. The forward pass still calls the layer's `convolution_op`, so
    replace that method, if at all, before this call.
    """
    eligible = (
        type(layer).convolution_op is keras.layers.Conv2D.convolution_op
        and layer.kernel_size == (3, 3)
        and layer.strides == layer.dilation_rate == (1, 1)
        and layer.groups == 1
        and layer.padding == "same"
        and layer.data_format == "channels_last"
    )
    if eligible:
        layer.convolution_op = _with_flipped_gradient(layer.convolution_op)


def _with_flipped_gradient(forward: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @tf.custom_gradient
    def convolved(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
        def gradients(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            flipped = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
            dx = _convolve_nonempty(lambda dy: tf.nn.conv2d(dy, flipped, 1, "SAME"), dy)
            dkernel = tf.raw_ops.Conv2DBackpropFilter(
                input=inputs,
                filter_sizes=kernel.shape,
                out_backprop=dy,
                strides=[1, 1, 1, 1],
                padding="SAME",
            )
            return dx, dkernel

        return forward(inputs, kernel), gradients

    return lambda inputs, kernel: convolved(inputs, tf.convert_to_tensor(kernel))


def _convolve_nonempty(convolve: Callable[[Any], Any], images: tf.Tensor) -> Any:
    """Convolve images; oneDNN gets the shape of an empty batch wrong, so pad it to one image."""
    if images.shape[0]:
        return convolve(images)
    count, shape = tf.shape(images)[0], tf.shape(images)[1:]
    nonempty = tf.cond(
        count > 0,
        lambda: images,
        lambda: tf.zeros(tf.concat([[1], shape], axis=0), images.dtype),
    )
    return convolve(tf.ensure_shape(nonempty, [None, *images.shape[1:]]))[:count]
