import keras
import numpy as np
import tensorflow as tf

from keras_resnet import bn_statistics
from keras_resnet.model import build
from keras_resnet.spec import ResNetSpec


def network(**arguments):
    keras.utils.set_random_seed(0)
    return build(ResNetSpec(stem="cifar", blocks=(1, 1), width=4, **arguments), classes=3)


def batches(pictures, size):
    return tf.data.Dataset.from_tensor_slices((pictures, np.zeros(len(pictures)))).batch(size)


def test_statistics_of_the_first_batch_norm_are_those_of_all_pictures():
    """What enters it depends on no other batch norm, so a computation over everything at once must agree."""
    model = network()
    pictures = np.random.default_rng(0).normal(3, 2, (40, 8, 8, 3)).astype("float32")
    pictures[:8] += 5  # the batches differ, so that the variance of their means matters
    bn_statistics.population(model, batches(pictures, 8), 5)
    entering = keras.Model(model.input, model.get_layer("conv1_conv").output)(pictures).numpy().astype("float64")
    norm = model.get_layer("conv1_bn")
    np.testing.assert_allclose(norm.moving_mean, entering.mean(axis=(0, 1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, entering.var(axis=(0, 1, 2)), rtol=1e-4)


def test_one_batch_gives_the_same_outputs_as_training_mode():
    """With the statistics of one batch, inference on that batch is what training mode computes on it."""
    for order in ("post", "pre"):
        model = network(order=order)
        pictures = np.random.default_rng(0).normal(3, 2, (16, 8, 8, 3)).astype("float32")
        wanted = model(pictures, training=True).numpy()
        assert np.abs(model(pictures).numpy() - wanted).max() > 1e-3
        bn_statistics.population(model, batches(pictures, 16), 1)
        np.testing.assert_allclose(model(pictures), wanted, rtol=1e-4, atol=1e-5)


def test_weights_and_momentum_stay():
    model = network()
    before = [v.numpy() for v in model.trainable_variables]
    bn_statistics.population(model, batches(np.ones((4, 8, 8, 3), "float32"), 2), 2)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert {layer.momentum for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)} == {0.9}
