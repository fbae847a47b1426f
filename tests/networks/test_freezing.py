"""Freezing and unfreezing."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers
from small_models import TINY, nested, of_type

from keras_resnet.networks.build import build
from keras_resnet.networks.freezing import freeze, unfreeze
from keras_resnet.networks.spec import ResNetSpec


def trained_by(model, what):
    """Freeze, train for one step, and return the names of the changed layers.

    Changed moving statistics count, too.
    """
    keras.utils.set_random_seed(0)
    freeze(model, what)
    model.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    before = {layer.name: layer.get_weights() for layer in model.layers}
    images = np.random.default_rng(0).normal(1, 2, size=(8, 16, 16, 3)).astype("float32")
    model.fit(images, np.arange(8) % 3, batch_size=8, epochs=1, verbose=0)
    return {
        layer.name
        for layer in model.layers
        if any(
            (old != new).any()
            for old, new in zip(before[layer.name], layer.get_weights(), strict=True)
        )
    }


@pytest.mark.slow
@pytest.mark.parametrize("order", ["post", "pre"])
def test_freeze(order):
    spec = ResNetSpec(stem="cifar", blocks=(1, 1), width=4, order=order)
    kernels = {
        f"{name}_conv" for name in ("conv1", "conv2_block1_1", "conv2_block1_2", "conv3_block1_0")
    }
    kernels |= {f"conv3_block1_{i}_conv" for i in (1, 2)}
    assert trained_by(
        build(spec, classes=3, classifier_activation=None), "batch_norm"
    ) == kernels | {"predictions"}
    assert trained_by(build(spec, classes=3, classifier_activation=None), "backbone") == {
        "predictions"
    }


def test_a_frozen_batch_norm_runs_in_inference_mode():
    """Otherwise fine-tuning would normalize by the batch and spoil the features (keras#9214)."""
    model = build(ResNetSpec(stem="cifar", blocks=(1, 1), width=4), classes=3)
    images = np.random.default_rng(0).normal(1, 2, size=(8, 16, 16, 3)).astype("float32")
    assert np.abs(model(images, training=True) - model(images, training=False)).max() > 1e-3
    freeze(model, "batch_norm")
    np.testing.assert_array_equal(model(images, training=True), model(images, training=False))
    unfreeze(model)
    assert np.abs(model(images, training=True) - model(images, training=False)).max() > 1e-3


def test_freeze_reaches_a_backbone_inside_a_model_and_leaves_a_users_head():
    backbone = build(
        ResNetSpec(stem="cifar", blocks=(1, 1), width=4), include_top=False, pooling="avg"
    )
    inputs = keras.Input((16, 16, 3))
    model = keras.Sequential(
        [inputs, backbone, keras.layers.BatchNormalization(), keras.layers.Dense(3, name="mine")]
    )
    freeze(model, "backbone")
    assert [v.path.split("/")[-2:] for v in model.trainable_variables[-2:]] == [
        ["mine", "kernel"],
        ["mine", "bias"],
    ]
    assert len(model.trainable_variables) == 4, "batch norm and dense of the user"
    freeze(model, "batch_norm")
    assert len(model.trainable_variables) == 2


class Wrapper(layers.Layer):
    """A user's own layer around a model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, inputs):
        return self.model(inputs)


class ListWrapper(Wrapper):
    """A wrapper that keeps its model in a list."""

    def __init__(self, model):
        super().__init__([model])

    def call(self, inputs):
        return self.model[0](inputs)


def in_a_sequential(model):
    return layers.TimeDistributed(keras.Sequential([model, layers.Activation("relu")]))


@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("wrap", [layers.TimeDistributed, Wrapper, ListWrapper, in_a_sequential])
def test_freeze_finds_a_network_inside_a_layer(wrap, order):
    backbone = build(replace(TINY, order=order), include_top=False, pooling="avg")
    frames = wrap in (layers.TimeDistributed, in_a_sequential)
    inputs = keras.Input((2, 16, 16, 3) if frames else (16, 16, 3))
    x = wrap(backbone)(inputs)
    # The user's own layers have names of the network.
    x = layers.BatchNormalization(name="post_bn")(layers.BatchNormalization(name="conv1_bn")(x))
    model = keras.Model(inputs, layers.Dense(3, name="conv2_head")(x))
    everything = len(model.trainable_variables)
    freeze(model, "backbone")
    assert not backbone.trainable_variables
    assert len(model.trainable_variables) == 2 + 2 + 2
    unfreeze(model)
    assert len(model.trainable_variables) == everything
    freeze(model, "batch_norm")
    assert not [v for v in model.trainable_variables if v.name in ("gamma", "beta")]
    assert len(backbone.trainable_variables) == len(of_type(backbone, layers.Conv2D))


def test_a_head_on_the_same_graph_is_not_the_backbone():
    backbone = build(TINY, include_top=False, pooling="avg")
    x = layers.BatchNormalization(name="post_bn")(backbone.output)
    model = keras.Model(backbone.input, layers.Dense(3, name="conv9")(x))
    freeze(model, "backbone")
    assert [v.path for v in model.trainable_variables] == [
        "post_bn/gamma",
        "post_bn/beta",
        "conv9/kernel",
        "conv9/bias",
    ]


@pytest.mark.parametrize("what", ["batch_norm", "backbone"])
def test_unfreeze_is_the_inverse_of_freeze(what):
    model = nested()
    names = [variable.path for variable in model.trainable_variables]
    freeze(model, what)
    assert len(model.trainable_variables) < len(names)
    # Keras' own switch has no effect here, because the model itself is still trainable.
    model.trainable = True
    assert len(model.trainable_variables) < len(names)
    unfreeze(model)
    assert [variable.path for variable in model.trainable_variables] == names


def around_a_network():
    """Return a user's own model whose head has a batch norm."""
    backbone = build(TINY, include_top=False, pooling="avg")
    x = layers.BatchNormalization(name="own_bn")(backbone.output)
    model = keras.Model(backbone.input, layers.Dense(3, name="own_head")(x))
    return keras.Sequential([keras.Input((16, 16, 3)), model])


def switch_off_layers(model):
    of_type(model, layers.Dense)[0].trainable = False
    of_type(model, layers.Conv2D)[1].trainable = False
    of_type(model, layers.BatchNormalization)[2].trainable = False


def switch_off_the_network(model):
    model.layers[-1].trainable = False
    model.layers[-1].get_layer("own_head").trainable = True


def adapt(model):
    """Add an adapter (LoRA), which is trained instead of the kernel."""
    of_type(model, layers.Conv2D)[1].enable_lora(2)


@pytest.mark.parametrize(
    "calls", [["batch_norm"], ["backbone"], ["batch_norm", "backbone", "backbone"]]
)
@pytest.mark.parametrize("before", [switch_off_layers, switch_off_the_network, adapt])
def test_unfreeze_restores_what_was_trainable_before(before, calls):
    model = around_a_network()
    before(model)
    names = [variable.path for variable in model.trainable_variables]
    flags = [layer.trainable for layer in model._flatten_layers()]
    for what in calls:
        freeze(model, what)
    unfreeze(model)
    assert [variable.path for variable in model.trainable_variables] == names
    assert [layer.trainable for layer in model._flatten_layers()] == flags


def test_freeze_respects_flags_set_since_an_earlier_call():
    """Flags that the user sets between two calls are kept."""
    model = around_a_network()
    freeze(model, "backbone")
    norm, *_ = of_type(model, layers.BatchNormalization)
    head, *_ = of_type(model, layers.Dense)
    head.trainable = False
    unfreeze(model)
    assert norm.trainable and not head.trainable
    norm.trainable = False
    freeze(model, "backbone")
    norm.trainable = True
    freeze(model, "batch_norm")
    unfreeze(model)
    assert norm.trainable


def test_unfreeze_of_a_loaded_model_says_how_to_proceed(tmp_path):
    model = build(TINY, classes=3)
    everything = len(model.trainable_variables)
    freeze(model, "backbone")
    model.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    assert len(loaded.trainable_variables) == 2
    with pytest.raises(
        ValueError, match="is not trainable, but `freeze` froze nothing .* False and then True"
    ):
        unfreeze(loaded)
    loaded.trainable = False
    loaded.trainable = True
    assert len(loaded.trainable_variables) == everything
    unfreeze(loaded)  # nothing to do


def test_freeze_refuses_unknown_targets():
    model = build(ResNetSpec(stem="cifar", blocks=(1, 1), width=4), classes=3)
    with pytest.raises(
        ValueError, match="what to freeze is 'bn'; choose one of 'batch_norm', 'backbone'"
    ):
        freeze(model, "bn")
    with pytest.raises(ValueError, match="no backbone to freeze"):
        freeze(keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]), "backbone")
