"""Test networks in bfloat16."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small_models import TINY, Unknown, images_for, model_ending_in, nested, pixels, trained

from keras_resnet import ResNet
from keras_resnet.networks.bfloat16 import bfloat16_copy, stored_in_bfloat16
from keras_resnet.networks.folding import fold_batch_norm


def one_by_one(x):
    """A classifier that is a 1x1 convolution on `[N, 1, 1, C]`."""
    return layers.Flatten()(layers.Conv2D(3, 1)(pixels(x)))


@pytest.mark.parametrize(
    "model",
    [
        lambda: trained(ResNet(TINY, input_shape=(16, 16, 3), classes=5)),
        nested,
        lambda: model_ending_in(one_by_one),
    ],
    ids=["network", "nested", "convolution"],
)
def test_weights_are_stored_once_and_rows_are_float32(model):
    model = fold_batch_norm(model())
    run, stored = stored_in_bfloat16(bfloat16_copy(model))
    graph = tf.function(run).get_concrete_function(tf.TensorSpec(model.input_shape))
    assert {id(weight) for weight in stored.values()} == {id(v) for v in graph.variables}
    # Captured variables are all that an export stores, besides constants.
    assert all(variable.dtype == tf.bfloat16 for variable in graph.variables)
    sizes = [tf.size(variable).numpy() for variable in graph.variables]
    assert sum(sizes) == sum(int(np.prod(weight.shape)) for weight in model.weights)
    for operation in graph.graph.get_operations():
        if operation.type in ("Conv2D", "DepthwiseConv2dNative", "MatMul"):
            rows = operation.outputs[0].shape[1:-1].as_list() in ([], [1, 1])
            assert operation.get_attr("T") == (tf.float32 if rows else tf.bfloat16), operation.name
    images = images_for(model)
    wanted, found = (np.asarray(function(images)) for function in (model, graph))
    assert found.dtype == np.float32
    # bfloat16 has 8 significant bits, so one rounding changes a number by up to 2^-9 of it.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2**-5 * np.abs(wanted).max())
    assert not np.allclose(found, wanted, rtol=0, atol=2**-16 * np.abs(wanted).max())


def test_a_layer_that_cannot_be_copied_is_refused():
    model = model_ending_in(lambda x: layers.Flatten()(Unknown(2.0)(x)))
    with pytest.raises(ValueError, match="is a Unknown, which cannot be copied to bfloat16"):
        bfloat16_copy(keras.Model(model.inputs, model.outputs))
