"""Test the measurements that explain depth: gradients, responses, lesions and Grad-CAM."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.evaluation.grad_cam import grad_cam
from keras_resnet.evaluation.gradients import unit_gradients
from keras_resnet.evaluation.lesions import errors_without, lesions
from keras_resnet.evaluation.responses import layer_responses
from keras_resnet.networks.blocks import units
from keras_resnet.networks.build import build
from keras_resnet.networks.spec import ResNetSpec

SMALL = ResNetSpec(stem="cifar", block="basic", blocks=(2, 2), width=4, shortcut="A")
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 8, 8, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def network(spec, seed=0):
    keras.utils.set_random_seed(seed)
    return build(spec, input_shape=(8, 8, 3), classes=3, classifier_activation=None)


def batches():
    yield IMAGES[:4], LABELS[:4]
    yield IMAGES[4:], LABELS[4:]


@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        replace(SMALL, shortcut="B", order="pre"),
        replace(SMALL, block="bottleneck", shortcut="B"),
        replace(SMALL, shortcut=None),
    ],
    ids=["A", "B pre", "bottleneck", "plain"],
)
def test_gradients_are_those_of_the_rest_of_the_network(spec):
    """The layers after a unit's input are a model of their own, of which the input is given."""
    model = network(spec)
    rows = unit_gradients(model, spec, IMAGES, LABELS, batch_norm=False)
    assert [row.unit for row in rows] == [unit.name for unit in units(spec)]
    for row, unit in zip(rows, units(spec), strict=True):
        at = model.get_layer(unit.first).input
        before, after = keras.Model(model.input, at), keras.Model(at, model.output)
        given = tf.Variable(before(IMAGES, training=False))
        norms = []
        for number in range(len(IMAGES)):
            with tf.GradientTape() as tape:
                logits = after(given[number : number + 1], training=False)[0]
                loss = -tf.nn.log_softmax(logits)[LABELS[number]]
            gradient = tf.convert_to_tensor(tape.gradient(loss, given))
            norms.append(float(tf.norm(gradient)))
        assert row.total == pytest.approx(np.sqrt(np.mean(np.square(norms))), rel=1e-4)


def test_the_identity_carries_the_gradient_unchanged():
    """He et al. 2016, equation 5: in order "pre" the sum of a unit is the input of the next."""
    spec = replace(SMALL, blocks=(4, 1), order="pre")
    rows = unit_gradients(network(spec), spec, IMAGES, LABELS)
    for row, following in zip(rows[:3], rows[1:4], strict=True):
        assert row.shortcut == pytest.approx(following.total, rel=1e-5)
        assert row.branch > 0
    assert rows[4].shortcut is None, "zero padding is not the identity"


@pytest.mark.parametrize("order", ["post", "pre"])
def test_a_branch_of_zeros_carries_no_gradient(order):
    spec = replace(SMALL, order=order)
    model = network(spec)
    first = model.get_layer("conv2_block1_1_conv")
    first.kernel.assign(tf.zeros_like(first.kernel))
    row = unit_gradients(model, spec, IMAGES, LABELS, batch_norm=False)[0]
    assert row.branch == pytest.approx(0, abs=1e-6 * row.total)
    assert row.shortcut == pytest.approx(row.total)


def test_measuring_changes_no_weight():
    model = network(SMALL)
    before = model.get_weights()
    unit_gradients(model, SMALL, IMAGES, LABELS)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("spec", [SMALL, replace(SMALL, block="bottleneck", shortcut="B")])
def test_responses_are_standard_deviations_after_batch_norm(spec):
    model = network(spec)
    found = layer_responses(model, spec, (images for images, _ in batches()))
    per_unit = 2 if spec.block == "basic" else 1
    assert len(found) == 1 + 4 * per_unit, "3x3 convolutions"
    for name, deviation in found:
        response = keras.Model(model.input, model.get_layer(f"{name}_bn").output)(IMAGES)
        assert deviation == pytest.approx(np.std(response), rel=1e-5)


def test_lesions_are_the_errors_of_networks_without_a_unit():
    images = RNG.normal(size=(60, 8, 8, 3)).astype(np.float32)
    bias = -network(SMALL)(images).numpy().mean(axis=0)

    def varied():
        """Build a network that does not give every image the same class."""
        model = network(SMALL)
        model.layers[-1].bias.assign(bias)
        return model

    labels = varied()(images).numpy().argmax(axis=1)

    def batches():
        yield images[:50], labels[:50]
        yield images[50:], labels[50:]

    whole, rows = lesions(varied(), SMALL, batches)
    assert whole == 0 and [name for name, _ in rows] == [unit.name for unit in units(SMALL)]
    assert len({error for _, error in rows}) > 2
    for name, error in rows:
        damaged = varied()
        norm = damaged.get_layer(f"{name}_2_bn")
        norm.gamma.assign(tf.zeros_like(norm.gamma))
        answers = damaged(images, training=False).numpy().argmax(axis=1)
        assert error == pytest.approx(100 * np.mean(answers != labels))


def test_units_that_cannot_be_removed_are_refused():
    plain = replace(SMALL, shortcut=None)
    for name in ("conv3_block1", "conv9_block1"):
        with pytest.raises(ValueError, match=f"removed has '{name}'; choose from .*conv2_block1"):
            errors_without(network(plain), plain, batches, [[name]])


def test_grad_cam_of_the_last_maps_is_the_class_activation_map():
    """Selvaraju et al. 2017, section 3.1."""
    model = network(SMALL)
    maps = keras.Model(model.input, model.layers[-3].output)(IMAGES).numpy()
    kernel = model.layers[-1].get_weights()[0]
    wanted = np.einsum("nhwc,cn->nhw", maps, kernel[:, LABELS]) / (maps.shape[1] * maps.shape[2])
    found = grad_cam(model, IMAGES, LABELS)
    np.testing.assert_allclose(found, np.maximum(wanted, 0), atol=1e-6)
    assert found.max() > 0
    other = grad_cam(model, IMAGES, LABELS, layer="conv2_block2_out")
    assert other.shape == (6, 8, 8) and (other >= 0).all()


@pytest.mark.parametrize("layer", ["conv9_out", "predictions", "avg_pool"])
def test_layers_without_maps_are_refused(layer):
    with pytest.raises(ValueError, match=f"layer is '{layer}'"):
        grad_cam(network(SMALL), IMAGES, LABELS, layer=layer)
