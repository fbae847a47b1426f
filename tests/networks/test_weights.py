"""Weights of other libraries: the network computes the same function, or refuses them."""

import hashlib
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
from helpers import PROGRAMS
from keras.src.applications.resnet import BASE_WEIGHTS_PATH, WEIGHTS_HASHES
from keras.src.legacy.saving import legacy_h5_format

import keras_resnet
from keras_resnet import NETWORKS, PREPROCESSING, ResNet, ResNetSpec
from keras_resnet.networks import weights
from keras_resnet.training import distribution

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "torchvision.json").read_text(encoding="utf-8")
)
SMALL = ResNetSpec(stem="imagenet", block="bottleneck", blocks=(2, 2), width=4)


def golden_script():
    path = Path(__file__).parents[2] / "scripts" / "golden_torchvision.py"
    spec = importlib.util.spec_from_file_location("golden_torchvision", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def randomize(model, seed=0):
    """Randomize every weight of a keras.applications model, so that a lost one shows."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            # Branches are weaker than shortcuts. Otherwise the sums would grow with every unit.
            gamma = (0.3 if layer.name.endswith("_3_bn") else 1.0) * (
                1 + 0.2 * rng.standard_normal(n)
            )
            variance = np.exp(0.5 * rng.standard_normal(n))
            layer.set_weights(
                [gamma, 0.2 * rng.standard_normal(n), 0.2 * rng.standard_normal(n), variance]
            )
        elif layer.weights:
            layer.bias.assign(0.2 * rng.standard_normal(layer.bias.shape))


def publish(model, path, head="predictions"):
    """Save a model in the layout of the published files, which is the layout of Keras 2.

    It has one group per layer: `conv1_conv/conv1_conv/kernel:0`.
    """
    with h5py.File(path, "w") as file:
        names = [head if layer.name == "predictions" else layer.name for layer in model.layers]
        file.attrs["layer_names"] = [name.encode() for name in names]
        for layer, name in zip(model.layers, names, strict=True):
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{v.name}:0".encode() for v in layer.weights]
            for v in layer.weights:
                group.create_dataset(f"{name}/{v.name}:0", data=v.numpy())


def by_keras(model, path):
    """Save a model in the same layout by Keras itself."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def images(*size):
    """Return two noise images of different tints, as after "caffe" preprocessing."""
    rng = np.random.default_rng(1)
    return (rng.normal(0, 40, (2, 1, 1, 3)) + rng.normal(0, 40, (2, *size, 3))).astype("float32")


def error(got, wanted):
    """Return the largest difference, relative to the largest magnitude."""
    return np.abs(got - wanted).max() / np.abs(wanted).max()


def published_and_ours(name, path, write, size, top):
    arguments = {"input_shape": (*size, 3), "include_top": top}
    if top:
        arguments["classifier_activation"] = None
    theirs = getattr(keras.applications, name)(weights=None, **arguments)
    randomize(theirs)
    write(theirs, path)
    ours = getattr(keras_resnet, name)(weights=path, **arguments)
    return theirs.predict(images(*size), verbose=0), ours.predict(images(*size), verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write", "file", "size", "top"),
    [
        ("ResNet50", publish, "published.h5", (224, 224), True),
        # Every layout, size and top, of the smallest network.
        ("ResNet50", by_keras, "keras.h5", (160, 192), False),
        ("ResNet50", keras.Model.save_weights, "saved.weights.h5", (96, 64), False),
        ("ResNet50", keras.Model.save_weights, "saved.weights.h5", (160, 192), True),
        ("ResNet101", by_keras, "keras.h5", (160, 192), True),
    ],
)
def test_keras_applications(tmp_path, name, write, file, size, top):
    """With random weights, statistics and biases our network computes the same function."""
    theirs, ours = published_and_ours(name, tmp_path / file, write, size, top)
    assert theirs.shape == ours.shape
    assert error(ours, theirs) <= 1e-5
    assert error(theirs[0], theirs[1]) > 1e-2, "the network must distinguish the images"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Save a random ResNet-50 as keras.applications publishes it, with a head called `probs`."""
    path = tmp_path_factory.mktemp("published") / "resnet50.h5"
    model = keras.applications.ResNet50(weights=None, classifier_activation=None)
    randomize(model)
    variance = model.get_layer("conv4_block2_1_bn").moving_variance
    variance.assign(np.full(variance.shape, 3e-7))
    publish(model, path, head="probs")
    return path, model


@pytest.mark.slow
def test_the_head_may_be_called_probs(published):
    path, theirs = published
    ours = keras_resnet.ResNet50(weights=path)
    np.testing.assert_array_equal(
        ours.get_layer("predictions").kernel, theirs.get_layer("predictions").kernel
    )
    np.testing.assert_array_equal(
        ours.get_layer("predictions").bias, theirs.get_layer("predictions").bias
    )


def test_biases_and_epsilon_are_folded_into_batch_norm(published):
    """By hand: the bias is subtracted from the mean, 1.001e-5 - 1e-5 is added to the variance."""
    path, theirs = published
    arrays = weights.read(path).arrays
    norm, conv = theirs.get_layer("conv4_block2_2_bn"), theirs.get_layer("conv4_block2_2_conv")
    assert norm.epsilon == 1.001e-5
    np.testing.assert_allclose(
        arrays["conv4_block2_2_bn/moving_mean"], norm.moving_mean - conv.bias, rtol=1e-6, atol=1e-7
    )
    # 1e-8 is negligible for a variance of one, but not for an almost dead channel.
    ours = arrays["conv4_block2_1_bn/moving_variance"].astype("float64") + 1e-5
    np.testing.assert_allclose(ours, 3e-7 + 1.001e-5, rtol=1e-7)
    assert not any(name.endswith("_conv/bias") for name in arrays)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride_on": "3x3"}, "has stride_on '1x1', this one has '3x3'"),
        ({"shortcut": "A"}, "has shortcut 'B', this one has 'A'"),
        ({"shortcut": "C"}, "has shortcut 'B', this one has 'C'"),
        ({"order": "pre"}, "has order 'post', this one has 'pre'"),
        (
            {"preprocessing": PREPROCESSING["torch"]},
            "BGR channels, mean (103.939, 116.779, 123.68)",
        ),
        ({"preprocessing": PREPROCESSING["tf"]}, "not RGB channels, mean (127.5, 127.5, 127.5)"),
    ],
)
def test_networks_that_differ_from_keras_applications_are_refused(published, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        keras_resnet.ResNet50(weights=published[0], **arguments)
    assert str(published[0]) in str(raised.value)


@pytest.mark.slow
def test_the_same_preprocessing_is_accepted_at_any_size(published):
    """Weights depend on the normalization, not on the resolution."""
    caffe = replace(PREPROCESSING["caffe"], resize=288, crop=288)
    assert keras_resnet.ResNet50(weights=published[0], preprocessing=caffe, include_top=False)
    assert weights.read(published[0]).preprocessing == PREPROCESSING["caffe"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ResNet101", "has no conv4_block7_1_conv/kernel"),
        (
            "ResNet18",
            "conv2_block1_1_conv/kernel has shape (1, 1, 64, 64), in the network (3, 3, 64, 64)",
        ),
        ("ResNet20", "has shortcut 'B', this one has 'A'"),
    ],
)
def test_other_networks_are_refused_with_the_first_difference(published, name, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(keras_resnet, name)(weights=published[0])


def test_a_deeper_file_is_refused(published, tmp_path):
    shallow = replace(NETWORKS["resnet50"], blocks=(3, 4, 6, 2))
    with pytest.raises(
        ValueError, match="has conv5_block3_1_.*, but the network has no such variable"
    ):
        ResNet(shallow, weights=published[0])


@pytest.mark.slow
def test_v2_networks_are_refused(tmp_path):
    """Their pre-activation differs from ours in the places of batch norms and strides."""
    keras.applications.ResNet50V2(weights=None).save_weights(tmp_path / "v2.weights.h5")
    for order in ("post", "pre"):
        with pytest.raises(ValueError, match="v2.weights.h5"):
            keras_resnet.ResNet50(weights=tmp_path / "v2.weights.h5", order=order)


def torchvision_file(network, path, **changes):
    script = golden_script()
    tensors = {key: script.tensor(key, shape) for key, shape in script.shapes(network).items()}
    safetensors.numpy.save_file(
        {k: np.ascontiguousarray(v) for k, v in (tensors | changes).items()}, path
    )
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "case"),
    [
        pytest.param(network, case, marks=[pytest.mark.slow] if network == "resnet50" else [])
        for network, entry in GOLDEN["networks"].items()
        for case in entry["cases"]
    ],
)
def test_torchvision(tmp_path, network, case):
    """Compare with logits of PyTorch (`scripts/golden_torchvision.py`) for the same checkpoint."""
    script = golden_script()
    assert script.checksum(network) == pytest.approx(
        GOLDEN["networks"][network]["checksum"], rel=1e-9
    )
    path = torchvision_file(network, tmp_path / "model.safetensors")
    factory = getattr(keras_resnet, network.replace("resnet", "ResNet"))
    model = factory(weights=path, stride_on="3x3", classifier_activation=None)
    got = model.predict(
        script.images(case["height"], case["width"]).transpose(0, 2, 3, 1), verbose=0
    )
    wanted, largest = np.array(case["logits"]), max(case["largest"])
    assert np.abs(got[:, GOLDEN["classes"]] - wanted).max() / largest <= 1e-5
    np.testing.assert_allclose(np.abs(got).max(axis=1), case["largest"], rtol=1e-5)
    np.testing.assert_allclose(got.sum(axis=1, dtype="float64"), case["sum"], atol=1e-3)
    difference = np.abs(wanted[0] - wanted[1]).max() / largest
    assert difference > 1e-2, "the network must distinguish the images"


@pytest.mark.slow
def test_networks_that_differ_from_torchvision_are_refused(tmp_path):
    path = torchvision_file("resnet50", tmp_path / "model.safetensors")
    for arguments, message in [
        ({}, "has stride_on '3x3', this one has '1x1'"),
        ({"stride_on": "3x3", "shortcut": "C"}, "has shortcut 'B', this one has 'C'"),
        ({"stride_on": "3x3", "order": "pre"}, "has order 'post', this one has 'pre'"),
        (
            {"stride_on": "3x3", "preprocessing": PREPROCESSING["caffe"]},
            "was trained on images with RGB channels",
        ),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            keras_resnet.ResNet50(weights=path, **arguments)
    assert weights.read(path).preprocessing == PREPROCESSING["torch"]


def test_basic_blocks_fit_either_stride_placement(tmp_path):
    path = torchvision_file("resnet18", tmp_path / "model.safetensors")
    assert keras_resnet.ResNet18(weights=path, stride_on="1x1", include_top=False)


def test_a_variant_of_the_network_is_refused_by_name(tmp_path):
    """timm's resnet18d has a stem of three convolutions."""
    tensors = safetensors.numpy.load_file(
        torchvision_file("resnet18", tmp_path / "model.safetensors")
    )
    tensors["conv1.0.weight"] = tensors.pop("conv1.weight")
    safetensors.numpy.save_file(tensors, tmp_path / "d.safetensors")
    with pytest.raises(
        ValueError,
        match="has no conv1_conv/kernel, but has conv1.0.weight",
    ):
        keras_resnet.ResNet18(weights=tmp_path / "d.safetensors")


AXES = [
    replace(SMALL, shortcut=shortcut, stride_on=stride_on, order=order)
    for shortcut, stride_on, order in itertools.product(
        ("A", "B", "C", None), ("1x1", "3x3"), ("post", "pre")
    )
]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Save a file of this package for every combination of the paper's axes."""
    folder = tmp_path_factory.mktemp("ours")
    files = {}
    for spec in AXES:
        files[spec] = folder / f"{spec.name}.weights.h5"
        model = ResNet(spec, classes=5)
        model.set_weights(
            [np.random.default_rng(0).uniform(0.5, 1.5, w.shape) for w in model.get_weights()]
        )
        model.save_weights(files[spec])
    return files


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [*AXES[:2], *(pytest.param(spec, marks=pytest.mark.slow) for spec in AXES[2:])],
    ids=lambda spec: spec.name,
)
def test_our_files_fit_their_own_network_only(ours, spec):
    """Names and shapes do not distinguish plain networks from A, or the stride placements."""
    model = ResNet(spec, weights=ours[spec], classes=5)
    reference = ResNet(spec, classes=5)
    reference.load_weights(ours[spec])
    np.testing.assert_array_equal(model(images(32, 32)), reference(images(32, 32)))
    for other in ours:
        differs = [
            axis
            for axis in ("shortcut", "stride_on", "order")
            if getattr(spec, axis) != getattr(other, axis)
        ]
        if len(differs) == 1:
            with pytest.raises(ValueError, match=f"has {differs[0]} "):
                weights.load(model, spec, ours[other])


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5", "model.h5"])
def test_every_file_format_of_keras_is_read(tmp_path, file):
    model = ResNet(SMALL, classes=5)
    (model.save_weights if file == "model.weights.h5" else model.save)(tmp_path / file)
    again = ResNet(SMALL, weights=tmp_path / file, classes=5)
    np.testing.assert_array_equal(again(images(32, 32)), model(images(32, 32)))


