"""The public factories, with the arguments of keras.applications."""

import inspect
import json
import pydoc
import re
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_resnet
from keras_resnet.data.preprocessing import normalize
from keras_resnet.networks import applications as factories
from keras_resnet.networks.build import build
from keras_resnet.networks.paper import NETWORKS
from keras_resnet.networks.spec import ResNetSpec

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "networks.json").read_text(encoding="utf-8")
)

FACTORIES = {name.replace("resnet", "ResNet").replace("plain", "Plain"): name for name in NETWORKS}
TINY = ResNetSpec(stem="cifar", blocks=(1, 1), width=4, shortcut="A")


def images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


@pytest.fixture
def built(monkeypatch):
    """Make `build` return its arguments, because building the largest networks takes a minute."""
    monkeypatch.setattr(factories, "build", lambda spec, **arguments: (spec, arguments))


def test_every_network_of_the_paper_has_a_factory():
    named = {name for name in keras_resnet.__all__ if name.startswith(("ResNet", "Plain"))}
    assert named - {"ResNet", "ResNetSpec"} == set(FACTORIES)


@pytest.mark.parametrize("name", FACTORIES)
def test_factory_builds_its_network(built, name):
    network = FACTORIES[name]
    spec, arguments = getattr(keras_resnet, name)()
    assert spec == NETWORKS[network]
    cifar = network in (
        "resnet1202",
        *(f"{kind}{n}" for kind in ("resnet", "plain") for n in (20, 32, 44, 56, 110)),
    )
    # Section 4.2 uses A throughout. The published ImageNet networks have B.
    assert spec.shortcut == (None if name.startswith("Plain") else "A" if cifar else "B")
    assert (spec.stride_on, spec.order) == ("1x1", "post")
    assert arguments == {
        "include_top": True,
        "input_tensor": None,
        "input_shape": None,
        "pooling": None,
        "classes": 10 if cifar else 1000,
        "classifier_activation": "softmax",
        "weight_decay": 0.0,
        "stochastic_depth": 0.0,
        "dropout": 0.0,
        "zero_gamma": False,
        "synchronized": None,
        "name": None,
    }


@pytest.mark.parametrize("name", FACTORIES)
def test_factory_is_documented(name):
    factory = getattr(keras_resnet, name)
    assert factory.__name__ == name
    assert f"{int(name.removeprefix('ResNet').removeprefix('Plain'))}-layer" in factory.__doc__
    signature = inspect.signature(factory)
    arguments = factory.__doc__.split("\nArgs:\n")[1].split("\n\n")[0]
    assert re.findall(r"^    (\w+): ", arguments, flags=re.M) == list(signature.parameters)
    # Every factory has the arguments of ResNet and the axes of its spec.
    shared = set(inspect.signature(keras_resnet.ResNet).parameters) - {"spec"}
    assert set(signature.parameters) == shared | {"shortcut", "stride_on", "order"}
    defaults = {key: value.default for key, value in signature.parameters.items()}
    spec = NETWORKS[FACTORIES[name]]
    assert (defaults["shortcut"], defaults["stride_on"], defaults["order"]) == (
        spec.shortcut,
        spec.stride_on,
        spec.order,
    )
    assert defaults["classes"] == (10 if spec.stem == "cifar" else 1000)
    assert defaults["weights"] is None
    assert all(
        parameter.kind is inspect.Parameter.KEYWORD_ONLY
        for parameter in signature.parameters.values()
    )


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        # Table 1, Table 3; the parameters of keras.applications' table.
        (
            "ResNet50",
            [
                r"conv2_x  \[N, 56, 56, 256\] .* 3 units of 1x1, 3x3 and 1x1",
                r"conv4_x  \[N, 14, 14, 1024\] .* 6 units",
                r"head     \[N, 1000\]",
                "25,557,032 trainable parameters",
                r"22.85 % on ImageNet .*Table 3",
            ],
        ),
        # Section 4.2, Table 6.
        (
            "ResNet110",
            [
                r"conv4_x  \[N, 8, 8, 64\] .* 18 units of two 3x3",
                r"head     \[N, 10\]",
                r"6.43 % on CIFAR-10 .*Table 6",
            ],
        ),
        ("Plain34", [r"conv3_x  \[N, 28, 28, 128\] .* 4 units of two 3x3", r"28.54 %.*Table 2"]),
    ],
)
def test_help_describes_the_network(name, lines):
    text = pydoc.render_doc(getattr(keras_resnet, name), renderer=pydoc.plaintext)
    for line in lines:
        assert re.search(line, text), line
    assert "25.03" not in text, "another network's error"


