"""Conversion of models of other precision to float32."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small_models import (
    Unknown,
    body,
    call_counts,
    images_for,
    model_ending_in,
    nested,
    pooled,
    softmax,
)

from keras_resnet.networks.float32 import float32_copy
from keras_resnet.networks.folding import fold_batch_norm
from keras_resnet.networks.logits import features_and_logits


def test_a_layer_that_cannot_be_copied_is_wrapped():
    model = model_ending_in(lambda x: layers.Dense(3)(Unknown(tf.constant(3.0))(pooled(x))))
    nodes = call_counts(model)
    split = features_and_logits(model).model
    images = images_for(model)
    np.testing.assert_allclose(split(images)["logits"], model(images), rtol=1e-5, atol=1e-6)
    assert call_counts(model) == nodes
    for whole in (model, split):
        with pytest.raises(ValueError, match="layer unknown.* is a Unknown, .* cannot be copied"):
            fold_batch_norm(whole)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float64"])
def test_models_of_other_precision_are_split_and_copied_in_float32(policy):
    def head(x):
        # The first norm follows no convolution, so it becomes a Rescaling.
        x = layers.BatchNormalization()(layers.Rescaling(0.5)(x))
        x = layers.TimeDistributed(layers.Dense(5))(body(x))
        x = layers.GlobalAveragePooling2D()(x)
        return layers.Dense(3, activation="softmax", dtype="float32" if "m" in policy else None)(x)

    single = model_ending_in(head)
    keras.config.set_dtype_policy(policy)
    try:
        model = model_ending_in(head)
        split = features_and_logits(model)
        whole = float32_copy(model)
        folded = fold_batch_norm(split.model)
    finally:
        keras.config.set_dtype_policy("float32")
    # Both have the same weights, rounded to the model's own precision.
    single.set_weights([np.asarray(weight, np.float32) for weight in model.get_weights()])
    images = images_for(model)
    for network in (whole, split.model, folded):
        computing = network._flatten_layers(include_self=False)
        assert {x.compute_dtype for x in computing if not isinstance(x, layers.InputLayer)} == {
            "float32"
        }
    np.testing.assert_allclose(whole(images), single(images), atol=1e-6)
    for network in (split.model, folded):
        answer = softmax(network(images)["logits"])
        np.testing.assert_allclose(answer, single(images), atol=1e-6)
    if policy != "float64":
        assert np.abs(np.asarray(model(images), np.float32) - single(images)).max() > 1e-5


def test_a_model_in_float32_is_returned_itself():
    model = nested()
    assert float32_copy(model) is model
