"""Hostile and damaged network files are refused by name, before Keras loads them."""

import io
import json
import random
import resource
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_resnet import ResNetSpec
from keras_resnet.networks import weights
from keras_resnet.networks.build import build, load

SPEC = ResNetSpec(stem="cifar", blocks=(1, 1), width=4, shortcut="A")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    build(SPEC, input_shape=(8, 8, 3), classes=3, classifier_activation=None).save(path)
    return path


@pytest.fixture
def no_keras(monkeypatch):
    """Fail if Keras loads a file."""

    def loaded(*_, **__):
        raise AssertionError("Keras loads the file")

    monkeypatch.setattr(keras.models, "load_model", loaded)


def rewritten(saved, path, config=None, content=None):
    """Copy a file with a changed config or a changed HDF5 file of weights."""
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if config is not None:
        values = json.loads(members["config.json"])
        members["config.json"] = json.dumps(config(values) or values).encode()
    if content is not None:
        file = io.BytesIO(members["model.weights.h5"])
        with h5py.File(file, "a") as root:
            content(root)
        members["model.weights.h5"] = file.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return path


def layer(values, kind):
    return next(item for item in values["config"]["layers"] if item["class_name"] == kind)


def with_lambda(values):
    layer(values, "ReLU").update(class_name="Lambda")


def with_a_class_of_another_package(values):
    layer(values, "ReLU").update(module="antigravity", class_name="fly", registered_name="fly")


def with_a_registered_class(values):
    layer(values, "ReLU").update(registered_name="theirs>ReLU")


def with_an_initializer_of_another_module(values):
    layer(values, "Conv2D")["config"]["kernel_initializer"].update(module="os", class_name="system")


def with_a_function(values):
    layer(values, "Conv2D")["config"]["activation"] = {
        "module": "builtins",
        "class_name": "function",
        "config": "eval",
        "registered_name": "function",
    }


def with_a_lambda_in_an_argument(values):
    node = layer(values, "Add")["inbound_nodes"][0]
    node["kwargs"]["mask"] = {"class_name": "__lambda__", "config": {"value": "gASV"}}


def with_another_model(values):
    values.update(module="keras", class_name="Sequential", registered_name=None)


def with_a_loss(values):
    values["compile_config"] = {"loss": {"class_name": "Lambda", "config": {}}}


@pytest.mark.parametrize(
    "config",
    [
        with_lambda,
        with_a_class_of_another_package,
        with_a_registered_class,
        with_an_initializer_of_another_module,
        with_a_function,
        with_a_lambda_in_an_argument,
        with_another_model,
        with_a_loss,
    ],
)
@pytest.mark.usefixtures("no_keras")
def test_unknown_classes_are_refused_before_keras_loads_them(saved, tmp_path, config):
    path = rewritten(saved, tmp_path / "model.keras", config)
    with pytest.raises(
        ValueError, match=f"^{path} cannot be read: it uses .*, which no network uses"
    ):
        load(path)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Conv2D", lambda one: one["config"].update(filters=10**8)),
        ("Conv2D", lambda one: one["config"].update(kernel_size=[10**4, 10**4])),
        ("Conv2D", lambda one: one["build_config"].update(input_shape=[None, 8, 8, 10**8])),
        ("Conv2D", lambda one: one.pop("build_config")),
        ("Conv2D", lambda one: one["config"].update(data_format="channels_first")),
        ("Dense", lambda one: one["config"].update(units=10**9)),
        ("BatchNormalization", lambda one: one["build_config"].update(input_shape=[None, 10**9])),
        ("BatchNormalization", lambda one: one["config"].update(axis=1)),
        ("BatchNormalization", lambda one: one["build_config"].update(shapes_dict={})),
    ],
)
@pytest.mark.usefixtures("no_keras")
def test_weights_that_are_declared_larger_than_stored_are_refused(saved, tmp_path, kind, change):
    """Keras would allocate gigabytes for them."""
    path = rewritten(saved, tmp_path / "model.keras", lambda v: change(layer(v, kind)) and None)
    with pytest.raises(ValueError, match=f"^{path} cannot be read: "):
        load(path)


def large(root):
    del root["layers/conv2d/vars/0"]
    # 1.9 GB, none of which is stored.
    root["layers/conv2d/vars"].create_dataset("0", (40_000, 12_000), "float32")


def chunked(root):
    del root["layers/conv2d/vars/0"]
    root["layers/conv2d/vars"].create_dataset("0", (40_000, 12_000), "float32", chunks=(100, 100))


def compressed(root):
    del root["layers/conv2d/vars/0"]
    zeros = np.zeros((4_000, 1_200), np.float32)
    root["layers/conv2d/vars"].create_dataset("0", data=zeros, compression="gzip")


def stored_twice(root):
    root["layers/conv2d/vars/1"] = root["layers/conv2d/vars/0"]


def cycle(root):
    root["layers/conv2d/up"] = root["layers"]


