"""Compare the flipped input gradient with Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.training.convolution import flip_input_gradient


def convolution(*, flipped, **arguments):
    layer = keras.layers.Conv2D(
        5,
        **{"kernel_size": 3, "padding": "same", "kernel_initializer": "glorot_normal", **arguments},
    )
    layer.build((None, 6, 7, 3))
    layer.kernel.assign(np.random.default_rng(3).normal(size=layer.kernel.shape))
    if flipped:
        flip_input_gradient(layer)
    return layer


def convolved(layer, x, dtype):
    """Return the output and its first-order and second-order gradients."""
    x = tf.cast(x, dtype)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(y**3)
        first = inner.gradient(loss, [x, layer.kernel.value])
        penalty = sum(tf.reduce_sum(tf.cast(part, tf.float64) ** 2) for part in first)
    second = outer.gradient(penalty, [x, layer.kernel.value])
    return [tf.cast(value, tf.float64).numpy() for value in (y, *first, *second)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-5), ("bfloat16", 0.05)]
)
@pytest.mark.parametrize("use_bias", [True, False])
def test_the_flipped_gradient(dtype, tolerance, use_bias):
    policy = dtype if dtype != "bfloat16" else "mixed_bfloat16"
    x = np.random.default_rng(0).normal(size=(4, 6, 7, 3))
    found, wanted = (
        convolved(convolution(flipped=f, dtype=policy, use_bias=use_bias), x, dtype)
        for f in (True, False)
    )
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def test_the_flipped_gradient_of_an_empty_batch():
    layer = convolution(flipped=True)

    @tf.function(input_signature=[tf.TensorSpec((None, 6, 7, 3)), tf.TensorSpec((None, 6, 7, 5))])
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer.convolution_op(x, layer.kernel)
        return tape.gradient(y, [x, layer.kernel.value], dy)

    dx, dkernel = step(tf.zeros((0, 6, 7, 3)), tf.zeros((0, 6, 7, 5)))
    assert dx.shape == (0, 6, 7, 3)
    np.testing.assert_array_equal(dkernel, np.zeros((3, 3, 3, 5)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 1},
        {"strides": 2},
        {"padding": "valid"},
        {"dilation_rate": 2},
        {"groups": 3, "filters": 6},
    ],
)
def test_other_convolutions_are_left_unchanged(arguments):
    layer = keras.layers.Conv2D(**{"filters": 5, "kernel_size": 3, "padding": "same", **arguments})
    flip_input_gradient(layer)
    assert "convolution_op" not in vars(layer)
