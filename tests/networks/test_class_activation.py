"""Test class activation maps against the logits of networks."""

import numpy as np
import pytest
from folded_models import NAMES, SPECS, folded, network
from keras import layers
from small_models import body, images_for, model_ending_in, pixels, pooled

from keras_resnet.networks.class_activation import activation_map, classifier_of, with_maps


def dropout(x):
    return layers.Dense(3, activation="softmax")(layers.Dropout(0.5)(pooled(x)))


def kept_dimensions(x):
    return layers.Dense(3)(layers.Flatten()(pixels(x)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        *((lambda spec=spec: network(spec)) for spec in SPECS),
        lambda: folded(model_ending_in(dropout)),
        lambda: folded(model_ending_in(kept_dimensions)),
    ],
    ids=[*NAMES, "dropout", "kept dimensions"],
)
def test_the_mean_of_a_map_and_the_bias_are_the_logit(build):
    model = with_maps(build())
    images = images_for(model)
    answer = {name: value.numpy() for name, value in model(images, training=False).items()}
    kernel, bias = classifier_of(model).get_weights()
    classes = np.arange(len(images)) % kernel.shape[1]
    maps = activation_map(answer["maps"], kernel.T[classes]).numpy()
    assert maps.shape == answer["maps"].shape[:3]
    by_hand = (answer["maps"][1] * kernel[:, classes[1]]).sum(axis=-1)
    np.testing.assert_allclose(maps[1], by_hand, rtol=1e-4, atol=1e-5)
    logits = answer["logits"][np.arange(len(images)), classes]
    np.testing.assert_allclose(maps.mean(axis=(1, 2)) + bias[classes], logits, atol=1e-5)


def flat(x):
    return layers.Dense(3)(layers.Flatten()(body(x)))


def two_layers(x):
    return layers.Dense(3)(layers.Dense(8, activation="relu")(pooled(x)))


def norm_after_pooling(x):
    return layers.Dense(3)(layers.BatchNormalization()(pooled(x)))


def maximum(x):
    return layers.Dense(3)(layers.GlobalMaxPooling2D()(body(x)))


def convolution(x):
    return layers.Flatten()(layers.Conv2D(3, 1)(pixels(x)))


def one_sigmoid_unit(x):
    return layers.Dense(1, activation="sigmoid")(pooled(x))


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (flat, "its dense layer reads a Flatten"),
        (two_layers, "its dense layer reads a Dense"),
        (norm_after_pooling, "its dense layer reads a Rescaling"),
        (maximum, "its dense layer reads a GlobalMaxPooling2D"),
        (convolution, "its logits come from a Conv2D"),
        (one_sigmoid_unit, "its logits come from a Pad"),
    ],
)
def test_networks_with_another_end_are_refused(end, reason):
    with pytest.raises(ValueError, match=f"^heat_map is True; mine has no .*, because {reason}"):
        with_maps(folded(model_ending_in(end)))
