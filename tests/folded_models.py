"""Folded classifiers shared by the tests of steps and of int8."""

import keras
from keras import layers
from small_models import trained

from keras_resnet import ResNet
from keras_resnet.networks.folding import fold_batch_norm
from keras_resnet.networks.logits import features_and_logits
from keras_resnet.networks.spec import ResNetSpec


def spec(shortcut, order, block="basic", stem="cifar"):
    return ResNetSpec(
        stem=stem, blocks=(2, 1), width=8, shortcut=shortcut, order=order, block=block
    )


SPECS = [
    spec("A", "post"),
    spec("B", "post", "bottleneck", "imagenet"),
    spec("C", "post"),
    spec(None, "post"),
    spec("A", "pre", "bottleneck"),
    spec("B", "pre", stem="imagenet"),
    spec("C", "pre"),
    spec(None, "pre"),
]
"""every shortcut in both orders, and both blocks and stems in each"""
NAMES = [f"{s.shortcut}-{s.order}-{s.block}-{s.stem}" for s in SPECS]


def folded(model):
    """Return a classifier as an export has it: with features and logits, batch norm folded."""
    return fold_batch_norm(features_and_logits(model).model)


def network(spec):
    keras.utils.set_random_seed(0)
    return folded(trained(ResNet(spec, input_shape=(16, 16, 3), classes=5)))


def mixed():
    """Return a classifier of other Keras layers, with activations of their own."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.ZeroPadding2D(((1, 0), (0, 2)))(layers.Rescaling(2.0, -0.5)(inputs))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    branch = layers.Dropout(0.5)(layers.Conv2D(8, 3, padding="same")(x))
    total = layers.Activation("relu")(layers.Add()([branch, layers.Identity()(x)]))
    # The summand is read again after the sum.
    x = layers.Concatenate()([layers.MaxPooling2D(2)(total), layers.AveragePooling2D(2)(x)])
    x = layers.Conv2D(8, 1, activation="relu")(layers.UpSampling2D(2)(x) * 0.5)
    x = layers.Dense(6, activation="relu")(layers.Flatten()(layers.MaxPooling2D(2)(x)))
    return folded(keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x)))
