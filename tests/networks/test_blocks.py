"""Test that units are found and switched off in networks of every kind."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from keras_resnet.networks.blocks import switchable, units
from keras_resnet.networks.build import build
from keras_resnet.networks.paper import NETWORKS
from keras_resnet.networks.spec import ResNetSpec

SMALL = ResNetSpec(stem="cifar", block="basic", blocks=(2, 2), width=4, shortcut="A")
KINDS = [
    *(replace(SMALL, shortcut=kind, order=order) for kind in "ABC" for order in ("post", "pre")),
    replace(SMALL, block="bottleneck", shortcut="B"),
    replace(SMALL, block="bottleneck", shortcut="B", stride_on="3x3", order="pre"),
    replace(SMALL, shortcut=None),
    replace(SMALL, shortcut=None, order="pre"),
    replace(SMALL, stem="imagenet", blocks=(1, 2), shortcut="B"),
]


def network(spec, seed=0):
    """Build a network whose batch norms differ from the identity."""
    keras.utils.set_random_seed(seed)
    model = build(spec, input_shape=(32, 32, 3), classes=5, classifier_activation=None)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            bounds = {"gamma": (0.5, 1.5), "moving_variance": (0.5, 2.0)}
            for v in layer.weights:
                v.assign(rng.uniform(*bounds.get(v.name, (-0.3, 0.3)), v.shape))
    return model


IMAGES = np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: f"{spec.name}-{spec.order}-{spec.stem}")
def test_the_whole_network_is_unchanged(spec):
    model = network(spec)
    switches = np.ones(len(units(spec)), np.float32)
    np.testing.assert_array_equal(
        switchable(model, spec)(IMAGES, switches), model(IMAGES, training=False)
    )


@pytest.mark.slow
@pytest.mark.parametrize("spec", KINDS[:8], ids=lambda spec: f"{spec.name}-{spec.order}")
def test_a_residual_unit_that_is_left_out_is_its_shortcut(spec):
    """A branch whose last layer has zeros for weights adds nothing either."""
    model = network(spec)
    for number, unit in enumerate(units(spec)):
        assert unit.removable
        switches = np.ones(len(units(spec)), np.float32)
        switches[number] = 0
        found = switchable(model, spec)(IMAGES, switches)
        zeroed = network(spec)
        last = unit.block.convolutions[-1].name
        layer = zeroed.get_layer(f"{last}_{'bn' if spec.order == 'post' else 'conv'}")
        for weight in (layer.gamma, layer.beta) if spec.order == "post" else layer.weights:
            weight.assign(np.zeros(weight.shape))
        np.testing.assert_allclose(found, zeroed(IMAGES, training=False), atol=1e-5)


def test_a_plain_network_without_a_unit_is_the_shorter_network():
    spec = replace(SMALL, shortcut=None)
    model, shorter = (
        network(spec),
        build(
            replace(spec, blocks=(1, 2)),
            input_shape=(32, 32, 3),
            classes=5,
            classifier_activation=None,
        ),
    )
    for layer in shorter.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    assert [unit.removable for unit in units(spec)] == [True, True, False, True]
    np.testing.assert_allclose(
        switchable(model, spec)(IMAGES, np.array([1, 0, 1, 1], np.float32)),
        shorter(IMAGES, training=False),
        atol=1e-6,
    )


def test_a_plain_unit_that_changes_the_shape_stays():
    spec = replace(SMALL, shortcut=None)
    model = network(spec)
    np.testing.assert_array_equal(
        switchable(model, spec)(IMAGES, np.array([1, 1, 0, 1], np.float32)),
        model(IMAGES, training=False),
    )


@pytest.mark.parametrize(("name", "count"), [("resnet20", 9), ("plain34", 16), ("resnet50", 16)])
def test_the_papers_networks_have_the_units_of_the_paper(name, count):
    """Section 4.2: 3n units of two layers for 6n + 2 layers; Table 1: 3 + 4 + 6 + 3."""
    assert len(units(NETWORKS[name])) == count