@pytest.mark.slow
def test_the_file_of_a_run_has_its_preprocessing(digits_run):
    from keras_resnet.data.preprocessing import Preprocessing
    from keras_resnet.runs.recipes import RECIPES

    checkpoint = weights.read(digits_run.model_file)
    assert checkpoint.source == "keras_resnet"
    assert checkpoint.preprocessing == Preprocessing.read(digits_run.preprocessing_file)
    spec = RECIPES["digits-tiny"].spec
    model = ResNet(
        spec, weights=digits_run.model_file, classes=10, preprocessing=checkpoint.preprocessing
    )
    reference = keras.models.load_model(digits_run.model_file)
    for got, wanted in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)
    with pytest.raises(ValueError, match="a per-pixel mean and scale"):
        ResNet(
            spec, weights=digits_run.model_file, classes=10, preprocessing=PREPROCESSING["torch"]
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"classes": 5}, "has 5 classes"), ({"include_top": False}, "has no classifier")],
)
def test_another_number_of_classes_loads_the_backbone_and_warns(tmp_path, arguments, message):
    source = ResNet(SMALL, **arguments)
    source.save_weights(tmp_path / "model.weights.h5")
    with pytest.warns(
        UserWarning, match=f"{message}, resnet14 has 7 classes: the backbone is loaded"
    ):
        model = ResNet(SMALL, weights=tmp_path / "model.weights.h5", classes=7)
    assert model.output_shape == (None, 7)
    for layer in source.layers:
        if layer.weights and layer.name != "predictions":
            for got, wanted in zip(model.get_layer(layer.name).weights, layer.weights, strict=True):
                np.testing.assert_array_equal(got, wanted)
    kernel = model.get_layer("predictions").kernel.numpy()
    assert 0.01 < kernel.std() < 1, "He initialization"