def test_resnet18_reports_no_error_of_the_paper():
    assert "paper:" not in keras_resnet.ResNet18.__doc__


@pytest.mark.parametrize("name", ["ResNet20", "Plain20"])
def test_penalty_is_half_the_weight_decay_times_the_squared_kernels(name):
    model = getattr(keras_resnet, name)(weight_decay=0.01)
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    assert len(kernels) == 20
    wanted = 0.005 * sum((np.asarray(kernel, np.float64) ** 2).sum() for kernel in kernels)
    assert float(sum(model.losses)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["ResNet20", "ResNet50", "Plain34"])
def test_arguments_reach_the_model(built, name):
    arguments = {
        "include_top": False,
        "input_tensor": object(),
        "input_shape": (64, 48, 3),
        "pooling": "max",
        "classes": 7,
        "classifier_activation": None,
        "weight_decay": 0.25,
        "stochastic_depth": 0.1,
        "dropout": 0.2,
        "zero_gamma": True,
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
def test_factories_set_the_papers_axes(built, name, changes):
    spec, _ = getattr(keras_resnet, name)(**changes)
    assert spec == replace(NETWORKS[FACTORIES[name]], **changes)


@pytest.mark.slow
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
            not in (
                "ResNet18",
                "ResNet20",
                "ResNet50",
                "Plain20",
                "ResNet1202",
            )  # test_build.py builds one
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
        if (row["network"], row["shortcut"], row["classes"])
        == (network, NETWORKS[network].shortcut, classes)
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
        ("ResNet20", {"classes": 1}, ["classes is 1", "'softmax'", "'sigmoid' or None", "two"]),
    ],
)
def test_errors_of_wrong_arguments_name_value_and_choices(name, arguments, wanted):
    with pytest.raises(ValueError) as refusal:
        getattr(keras_resnet, name)(**arguments)
    for text in wanted:
        assert text in str(refusal.value)


def test_arguments_are_keyword_only():
    with pytest.raises(TypeError, match="ResNet20.. has keyword-only .* but got 1 positional"):
        keras_resnet.ResNet20(True)
    with pytest.raises(TypeError, match="ResNet20.. got an unexpected keyword argument 'depth'"):
        keras_resnet.ResNet20(depth=20)


