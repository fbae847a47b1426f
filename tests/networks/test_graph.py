"""Rebuilt models and their graphs."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers, ops
from small_models import images_for, of_type, trained

from keras_resnet import NETWORKS, ResNet
from keras_resnet.networks.folding import fold_batch_norm
from keras_resnet.networks.logits import features_and_logits
from keras_resnet.networks.pyramid import feature_pyramid
from keras_resnet.networks.spec import ResNetSpec


@pytest.mark.slow
@pytest.mark.parametrize("order", ["post", "pre"])
def test_models_can_still_be_cut_after_a_split_and_folding(order):
    """A copy that shared operations with the model would change the model's graph."""
    spec = ResNetSpec(stem="imagenet", blocks=(1, 1), width=4, shortcut="A", order=order)
    inputs = keras.Input((30, 32, 3))
    padded = ops.pad(inputs, ((0, 0), (1, 1), (0, 0), (0, 0)))  # no layer
    model = trained(ResNet(spec, input_tensor=padded, classes=3))
    images = images_for(model)
    wanted = feature_pyramid(model)(images)
    folded = fold_batch_norm(features_and_logits(model).model)
    for network in (model, folded):
        operations = [op for op in network.operations if not isinstance(op, layers.Layer)]
        assert operations, "ops.pad"
        for name, level in feature_pyramid(network)(images).items():
            np.testing.assert_allclose(level, wanted[name], rtol=1e-4, atol=1e-5)
        for operation in [*operations, *network.layers]:
            keras.Model(network.input, operation.output)(images)


@pytest.mark.slow
def test_hundreds_of_layers_are_split_and_folded():
    """Keras alone raises a RecursionError for so deep a graph."""
    spec = replace(NETWORKS["resnet1202"], blocks=(60, 60, 60))
    model = ResNet(spec, input_shape=(8, 8, 3), classes=10)
    split = features_and_logits(model).model
    assert {name: tuple(x.shape) for name, x in split.output.items()} == {
        "logits": (None, 10),
        "features": (None, 64),
    }
    folded = fold_batch_norm(split)
    assert not of_type(folded, layers.BatchNormalization)
    assert set(folded.output) == {"logits", "features"}