@pytest.mark.slow
def test_without_top_the_classifier_is_left_out(ours):
    spec = next(iter(ours))
    model = ResNet(spec, weights=ours[spec], include_top=False)  # warnings are errors here
    assert model.get_layer("conv1_conv").kernel.numpy().min() >= 0.5


class Around(keras.layers.Layer):
    """A user's own layer around a model."""

    def __init__(self, model):
        super().__init__()
        self.models = [model]

    def call(self, images):
        return self.models[0](images)


class OwnModel(keras.Model):
    """A user's own model whose head has a layer with a name of the network."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.norm = keras.layers.BatchNormalization(name="conv1_bn")
        self.classifier = keras.layers.Dense(5, name="mine")

    def call(self, images):
        return self.classifier(self.norm(self.network(images)))


def in_a_model(network, around=lambda network: network, frames=()):
    inputs = keras.Input((*frames, 32, 32, 3))
    x = around(network)(inputs)
    return keras.Model(inputs, keras.layers.Dense(5, name="mine")(x))


def in_an_own_model(network):
    model = OwnModel(network)
    model(images(32, 32))
    return model


def with_an_own_head(network):
    x = keras.layers.Dense(7, name="mine")(network.output)
    return keras.Model(network.input, keras.layers.Dense(5, name="predictions")(x))


WRAPPED = {
    "model": in_a_model,
    "sequential": lambda network: keras.Sequential(
        [keras.Input((32, 32, 3)), network, keras.layers.Dense(5, name="mine")]
    ),
    "models in models": lambda network: in_a_model(
        network, lambda network: keras.Sequential([keras.Input((32, 32, 3)), network])
    ),
    "time distributed": lambda network: in_a_model(
        network, keras.layers.TimeDistributed, frames=(2,)
    ),
    "own layer": lambda network: in_a_model(network, Around),
    "own model": in_an_own_model,
    "own head": with_an_own_head,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*left out")  # the classifier gives another warning
@pytest.mark.parametrize("order", ["post", "pre"])
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_network_inside_a_model_is_found_and_the_rest_named(tmp_path, wrapped, order):
    spec = replace(SMALL, blocks=(1, 1), order=order)
    network = ResNet(spec, include_top=False, pooling="avg")
    randomize_all(network)
    model = WRAPPED[wrapped](network)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "a.weights.h5")
    files = ["a.weights.h5"]
    if not wrapped.startswith("own ") or wrapped == "own head":
        model.save(tmp_path / "a.keras")
        files.append("a.keras")
    for file in files:
        with pytest.warns(UserWarning, match=r"left out: mine(, conv1_bn)?$"):
            loaded = ResNet(spec, include_top=False, weights=tmp_path / file)
        for got, wanted in zip(loaded.get_weights(), network.get_weights(), strict=True):
            np.testing.assert_array_equal(got, wanted)
        with pytest.warns(UserWarning, match="the classifier keeps its own weights"):
            ResNet(spec, classes=5, weights=tmp_path / file)
        for shortcut in ("A", None):
            with pytest.raises(ValueError, match="has shortcut 'B' or 'C', this one has"):
                ResNet(replace(spec, shortcut=shortcut), weights=tmp_path / file)


def randomize_all(model):
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])


def test_two_networks_in_one_file_are_refused(tmp_path):
    inputs = keras.Input((32, 32, 3))
    spec = replace(SMALL, blocks=(1, 1))
    votes = [ResNet(spec, classes=5, name=name)(inputs) for name in ("one", "other")]
    keras.Model(inputs, keras.layers.Average()(votes)).save_weights(tmp_path / "two.weights.h5")
    with pytest.raises(ValueError, match="two.weights.h5 .* has 2 networks"):
        ResNet(spec, classes=5, weights=tmp_path / "two.weights.h5")


def test_the_h5_format_is_refused_for_a_network_inside_a_model(tmp_path):
    network = ResNet(SMALL, include_top=False, pooling="avg")
    in_a_model(network).save(tmp_path / "old.h5")
    with pytest.raises(ValueError, match=r"has no names of .* save the model as .keras"):
        ResNet(SMALL, weights=tmp_path / "old.h5")
    with_an_own_head(network).save(tmp_path / "flat.h5")
    with pytest.warns(UserWarning, match=r"left out: mine$"):
        ResNet(SMALL, include_top=False, weights=tmp_path / "flat.h5")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["a.weights.h5", "a.h5"])
def test_a_model_around_a_network_of_keras_applications(tmp_path, file):
    """keras.applications fixes the shortcut, so the .h5 format is enough."""
    published = keras.applications.ResNet50(weights=None, include_top=False, pooling="avg")
    randomize(published)
    inputs = keras.Input((64, 64, 3))
    model = keras.Sequential([inputs, published, keras.layers.Dense(3, name="mine")])
    (model.save if file == "a.h5" else model.save_weights)(tmp_path / file)
    with pytest.warns(UserWarning, match=r"left out: mine$"):
        loaded = keras_resnet.ResNet50(
            weights=tmp_path / file, include_top=False, pooling="avg", input_shape=(64, 64, 3)
        )
    wanted = published.predict(images(64, 64), verbose=0)
    np.testing.assert_allclose(
        loaded.predict(images(64, 64), verbose=0), wanted, atol=1e-4 * np.abs(wanted).max()
    )


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["module.", "model.backbone.", ""])
def test_a_module_around_a_torchvision_network(tmp_path, prefix):
    """DataParallel and Lightning prefix a module's name, and users' heads replace `fc`."""
    path = torchvision_file("resnet18", tmp_path / "model.safetensors")
    plain = keras_resnet.ResNet18(weights=path, include_top=False)
    tensors = {prefix + key: value for key, value in safetensors.numpy.load_file(path).items()}
    tensors[f"{prefix}fc.1.weight"] = tensors.pop(f"{prefix}fc.weight")
    tensors[f"{prefix}fc.1.bias"] = tensors.pop(f"{prefix}fc.bias")
    if prefix:
        tensors["head.weight"] = np.zeros((5, 512), np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "prefixed.safetensors")
    with pytest.warns(UserWarning, match=rf"left out: {'head, ' * bool(prefix)}{prefix}fc\.1$"):
        loaded = keras_resnet.ResNet18(weights=tmp_path / "prefixed.safetensors", include_top=False)
    for got, wanted in zip(loaded.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_layers_of_the_user_stay_unchanged(ours):
    spec = next(iter(ours))
    inputs = keras.Input((32, 32, 3))
    mine = keras.layers.Conv2D(3, 1, name="mine")
    model = ResNet(spec, weights=ours[spec], input_tensor=mine(inputs), include_top=False)
    assert abs(model.get_layer("mine").kernel.numpy()).max() < 2
    assert model.get_layer("conv1_conv").kernel.numpy().min() >= 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "wanted"),
    [
        # From 1, 10 and 100 for red, green and blue, by timm's `adapt_input_conv`.
        (1, [111]),
        (2, [1.5, 15]),
        (4, [0.75, 7.5, 75, 0.75]),
        (5, [0.6, 6, 60, 0.6, 6]),
        (6, [0.5, 5, 50, 0.5, 5, 50]),
    ],
)
def test_weights_for_color_are_adapted_to_other_channels(tmp_path, channels, wanted):
    color = ResNet(SMALL, classes=5, classifier_activation=None)
    kernel = np.ones((7, 7, 1, 4)) * np.array([1, 10, 100])[:, None]
    color.get_layer("conv1_conv").set_weights([kernel])
    color.save_weights(tmp_path / "color.weights.h5")
    with pytest.warns(UserWarning, match=f"3 channels, resnet14 takes {channels}: .* adapted"):
        model = ResNet(
            SMALL,
            weights=tmp_path / "color.weights.h5",
            input_shape=(32, 32, channels),
            classes=5,
            classifier_activation=None,
        )
    adapted = model.get_layer("conv1_conv").kernel.numpy()
    np.testing.assert_allclose(adapted[3, 3, :, 2], wanted, rtol=1e-6)
    if channels in (1, 6):  # every color is used equally often
        gray = images(32, 32)[..., :1]
        np.testing.assert_allclose(
            model(np.repeat(gray, channels, axis=-1)),
            color(np.repeat(gray, 3, axis=-1)),
            rtol=1e-4,
            atol=1e-4,
        )


def test_weights_for_gray_images_are_refused_for_color(tmp_path):
    gray = ResNet(SMALL, classes=5, input_shape=(32, 32, 1))
    gray.save_weights(tmp_path / "gray.weights.h5")
    with pytest.raises(ValueError, match=r"shape \(7, 7, 1, 4\), in the network \(7, 7, 3, 4\)"):
        ResNet(SMALL, classes=5, weights=tmp_path / "gray.weights.h5")
    assert ResNet(
        SMALL, classes=5, input_shape=(32, 32, 1), weights=tmp_path / "gray.weights.h5"
    )  # without a warning


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda file: file.__delitem__("layers/batch_normalization_8/vars/3"),
            "has no conv3_block",
        ),
        (
            lambda file: file["layers/batch_normalization_7/vars"].create_dataset("4", data=[1.0]),
            "_bn/4, but the network has no such variable",
        ),
        (lambda file: file.__delitem__("layers/conv2d_7"), "has no conv2_block2_3_conv/kernel"),
        (
            lambda file: (
                file.__delitem__("layers/conv2d/vars/0"),
                file["layers/conv2d/vars"].create_dataset("0", data=np.zeros(7, np.float32)),
            ),
            "conv1_conv/kernel has shape (7,), in the network (7, 7, 3, 4)",
        ),
    ],
)
def test_a_file_that_does_not_fit_leaves_the_model_unchanged(tmp_path, damage, message):
    path = tmp_path / "model.weights.h5"
    ResNet(SMALL, classes=5).save_weights(path)
    with h5py.File(path, "a") as file:
        damage(file)
    model = ResNet(SMALL, classes=5)
    before = model.get_weights()
    with pytest.raises(ValueError, match=re.escape(message)):
        weights.load(model, SMALL, path)
    for got, wanted in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras", ".safetensors"])
@pytest.mark.parametrize("content", ["empty", "text", "cut"])
def test_damaged_files_are_refused_by_name(tmp_path, suffix, content):
    path = tmp_path / f"model{suffix}"
    model = ResNet(SMALL, classes=5)
    if content == "cut":
        if suffix == ".safetensors":
            safetensors.numpy.save_file({"conv1.weight": np.zeros((64, 3, 7, 7))}, path)
        elif suffix == ".weights.h5":
            model.save_weights(path)
        else:
            model.save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(b"" if content == "empty" else b"<html>not found</html>" * 100)
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be read")):
        ResNet(SMALL, weights=path, classes=5)


def test_an_archive_without_weights(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ValueError, match="cannot be read"):
        weights.read(tmp_path / "model.keras")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pkl", ".npy", ""])
def test_no_pickle_is_loaded(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    # A pickle that would create a file when loaded.
    path.write_bytes(b"cos\nmkdir\n(S'" + str(tmp_path / "owned").encode() + b"'\ntR.")
    with pytest.raises(ValueError, match="convert it to .safetensors"):
        weights.read(path)
    assert not (tmp_path / "owned").exists()


def test_a_file_that_points_into_another_is_refused(tmp_path):
    """HDF5 allows external storage, by which loading weights could read any file."""
    path = tmp_path / "model.weights.h5"
    ResNet(SMALL, classes=5).save_weights(path)
    (tmp_path / "secret").write_bytes(bytes(7 * 7 * 3 * 4 * 4))
    with h5py.File(path, "a") as file:
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars"].create_dataset(
            "0",
            (7, 7, 3, 4),
            "float32",
            external=[(str(tmp_path / "secret"), 0, 7 * 7 * 3 * 4 * 4)],
        )
    with pytest.raises(ValueError, match="is stored in another file"):
        weights.read(path)
    with h5py.File(path, "a") as file:
        del file["layers/conv2d"]
        file["layers/conv2d"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/layers/conv2d")
    with pytest.raises(ValueError, match="cannot be read: /layers/conv2d is a link"):
        ResNet(SMALL, weights=path, classes=5)


def test_files_of_keras_without_names_are_refused(tmp_path):
    path = tmp_path / "model.weights.h5"
    ResNet(SMALL, classes=5).save_weights(path)
    with h5py.File(path, "a") as file:
        for group in file["layers"].values():
            del group["vars"].attrs["name"]
    with pytest.raises(ValueError, match="has no layer names"):
        weights.read(path)


def test_published_hashes_are_those_of_keras_applications():
    assert weights.PUBLISHED == {name: WEIGHTS_HASHES[name] for name in weights.PUBLISHED}
    assert weights.PUBLISHED_AT == BASE_WEIGHTS_PATH


@pytest.mark.slow
def test_imagenet_weights_are_fetched_once_and_their_hash_is_checked(published, tmp_path):
    """A local folder stands in for the server."""
    folder = tmp_path / "served"
    folder.mkdir()
    served = folder / "resnet50_weights_tf_dim_ordering_tf_kernels.h5"
    served.write_bytes(published[0].read_bytes())
    md5 = hashlib.md5(served.read_bytes()).hexdigest()
    environment = os.environ | {"KERAS_HOME": str(tmp_path / "home"), "PYTHONWARNINGS": "ignore"}

    def fetch(*hashes, arguments="{}"):
        command = [
            sys.executable,
            str(PROGRAMS / "fetch.py"),
            f"{folder.as_uri()}/",
            *hashes,
            arguments,
        ]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    wrong = fetch("0" * 32, "0" * 32)
    assert (
        wrong.returncode
        and f"ValueError: {served.as_uri()} is not the published file" in wrong.stderr
    )
    done = fetch(md5, md5)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "models" / served.name).is_file()
    served.unlink()
    done = fetch(md5, md5)
    assert done.returncode == 0, done.stderr
    missing = fetch(md5, md5, arguments='{"include_top": false}')
    assert "ConnectionError" in missing.stderr and "_notop.h5" in missing.stderr
    assert "give its path as weights" in missing.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ResNet18", {}),
        ("Plain34", {}),
        ("ResNet20", {}),
        ("ResNet50", {"stride_on": "3x3"}),
        ("ResNet152", {"shortcut": "C"}),
    ],
)
def test_networks_without_published_weights_are_refused_with_an_alternative(name, arguments):
    with pytest.raises(
        ValueError,
        match="publishes no ImageNet weights for .* torchvision or timm .safetensors file",
    ):
        getattr(keras_resnet, name)(weights="imagenet", **arguments)


def test_weights_go_to_every_replica(ours):
    spec = next(iter(ours))
    strategy = distribution.strategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = ResNet(spec, weights=ours[spec], classes=5)
    kernel = model.get_layer("conv1_conv").kernel.value
    first, second = strategy.experimental_local_results(kernel)
    np.testing.assert_array_equal(first, second)
    assert first.numpy().min() >= 0.5


def test_weights_in_mixed_precision(ours):
    spec = next(iter(ours))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = ResNet(spec, weights=ours[spec], classes=5)
    finally:
        keras.config.set_dtype_policy(before)
    reference = ResNet(spec, weights=ours[spec], classes=5)
    for got, wanted in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)
