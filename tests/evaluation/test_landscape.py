"""Test the loss around the weights of a network."""

import keras
import numpy as np
import pytest

from keras_resnet import ResNet
from keras_resnet.evaluation.landscape import filter_directions, loss_landscape
from keras_resnet.networks.spec import ResNetSpec


def linear(weights):
    """A model whose logits are images times weights `[C, classes]`."""
    inputs = keras.Input((1, 1, len(weights)))
    outputs = keras.layers.Dense(weights.shape[1])(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    model.layers[-1].kernel.assign(weights)
    return model


def cross_entropy(logits, labels):
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels])


def test_the_loss_of_a_linear_model_is_that_of_its_moved_weights():
    """The bias stays 0, so the logits are known."""
    random = np.random.default_rng(3)
    weights = random.normal(size=(5, 3)).astype(np.float32)
    images = random.normal(size=(7, 1, 1, 5)).astype(np.float32)
    labels = random.integers(0, 3, 7)
    found = loss_landscape(linear(weights), images, labels, points=5, reach=2.0, seed=1)
    (first,), (second,) = (filter_directions([weights], (1, number)) for number in (0, 1))
    for row, a in enumerate([-2, -1, 0, 1, 2]):
        for column, b in enumerate([-2, -1, 0, 1, 2]):
            logits = images.reshape(7, 5) @ (weights + a * first + b * second)
            assert found[row, column] == pytest.approx(cross_entropy(logits, labels), rel=1e-5)


def test_directions_are_as_long_as_the_filters_and_differ():
    """Section 4 of Li et al.; the direction of a filter of zeros is 0."""
    random = np.random.default_rng(0)
    kernels = [random.normal(size=(3, 3, 4, 6)).astype(np.float32) * np.arange(6), np.ones((8, 2))]
    one, other = filter_directions(kernels, 0), filter_directions(kernels, 1)
    for kernel, direction, second in zip(kernels, one, other, strict=True):
        lengths = [np.sqrt((value.reshape(-1, value.shape[-1]) ** 2).sum(axis=0))
                   for value in (kernel, direction, second)]  # fmt: skip
        np.testing.assert_allclose(lengths[1], lengths[0], rtol=1e-5)
        np.testing.assert_allclose(lengths[2], lengths[0], rtol=1e-5)
        assert np.abs(direction - second).max() > 0.1


def test_the_network_is_in_the_middle_and_stays_as_it_is():
    spec = ResNetSpec(stem="cifar", block="basic", blocks=(1, 1), width=4, shortcut="B")
    model = ResNet(spec, input_shape=(8, 8, 3), classes=4, classifier_activation=None)
    random = np.random.default_rng(0)
    images = random.normal(size=(6, 8, 8, 3)).astype(np.float32)
    labels = random.integers(0, 4, 6)
    before = model.get_weights()
    found = loss_landscape(model, images, labels, points=3)
    wanted = cross_entropy(model.predict(images, verbose=0), labels)
    assert found[1, 1] == pytest.approx(wanted, rel=1e-5)
    assert len(set(found.ravel().tolist())) == 9
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
