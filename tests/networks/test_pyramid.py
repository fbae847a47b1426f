"""Feature pyramids."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import NETWORKS
from keras_resnet.networks.build import build
from keras_resnet.networks.pyramid import feature_pyramid
from keras_resnet.networks.spec import ResNetSpec

PYRAMIDS = [
    # Table 1 for 224 px images, conv2_x to conv5_x; section 4.2 for 32 px images.
    ("resnet18", 224, {"C2": (56, 64), "C3": (28, 128), "C4": (14, 256), "C5": (7, 512)}),
    ("plain18", 224, {"C2": (56, 64), "C3": (28, 128), "C4": (14, 256), "C5": (7, 512)}),
    ("resnet50", 224, {"C2": (56, 256), "C3": (28, 512), "C4": (14, 1024), "C5": (7, 2048)}),
    ("resnet20", 32, {"C2": (32, 16), "C3": (16, 32), "C4": (8, 64)}),
    ("plain20", 32, {"C2": (32, 16), "C3": (16, 32), "C4": (8, 64)}),
]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize(("network", "size", "wanted"), PYRAMIDS, ids=[row[0] for row in PYRAMIDS])
def test_feature_pyramid(network, size, wanted, order):
    model = build(
        replace(NETWORKS[network], order=order), include_top=False, input_shape=(size, size, 3)
    )
    pyramid = feature_pyramid(model)
    shapes = {name: tuple(output.shape[1:]) for name, output in pyramid.output.items()}
    assert shapes == {name: (side, side, channels) for name, (side, channels) in wanted.items()}


@pytest.mark.parametrize("include_top", [True, False])
def test_the_rest_of_the_model_reads_the_last_level_of_the_pyramid(include_top, tmp_path):
    """The model is loaded from a file, because layers are found by their names."""
    spec = ResNetSpec(stem="imagenet", block="bottleneck", blocks=(1, 2), width=4)
    build(spec, include_top=include_top, classes=3, classifier_activation=None).save(
        tmp_path / "model.keras"
    )
    model = keras.models.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).normal(size=(2, 48, 40, 3)).astype("float32")
    features = feature_pyramid(model)(images)
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "C2": (2, 12, 10, 16),
        "C3": (2, 6, 5, 32),
    }
    last = features["C3"]
    if include_top:
        last = model.get_layer("predictions")(tf.reduce_mean(last, axis=(1, 2)))
    np.testing.assert_allclose(last, model(images), rtol=1e-5, atol=1e-6)


def test_a_model_without_stages_has_no_pyramid():
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="no stages"):
        feature_pyramid(keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs)))
