"""Test how similar the gradients at neighboring images are."""

import keras
import numpy as np
import pytest

from keras_resnet import ResNet
from keras_resnet.evaluation.shattering import gradient_correlations
from keras_resnet.networks.paper import NETWORKS


def model_of(*layers):
    inputs = keras.Input((1, 1, 1))
    outputs = keras.layers.Flatten()(inputs)
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def image(value):
    return np.full((1, 1, 1), value, np.float32)


def test_a_linear_model_has_the_same_gradient_everywhere():
    model = model_of(keras.layers.Dense(3))
    found = gradient_correlations(model, [(image(-1), image(2)), (image(5), image(6))], points=4)
    assert found == [(pytest.approx(lag / 3), pytest.approx(1.0)) for lag in range(4)]


def test_the_gradient_of_the_absolute_value_changes_its_sign_once():
    """At n points on the left and n on the right of 0, the cosine of a pair is -1 across 0."""
    hidden, last = keras.layers.Dense(2, activation="relu"), keras.layers.Dense(1, use_bias=False)
    model = model_of(hidden, last)
    hidden.set_weights([np.array([[1.0, -1.0]]), np.zeros(2)])
    last.set_weights([np.ones((2, 1))])
    points = 6
    found = dict(gradient_correlations(model, [(image(-1), image(1))], points=points))
    for lag in range(points):
        pairs = points - lag
        across = min(lag, pairs)
        assert found[lag / (points - 1)] == pytest.approx(1 - 2 * across / pairs)


@pytest.mark.slow
def test_plain_networks_shatter_and_residual_ones_do_less():
    """Figure 1 of Balduzzi et al.: deep plain networks with batch norm give white noise."""
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 8, 8, 3)).astype(np.float32)
    pairs = [(images[0], images[1]), (images[2], images[3])]
    near = {}
    for name in ("plain20", "resnet20", "plain56", "resnet56"):
        keras.utils.set_random_seed(0)
        model = ResNet(
            NETWORKS[name], input_shape=(8, 8, 3), classes=10, classifier_activation=None
        )
        before = model.get_weights()
        near[name] = gradient_correlations(model, pairs)[1][1]
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    assert abs(near["plain20"]) < 0.15 and abs(near["plain56"]) < 0.15
    assert near["resnet20"] > 0.4 and near["resnet20"] > near["resnet56"] > 0.15
