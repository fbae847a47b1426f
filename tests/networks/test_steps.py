"""Test networks as lists of steps."""

import keras
import numpy as np
import pytest
from folded_models import NAMES, SPECS, mixed, network, spec
from keras import layers
from small_models import images_for

from keras_resnet.networks.logits import features_and_logits
from keras_resnet.networks.steps import Convolution, Dense, Other, Pad, steps_of


@pytest.mark.slow
@pytest.mark.parametrize("model", [*SPECS, None], ids=[*NAMES, "mixed"])
def test_steps_compute_the_network(model):
    model = mixed() if model is None else network(model)
    images = images_for(model)
    steps = steps_of(model)
    values, wanted = steps.values(images), model(images, training=False)
    assert steps.outputs.keys() == wanted.keys()
    for output, name in steps.outputs.items():
        np.testing.assert_allclose(values[name], wanted[output], rtol=0, atol=1e-5)
    kernels = [len(layer.weights) > 0 for layer in model.layers]
    assert sum(isinstance(step, Convolution | Dense) for step in steps.steps) == sum(kernels)


@pytest.mark.slow
@pytest.mark.parametrize("model", SPECS, ids=NAMES)
def test_networks_have_known_steps_only(model):
    """All but the batch norms of order "pre" that follow a sum or a pool, which are affine."""
    others = [step.name for step in steps_of(network(model)).steps if isinstance(step, Other)]
    assert all("preact_bn" in name or "post_bn" in name for name in others)
    assert model.order == "pre" or not others


def test_a_pad_of_the_image_becomes_the_padding_of_its_convolution():
    steps = steps_of(network(spec("A", "post"))).steps
    (pad,) = (step for step in steps if isinstance(step, Pad))
    assert pad.paddings == [[0, 0], [0, 0], [0, 0], [0, 8]]  # the zeros of option A
    strided = [s for s in steps if isinstance(s, Convolution) and s.strides == (2, 2)]
    assert [step.padding for step in strided] == [[[0, 0], [1, 1], [1, 1], [0, 0]]]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.DepthwiseConv2D(3), "layer mine of .* is a DepthwiseConv2D, whose weights cannot"),
        (layers.Conv2D(6, 3, groups=3), "layer mine of .* has groups 3; int8 takes only 1"),
        (layers.Conv2D(6, 3, dilation_rate=2), r"has dilation_rate \(2, 2\); int8 takes only"),
        (layers.Dense(4), "layer mine of .* is not a plain product"),
    ],
)
def test_other_layers_with_weights_are_refused_by_name(layer, message):
    inputs = keras.Input((8, 8, 3))
    layer.name = "mine"
    pooled = layers.GlobalAveragePooling2D()(layer(inputs))
    model = features_and_logits(keras.Model(inputs, layers.Dense(2)(pooled))).model
    with pytest.raises(ValueError, match=message):
        steps_of(model)