def soft_link(root):
    root["layers/conv2d/vars/1"] = h5py.SoftLink("/layers/conv2d/vars/0")


def external_link(root):
    root["layers/conv2d/vars/1"] = h5py.ExternalLink("/dev/null", "/")


def external_layers(root):
    """Replace the top group, which contains all others."""
    del root["layers"]
    root["layers"] = h5py.ExternalLink("other.h5", "/layers")


def text_in_place_of_numbers(root):
    del root["layers/conv2d/vars/0"]
    root["layers/conv2d/vars"]["0"] = "text"


HOSTILE = [
    large,
    chunked,
    compressed,
    stored_twice,
    cycle,
    soft_link,
    external_link,
    external_layers,
    text_in_place_of_numbers,
]


@pytest.mark.parametrize("content", HOSTILE)
@pytest.mark.usefixtures("no_keras")
def test_weights_must_be_stored_in_the_file_itself(saved, tmp_path, content, monkeypatch):
    """Read the file as a network, as weights in `.keras`, and as weights in `.weights.h5`."""
    keras_file = rewritten(saved, tmp_path / "model.keras", content=content)
    with zipfile.ZipFile(keras_file) as archive:
        (tmp_path / "model.weights.h5").write_bytes(archive.read("model.weights.h5"))
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(saved) as archive:
        (tmp_path / "other.h5").write_bytes(archive.read("model.weights.h5"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path, read in (
        (keras_file, load),
        (keras_file, weights.read),
        (tmp_path / "model.weights.h5", weights.read),
    ):
        with pytest.raises(ValueError, match=f"^{path} cannot be read: "):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_link_to_the_weights_of_a_keras_2_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["model_weights/conv1_conv/conv1_conv/kernel:0"] = np.zeros((3, 3, 3, 4), np.float32)
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file["model_weights"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/model_weights")
    with pytest.raises(ValueError, match="model.h5 cannot be read: .*model_weights is a link"):
        weights.read(tmp_path / "model.h5")


@pytest.mark.parametrize("name", ["model.weights.h5", "config.json"])
@pytest.mark.usefixtures("no_keras")
def test_members_that_expand_far_beyond_the_file_are_not_read(saved, tmp_path, name):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for one in source.namelist():
            made.writestr(one, bytes(2 * 10**9 // 20) if one == name else source.read(one))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"{name} declares 100,000,000 bytes"):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_compressed_archive_opens(saved, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for one in source.namelist():
            made.writestr(one, source.read(one))
    for got, wanted in zip(load(path).get_weights(), load(saved).get_weights(), strict=True):
        np.testing.assert_array_equal(got, wanted)


# A layer with a damaged name is left out.
@pytest.mark.filterwarnings("ignore:.*(keeps its own weights|are left out)")
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_errors_of_damaged_files_are_one_line_that_names_the_file(saved, tmp_path, suffix):
    """Cut files, flip bits and zero pages: a file is refused, or gives weights of its shapes."""
    rng = random.Random(0)
    path = tmp_path / f"model{suffix}"
    model = load(saved)
    shapes = [weight.shape for weight in model.get_weights()]
    if suffix == ".weights.h5":
        model.save_weights(path)
    whole, refused = saved.read_bytes() if suffix == ".keras" else path.read_bytes(), 0
    for number in range(60):
        damaged = bytearray(whole)
        place = rng.randrange(len(whole))
        if number % 3 == 0:
            del damaged[place:]
        elif number % 3 == 1:
            damaged[place : place + 512] = bytes(min(512, len(whole) - place))
        else:
            for place in rng.choices(range(4096), k=8):
                damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            if suffix == ".keras":
                found = load(path).get_weights()
                assert [weight.shape for weight in found] == shapes
            else:
                weights.load(model, SPEC, path)
        except ValueError as error:
            assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1
            refused += 1
    assert refused > 20


@pytest.mark.slow
def test_every_kind_of_network_opens(tmp_path):
    """Stems, blocks, orders and shortcuts, and layers that act only in training."""
    for number, (spec, settings) in enumerate(
        [
            (ResNetSpec(stem="imagenet", block="bottleneck", blocks=(1, 1), width=2), {}),
            (ResNetSpec(stem="imagenet", blocks=(1, 1), width=2, order="pre"), {}),
            (ResNetSpec(stem="cifar", blocks=(1, 1), width=2, shortcut=None), {}),
            (ResNetSpec(stem="cifar", blocks=(1, 1), width=2, shortcut="C"), {"weight_decay": 0.1}),
            (SPEC, {"stochastic_depth": 0.1, "dropout": 0.1, "zero_gamma": True}),
            (SPEC, {"include_top": False, "pooling": "max"}),
        ]
    ):
        model = build(spec, **{"input_shape": (32, 32, 3), "classes": 3} | settings)
        model.save(tmp_path / f"{number}.keras")
        images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
        found = load(tmp_path / f"{number}.keras")
        np.testing.assert_array_equal(found(images), model(images))
