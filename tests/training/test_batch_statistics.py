import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.networks.build import build
from keras_resnet.networks.spec import ResNetSpec
from keras_resnet.training.batch_statistics import set_population_statistics


def network(**arguments):
    keras.utils.set_random_seed(0)
    return build(ResNetSpec(stem="cifar", blocks=(1, 1), width=4, **arguments), classes=3)


def batches(images, size):
    return tf.data.Dataset.from_tensor_slices((images, np.zeros(len(images)))).batch(size)


def test_statistics_of_the_first_batch_norm_are_those_of_all_images():
    """Its input depends on no other batch norm, so they equal a computation over all images."""
    model = network()
    images = np.random.default_rng(0).normal(3, 2, (40, 8, 8, 3)).astype("float32")
    images[:8] += 5  # gives the batches different means, whose variance then matters
    set_population_statistics(model, batches(images, 8), 5)
    entering = (
        keras.Model(model.input, model.get_layer("conv1_conv").output)(images)
        .numpy()
        .astype("float64")
    )
    norm = model.get_layer("conv1_bn")
    np.testing.assert_allclose(
        norm.moving_mean, entering.mean(axis=(0, 1, 2)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(norm.moving_variance, entering.var(axis=(0, 1, 2)), rtol=1e-4)


@pytest.mark.slow
def test_one_batch_gives_the_same_outputs_as_training_mode():
    """With the statistics of one batch, inference on that batch equals training mode on it."""
    for order in ("post", "pre"):
        model = network(order=order)
        images = np.random.default_rng(0).normal(3, 2, (16, 8, 8, 3)).astype("float32")
        wanted = model(images, training=True).numpy()
        assert np.abs(model(images).numpy() - wanted).max() > 1e-3
        set_population_statistics(model, batches(images, 16), 1)
        np.testing.assert_allclose(model(images), wanted, rtol=1e-4, atol=1e-5)


def test_weights_and_momentum_are_unchanged():
    model = network()
    before = [v.numpy() for v in model.trainable_variables]
    set_population_statistics(model, batches(np.ones((4, 8, 8, 3), "float32"), 2), 2)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert {
        layer.momentum
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    } == {0.9}