@pytest.mark.parametrize("as_text", [True, False])
def test_weights_are_saved_and_loaded(tmp_path, as_text):
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
    model.compile(
        keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    before = model.get_weights()
    history = model.fit(images(8, 16, 16, 3), np.arange(8) % 3, batch_size=8, epochs=1, verbose=0)
    assert int(model.optimizer.iterations) == 1
    # A new network of three classes performs about as well as guessing.
    assert history.history["loss"][0] == pytest.approx(np.log(3), abs=2)
    for old, new, weight in zip(before, model.get_weights(), model.weights, strict=True):
        assert np.isfinite(new).all(), weight.path
        assert not np.array_equal(old, new), weight.path


@pytest.mark.parametrize("name", ["ResNet20", "Plain20"])
def test_networks_predict_probabilities(name):
    model = getattr(keras_resnet, name)()
    probabilities = keras.ops.convert_to_numpy(model(images(2, 32, 32, 3)))
    assert probabilities.shape == (2, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("mode", ["caffe", "torch", "tf"])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_preprocess_input_equals_that_of_keras_applications(mode, kind):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype(kind)
    before = images.copy()
    got = keras_resnet.preprocess_input(images, mode=mode)
    np.testing.assert_array_equal(images, before, "Keras has written into the array")
    wanted = keras.applications.imagenet_utils.preprocess_input(before.copy(), mode=mode)
    np.testing.assert_array_equal(got, wanted)
    # The Preprocessing stored with weights, runs and exports is the same function.
    np.testing.assert_allclose(
        normalize(keras_resnet.PREPROCESSING[mode], images), wanted, rtol=1e-5, atol=1e-4
    )


def test_preprocess_input_by_hand():
    """103.939, 116.779, 123.68 are the means of blue, green and red (keras.io, and the authors'
    Caffe models)."""
    red = np.array([[[255.0, 0.0, 0.0]]])
    np.testing.assert_allclose(
        keras_resnet.preprocess_input(red)[0, 0], [-103.939, -116.779, 255 - 123.68], rtol=1e-6
    )
    np.testing.assert_allclose(
        keras_resnet.preprocess_input(red, mode="torch")[0, 0],
        [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225],
        rtol=1e-6,
    )
    np.testing.assert_allclose(keras_resnet.preprocess_input(red, mode="tf")[0, 0], [1, -1, -1])


def test_preprocess_input_works_inside_a_model():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras_resnet.preprocess_input(inputs))
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(
        model(images), keras_resnet.preprocess_input(images), rtol=1e-5, atol=1e-4
    )


def preprocessed_in_a_data_set(x, prepare):
    return next(iter(tf.data.Dataset.from_tensors(x).map(prepare)))


def preprocessed_in_a_model(x, prepare):
    inputs = keras.Input(x.shape[1:], dtype=x.dtype.name)
    return keras.Model(inputs, prepare(inputs))(x)


def preprocessed_in_a_lambda(x, prepare):
    inputs = keras.Input(x.shape[1:], dtype=x.dtype.name)
    return keras.Model(inputs, keras.layers.Lambda(prepare)(inputs))(x)


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "int64", "bool", "float32"])
@pytest.mark.parametrize(
    "through",
    [
        lambda x, prepare: prepare(tf.constant(x)),
        lambda x, prepare: tf.function(prepare)(x),
        lambda x, prepare: prepare(x.tolist()),
        preprocessed_in_a_data_set,
        preprocessed_in_a_model,
        preprocessed_in_a_lambda,
    ],
    ids=["tensor", "function", "list", "data set", "model", "lambda"],
)
@pytest.mark.parametrize("mode", keras_resnet.PREPROCESSING)
def test_integers_of_every_container_are_preprocessed_as_floats(mode, through, kind):
    """0 minus the mean of blue is -103.939, not 153 as in uint8."""
    x = np.zeros((2, 32, 32, 3) if mode == "cifar10" else (2, 3, 4, 3), kind)
    x[0] = np.random.default_rng(0).integers(0, 2 if kind == "bool" else 256, x[0].shape)
    preprocessing = keras_resnet.PREPROCESSING[mode]
    pixels = x[..., ::-1] if preprocessing.channels == "BGR" else x
    wanted = (pixels.astype(float) - preprocessing.mean) / preprocessing.scale
    prepared = through(x, lambda x: keras_resnet.preprocess_input(x, mode=mode))
    np.testing.assert_allclose(prepared, wanted, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        keras_resnet.preprocess_input(x, mode=mode), wanted, rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("make", [np.zeros, tf.zeros])
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("mode", keras_resnet.PREPROCESSING)
def test_images_without_three_channels_are_refused(mode, channels, make):
    """Keras would take the alpha of four channels for blue, and repeat a single channel."""
    with pytest.raises(ValueError, match=rf"have shape \(2, 3, 4, {channels}\); give RGB images"):
        keras_resnet.preprocess_input(make((2, 3, 4, channels)), mode=mode)


def test_unknown_modes_are_refused():
    with pytest.raises(ValueError, match="mode is 'pytorch'; choose one of 'caffe', 'torch', 'tf'"):
        keras_resnet.preprocess_input(np.zeros((1, 2, 2, 3)), mode="pytorch")


def test_decode_predictions(monkeypatch):
    """Use invented class names in the format of Keras' download."""
    names = {str(i): [f"n{i:08d}", f"thing_{i}"] for i in range(1000)}
    monkeypatch.setattr("keras.src.applications.imagenet_utils.CLASS_INDEX", names)
    predictions = np.zeros((2, 1000), np.float32)
    predictions[0, [7, 3]], predictions[1, 999] = (0.5, 0.25), 0.75
    first, second = keras_resnet.decode_predictions(predictions, top=2)
    assert first == [("n00000007", "thing_7", 0.5), ("n00000003", "thing_3", 0.25)]
    assert second[0] == ("n00000999", "thing_999", 0.75)
    with pytest.raises(ValueError, match="1000"):
        keras_resnet.decode_predictions(np.zeros((2, 10)))


def test_a_name_is_no_spec():
    with pytest.raises(ValueError, match=r"spec is 'resnet34'; give a ResNetSpec, such as"):
        keras_resnet.ResNet("resnet34")
