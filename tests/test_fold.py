from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from keras_resnet import NETWORKS, ResNet
from keras_resnet.fold import fold

RESNET20 = NETWORKS["resnet20"]


def of_type(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def trained(model, seed=0):
    """Stands for it: batch norm as training leaves it, far from the identity that it begins as."""
    random = np.random.default_rng(seed)
    for norm in of_type(model, layers.BatchNormalization):
        bounds = {"gamma": (0.5, 1.5), "beta": (-0.3, 0.3), "moving_mean": (-0.3, 0.3), "moving_variance": (0.5, 2.0)}
        for weight in norm.weights:
            weight.assign(random.uniform(*bounds[weight.name], weight.shape))
    return model


def difference(model, folded):
    """Of the largest logit."""
    inputs = np.random.default_rng(1).normal(size=(4, *model.input_shape[1:])).astype(np.float32)
    wanted = model.predict(inputs, verbose=0)
    return np.abs(folded.predict(inputs, verbose=0) - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize(
    ("spec", "size", "left"),
    [
        (RESNET20, 32, 0),
        (replace(RESNET20, shortcut="B"), 32, 0),
        (replace(RESNET20, shortcut=None), 32, 0),
        # The first norm of each of the 9 units reads a sum, which the shortcut reads too; so does the very last norm.
        (replace(RESNET20, order="pre"), 32, 10),
        # Here the shortcuts read what is activated, so that the stem's convolution is the first norm's alone.
        (replace(RESNET20, order="pre", shortcut="C"), 32, 9),
        (replace(NETWORKS["resnet50"], blocks=(1, 1, 1, 1)), 64, 0),
        (replace(NETWORKS["resnet50"], blocks=(1, 1, 1, 1), stride_on="3x3"), 64, 0),
        # Here it follows the pool.
        (replace(NETWORKS["resnet50"], blocks=(1, 1, 1, 1), order="pre"), 64, 5),
    ],
)
def test_folded_networks_say_the_same(spec, size, left):
    model = trained(ResNet(spec, input_shape=(size, size, 3), classes=10, classifier_activation=None))
    folded = fold(model)
    assert not of_type(folded, layers.BatchNormalization)
    assert len(of_type(folded, layers.Rescaling)) == left
    assert difference(model, folded) <= 1e-5
    # A bias for each norm that went, two numbers of two statistics and two parameters.
    gone = sum(norm.gamma.shape[0] for norm in of_type(model, layers.BatchNormalization))
    kept = sum(len(np.ravel(rescaling.scale)) for rescaling in of_type(folded, layers.Rescaling))
    assert model.count_params() - folded.count_params() == 4 * gone - (gone - kept)


def test_the_model_that_was_folded_is_as_it_was():
    model = trained(ResNet(RESNET20, input_shape=(32, 32, 3), classes=10))
    before = [weight.copy() for weight in model.get_weights()]
    fold(model)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


def convolution_that_is_used_twice(x):
    convolution = layers.Conv2D(3, 3, padding="same")
    return layers.BatchNormalization()(convolution(convolution(x)))


def norm_that_is_used_twice(x):
    norm = layers.BatchNormalization()
    return norm(layers.Conv2D(3, 3)(norm(layers.Conv2D(3, 3)(x))))


def convolution_that_others_read(x):
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
        (lambda x: layers.BatchNormalization()(x), 1),
        (convolution_that_is_used_twice, 1),
        (convolution_that_others_read, 1),
        (norm_that_is_used_twice, 1),
    ],
)
def test_only_what_directly_and_alone_follows_a_convolution_is_folded(make, left):
    inputs = keras.Input((8, 8, 3))
    model = trained(keras.Model(inputs, make(inputs)))
    for layer in of_type(model, layers.Conv2D):
        if layer.use_bias:
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, np.arange(1, 1 + bias.size, dtype=np.float32)])
    folded = fold(model)
    assert len(of_type(folded, layers.Rescaling)) == left
    assert difference(model, folded) <= 1e-5


def test_half_precision_is_served_in_float32():
    model = trained(ResNet(RESNET20, input_shape=(32, 32, 3), classes=10, classifier_activation=None))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = ResNet(RESNET20, input_shape=(32, 32, 3), classes=10, classifier_activation=None)
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(model.get_weights())
    folded = fold(half)
    assert {layer.compute_dtype for layer in folded.layers} == {"float32"}
    assert difference(model, folded) <= 1e-5


@pytest.mark.slow
def test_a_thousand_layers_are_folded():
    """Where Keras' recursion would end in an error."""
    model = ResNet(NETWORKS["resnet1202"], input_shape=(8, 8, 3), classes=10)
    assert not of_type(fold(model), layers.BatchNormalization)
