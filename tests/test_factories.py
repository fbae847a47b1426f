"""The public functions: each name gives its network, with the arguments of keras.applications."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet import factories
from keras_resnet.data import normalize
from keras_resnet.model import build
from keras_resnet.spec import NETWORKS, ResNetSpec

GOLDEN = json.loads((Path(__file__).parent / "golden" / "networks.json").read_text(encoding="utf-8"))

FACTORIES = {name.replace("resnet", "ResNet").replace("plain", "Plain"): name for name in NETWORKS}
TINY = ResNetSpec(stem="cifar", blocks=(1, 1), width=4, shortcut="A")


def pictures(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


@pytest.fixture
def built(monkeypatch):
    """What `build` is asked for, without building it: the largest networks take a minute."""
    monkeypatch.setattr(factories, "build", lambda spec, **arguments: (spec, arguments))


def test_every_network_of_the_paper_has_a_factory():
    named = {name for name in keras_resnet.__all__ if name.startswith(("ResNet", "Plain"))}
    assert named - {"ResNet", "ResNetSpec"} == set(FACTORIES)


@pytest.mark.parametrize("name", FACTORIES)
def test_factory_builds_its_network(built, name):
    network = FACTORIES[name]
    spec, arguments = getattr(keras_resnet, name)()
    assert spec == NETWORKS[network]
    cifar = network in ("resnet1202", *(f"{kind}{n}" for kind in ("resnet", "plain") for n in (20, 32, 44, 56, 110)))
    # Section 4.2 uses A throughout; for ImageNet the networks that everyone publishes have B.
    assert spec.shortcut == (None if name.startswith("Plain") else "A" if cifar else "B")
    assert (spec.stride_on, spec.order) == ("1x1", "post")
    assert arguments == {
        "include_top": True,
        "input_tensor": None,
        "input_shape": None,
        "pooling": None,
        "classes": 10 if cifar else 1000,
        "classifier_activation": "softmax",
        "synchronized": None,
        "name": None,
    }


@pytest.mark.parametrize("name", FACTORIES)
def test_factory_says_what_it_is(name):
    factory = getattr(keras_resnet, name)
    assert factory.__name__ == name
    assert f"{int(name.removeprefix('ResNet').removeprefix('Plain'))}-layer" in factory.__doc__
    assert inspect.signature(factory).parameters["weights"].default is None


@pytest.mark.parametrize("name", ["ResNet20", "ResNet50", "Plain34"])
def test_arguments_reach_the_model(built, name):
    arguments = {
        "include_top": False,
        "input_tensor": object(),
        "input_shape": (64, 48, 3),
        "pooling": "max",
        "classes": 7,
        "classifier_activation": None,
        "synchronized": True,
        "name": "mine",
    }
    spec, passed = getattr(keras_resnet, name)(**arguments)
    assert spec == NETWORKS[FACTORIES[name]]
    assert passed == arguments
    assert keras_resnet.ResNet(spec, **arguments) == (spec, arguments)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ResNet34", {"shortcut": "A"}),
        ("ResNet34", {"shortcut": "C"}),
        ("ResNet110", {"shortcut": "B", "order": "pre"}),
        ("ResNet50", {"stride_on": "3x3"}),
        ("ResNet152", {"stride_on": "3x3", "order": "pre", "shortcut": "C"}),
        ("Plain34", {"order": "pre"}),
    ],
)
def test_the_papers_axes(built, name, changes):
    spec, _ = getattr(keras_resnet, name)(**changes)
    assert spec == replace(NETWORKS[FACTORIES[name]], **changes)


@pytest.mark.parametrize(
    "name",
    [
        "ResNet18",
        "ResNet20",
        "ResNet50",
        "Plain20",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in FACTORIES
            if name
            not in ("ResNet18", "ResNet20", "ResNet50", "Plain20", "ResNet1202")  # of which test_model.py builds one
        ),
    ],
)
def test_models_have_the_published_number_of_parameters(name):
    network = FACTORIES[name]
    model = getattr(keras_resnet, name)()
    classes = model.output_shape[-1]
    (row,) = (
        row
        for row in GOLDEN["parameters"]
        if (row["network"], row["shortcut"], row["classes"]) == (network, NETWORKS[network].shortcut, classes)
    )
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == row["trainable"]
    if "total" in row:
        assert model.count_params() == row["total"]
    assert model.name == network


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("ResNet34", {"shortcut": "D"}, ["shortcut", "'D'", "'A'", "'B'", "'C'"]),
        ("ResNet34", {"shortcut": None}, ["shortcut", "None", "A, B or C", "resnet34"]),
        ("Plain34", {"shortcut": "A"}, ["shortcut", "'A'", "none", "plain34"]),
        ("ResNet50", {"stride_on": 3}, ["stride_on", "3", "'1x1'", "'3x3'"]),
        ("ResNet50", {"order": "v2"}, ["order", "'v2'", "'post'", "'pre'"]),
        ("ResNet20", {"pooling": "mean"}, ["pooling", "'mean'", "None", "'avg'", "'max'"]),
        ("ResNet20", {"classes": 0}, ["classes", "0", "positive"]),
    ],
)
def test_wrong_arguments_are_refused_with_the_value_and_the_choices(name, arguments, wanted):
    with pytest.raises(ValueError) as refusal:
        getattr(keras_resnet, name)(**arguments)
    for text in wanted:
        assert text in str(refusal.value)


def test_arguments_are_named():
    with pytest.raises(TypeError):
        keras_resnet.ResNet20(True)
    with pytest.raises(TypeError, match="depth"):
        keras_resnet.ResNet20(depth=20)


@pytest.mark.parametrize("as_text", [True, False])
def test_weights_go_to_a_file_and_back(tmp_path, as_text):
    path = tmp_path / "network.weights.h5"
    saved = keras_resnet.ResNet20(classes=4)
    random = np.random.default_rng(0)
    for variable in saved.variables:
        variable.assign(random.uniform(0.5, 1.5, size=variable.shape))
    saved.save_weights(path)
    loaded = keras_resnet.ResNet20(classes=4, weights=str(path) if as_text else path)
    assert len(loaded.weights) == len(saved.weights)
    for mine, theirs in zip(saved.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("factory", ["ResNet20", "ResNet"])
def test_missing_weights_are_refused_before_anything_is_built(built, tmp_path, factory):
    path = tmp_path / "missing.weights.h5"
    arguments = (TINY,) if factory == "ResNet" else ()
    with pytest.raises(ValueError) as refusal:
        getattr(keras_resnet, factory)(*arguments, weights=path)
    for text in ("weights", str(path), "None", "'imagenet'", "file that exists"):
        assert text in str(refusal.value)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "network.weights.h5"
    build(replace(TINY, shortcut="C"), classes=4).save_weights(path)
    with pytest.raises(ValueError, match="has shortcut 'C', this one has 'A'"):
        keras_resnet.ResNet(TINY, classes=4, weights=path)


def test_fit_takes_a_step():
    keras.utils.set_random_seed(0)
    model = keras_resnet.ResNet(TINY, classes=3)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    before = model.get_weights()
    history = model.fit(pictures(8, 16, 16, 3), np.arange(8) % 3, batch_size=8, epochs=1, verbose=0)
    assert int(model.optimizer.iterations) == 1
    # A new network of three classes is about as wrong as a guess.
    assert history.history["loss"][0] == pytest.approx(np.log(3), abs=2)
    for old, new, weight in zip(before, model.get_weights(), model.weights, strict=True):
        assert np.isfinite(new).all(), weight.path
        assert not np.array_equal(old, new), weight.path


@pytest.mark.parametrize("name", ["ResNet20", "Plain20"])
def test_resnet20_predicts(name):
    model = getattr(keras_resnet, name)()
    probabilities = keras.ops.convert_to_numpy(model(pictures(2, 32, 32, 3)))
    assert probabilities.shape == (2, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("mode", ["caffe", "torch", "tf"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_preprocess_input_is_that_of_keras_applications(mode, kind):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype(kind)
    before = pictures.copy()
    got = keras_resnet.preprocess_input(pictures, mode=mode)
    np.testing.assert_array_equal(pictures, before, "Keras would have written into the array")
    wanted = keras.applications.imagenet_utils.preprocess_input(before.copy(), mode=mode)
    np.testing.assert_array_equal(got, wanted)
    # The Preprocessing that travels with weights, runs and exports is the same function.
    np.testing.assert_allclose(normalize(keras_resnet.PREPROCESSING[mode], pictures), wanted, rtol=1e-5, atol=1e-4)


def test_preprocess_input_by_hand():
    """103.939, 116.779, 123.68 are the means of blue, green and red (keras.io, and the authors' Caffe models)."""
    red = np.array([[[255.0, 0.0, 0.0]]])
    np.testing.assert_allclose(keras_resnet.preprocess_input(red)[0, 0], [-103.939, -116.779, 255 - 123.68], rtol=1e-6)
    np.testing.assert_allclose(
        keras_resnet.preprocess_input(red, mode="torch")[0, 0],
        [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225],
        rtol=1e-6,
    )
    np.testing.assert_allclose(keras_resnet.preprocess_input(red, mode="tf")[0, 0], [1, -1, -1])


def test_preprocess_input_stands_in_a_model():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras_resnet.preprocess_input(inputs))
    pictures = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(model(pictures), keras_resnet.preprocess_input(pictures), rtol=1e-5, atol=1e-4)


def test_other_modes_are_refused():
    with pytest.raises(ValueError, match="mode is 'pytorch'; choose one of 'caffe', 'torch', 'tf'"):
        keras_resnet.preprocess_input(np.zeros((1, 2, 2, 3)), mode="pytorch")


def test_decode_predictions(monkeypatch):
    """Keras downloads the names; here are made-up ones, in its cache's form."""
    names = {str(i): [f"n{i:08d}", f"thing_{i}"] for i in range(1000)}
    monkeypatch.setattr("keras.src.applications.imagenet_utils.CLASS_INDEX", names)
    predictions = np.zeros((2, 1000), np.float32)
    predictions[0, [7, 3]], predictions[1, 999] = (0.5, 0.25), 0.75
    first, second = keras_resnet.decode_predictions(predictions, top=2)
    assert first == [("n00000007", "thing_7", 0.5), ("n00000003", "thing_3", 0.25)]
    assert second[0] == ("n00000999", "thing_999", 0.75)
    with pytest.raises(ValueError, match="1000"):
        keras_resnet.decode_predictions(np.zeros((2, 10)))
