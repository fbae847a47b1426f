"""Folding of batch norm into the preceding layers."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers
from small_models import images_for, of_type, trained

from keras_resnet import NETWORKS, ResNet
from keras_resnet.networks.folding import fold_batch_norm

# Units that keep the shape, and one that changes it.
CIFAR = replace(NETWORKS["resnet20"], blocks=(2, 1))


def difference(model, folded):
    """Return the largest difference of the outputs, relative to the largest output."""
    inputs = images_for(model)
    wanted, got = (np.asarray(network(inputs, training=False)) for network in (model, folded))
    return np.abs(got - wanted).max() / np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "size", "left"),
    [
        (CIFAR, 32, 0),
        (replace(CIFAR, shortcut="B"), 32, 0),
        (replace(CIFAR, shortcut=None), 32, 0),
        # The first norm of each of the 3 units reads a sum that the shortcut reads, too. The last
        # norm of the network also reads a sum.
        (replace(CIFAR, order="pre"), 32, 4),
        # Here the shortcuts read the activation, so the first norm alone reads the stem's
        # convolution.
        (replace(CIFAR, order="pre", shortcut="C"), 32, 3),
        (replace(NETWORKS["resnet50"], blocks=(1, 1, 1, 1)), 64, 0),
        (replace(NETWORKS["resnet50"], blocks=(1, 1, 1, 1), stride_on="3x3"), 64, 0),
        # Here the first norm follows the pool.
        (replace(NETWORKS["resnet50"], blocks=(1, 1, 1, 1), order="pre"), 64, 5),
    ],
)
def test_folded_networks_give_the_same_logits(spec, size, left):
    model = trained(
        ResNet(spec, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    )
    folded = fold_batch_norm(model)
    assert not of_type(folded, layers.BatchNormalization)
    assert len(of_type(folded, layers.Rescaling)) == left
    assert difference(model, folded) <= 1e-5
    # Of its four vectors, each folded norm leaves one bias.
    gone = sum(norm.gamma.shape[0] for norm in of_type(model, layers.BatchNormalization))
    kept = sum(len(np.ravel(rescaling.scale)) for rescaling in of_type(folded, layers.Rescaling))
    assert model.count_params() - folded.count_params() == 4 * gone - (gone - kept)


def test_folding_keeps_the_weights_of_the_model():
    model = trained(ResNet(CIFAR, input_shape=(32, 32, 3), classes=10))
    before = [weight.copy() for weight in model.get_weights()]
    fold_batch_norm(model)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


def convolution_called_twice(x):
    convolution = layers.Conv2D(3, 3, padding="same")
    return layers.BatchNormalization()(convolution(convolution(x)))


def norm_called_twice(x):
    norm = layers.BatchNormalization()
    return norm(layers.Conv2D(3, 3)(norm(layers.Conv2D(3, 3)(x))))


def convolution_with_two_readers(x):
    y = layers.Conv2D(3, 3, padding="same", name="read")(x)
    return layers.Add()([layers.BatchNormalization()(y), y])


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda x: layers.BatchNormalization()(layers.Conv2D(4, 3, use_bias=True)(x)), 0),
        (lambda x: layers.BatchNormalization(scale=False, center=False)(layers.Conv2D(4, 3)(x)), 0),
        (lambda x: layers.BatchNormalization()(layers.Conv2D(6, 3, groups=3)(x)), 0),
        (lambda x: layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(x)), 1),
        (lambda x: layers.BatchNormalization()(layers.Conv2DTranspose(4, 3)(x)), 1),
        (lambda x: layers.BatchNormalization()(layers.DepthwiseConv2D(3)(x)), 0),
        (
            lambda x: layers.BatchNormalization()(
                layers.DepthwiseConv2D(3, depth_multiplier=4, use_bias=False)(x)
            ),
            0,
        ),
        (lambda x: layers.BatchNormalization()(layers.SeparableConv2D(5, 3)(x)), 0),
        (lambda x: layers.BatchNormalization()(layers.Dense(5)(x)), 0),
        # A norm over the rows of the image instead of its channels.
        (lambda x: layers.BatchNormalization(axis=1)(layers.Conv2D(4, 3)(x)), 1),
        (lambda x: layers.BatchNormalization()(x), 1),
        (convolution_called_twice, 1),
        (convolution_with_two_readers, 1),
        (norm_called_twice, 1),
    ],
)
def test_a_norm_is_folded_only_if_it_alone_reads_a_convolution(make, left):
    inputs = keras.Input((8, 8, 3))
    model = trained(keras.Model(inputs, make(inputs)))
    for layer in model.layers:
        if getattr(layer, "use_bias", False):
            *kernels, bias = layer.get_weights()
            layer.set_weights([*kernels, np.arange(1, 1 + bias.size, dtype=np.float32)])
    folded = fold_batch_norm(model)
    assert len(of_type(folded, layers.Rescaling)) == left
    assert difference(model, folded) <= 1e-5


def test_half_precision_is_folded_in_float32():
    model = trained(ResNet(CIFAR, input_shape=(32, 32, 3), classes=10, classifier_activation=None))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = ResNet(CIFAR, input_shape=(32, 32, 3), classes=10, classifier_activation=None)
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(model.get_weights())
    folded = fold_batch_norm(half)
    assert {layer.compute_dtype for layer in folded.layers} == {"float32"}
    assert difference(model, folded) <= 1e-5
