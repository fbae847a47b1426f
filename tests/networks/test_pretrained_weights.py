"""Trained networks that come with the package."""

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resnet import (
    PREPROCESSING,
    ResNet20,
    ResNet32,
    ResNet56,
    data,
    evaluate,
    preprocess_input,
)
from keras_resnet.data.preprocessing import Preprocessing, normalize
from keras_resnet.networks import pretrained_weights
from keras_resnet.networks.pretrained_weights import FOLDER, manifest

ROOT = Path(__file__).parents[2]
TRAINED = [(data_set, name) for data_set, found in manifest().items() for name in found]


@pytest.mark.parametrize(("data_set", "network"), TRAINED)
def test_the_weights_are_those_of_the_run_in_half_precision(data_set, network):
    entry = manifest()[data_set][network]
    run = keras.models.load_model(ROOT / entry["run"] / "model.keras")
    factory = {"resnet20": ResNet20, "resnet56": ResNet56}[network]
    model = factory(weights=data_set, input_shape=(32, 32, 3))
    weights = {f"{layer.name}/{v.name}": v.numpy() for layer in run.layers for v in layer.weights}
    for layer in model.layers:
        for variable in layer.weights:
            wanted = weights[f"{layer.name}/{variable.name}"]
            assert variable.dtype == "float32"
            np.testing.assert_array_equal(variable, wanted.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(("data_set", "network"), TRAINED)
def test_the_manifest_agrees_with_the_run(data_set, network):
    entry = manifest()[data_set][network]
    evaluation = json.loads((ROOT / entry["run"] / "evaluation.json").read_text())
    assert entry["float32_error"] == evaluation["top1_error"]
    assert entry["images"] == evaluation["images"]
    assert abs(entry["error"] - entry["float32_error"]) <= 0.1
    assert entry["errors"][str(entry["seed"])] == entry["float32_error"]
    assert entry["class_names"] == (ROOT / entry["run"] / "labels.txt").read_text().split()
    file = pretrained_weights.weights_file(data_set, network)
    assert entry["bytes"] == file.stat().st_size
    assert PREPROCESSING[data_set] == Preprocessing.read(ROOT / entry["run"] / "preprocessing.json")


@pytest.mark.slow
@pytest.mark.parametrize(("data_set", "network"), TRAINED)
def test_the_error_is_that_of_the_manifest(data_set, network):
    """On all 10,000 test images, by the functions that a user has."""
    if not os.path.isdir(os.path.join(os.environ.get("TFDS_DATA_DIR", ""), data_set)):
        pytest.skip(f"{data_set} is not at TFDS_DATA_DIR")
    test = data.load(data_set).test
    factory = {"resnet20": ResNet20, "resnet56": ResNet56}[network]
    model = factory(weights=data_set, input_shape=(32, 32, 3))
    scores = model.predict(preprocess_input(test.images, mode=data_set), 500, verbose=0)
    error = 100 * np.mean(scores.argmax(axis=1) != test.labels)
    assert error == pytest.approx(manifest()[data_set][network]["error"], abs=0.02)


def test_preprocess_input_is_the_preprocessing_of_the_training():
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    wanted = normalize(PREPROCESSING["cifar10"], images)
    np.testing.assert_array_equal(preprocess_input(images, mode="cifar10"), wanted)
    np.testing.assert_allclose(
        preprocess_input(keras.ops.convert_to_tensor(images), mode="cifar10"), wanted, atol=1e-6
    )
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, preprocess_input(inputs, mode="cifar10"))
    np.testing.assert_allclose(model(images.astype(np.float32)), wanted, atol=1e-6)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 28, 28, 3\); mode 'cifar10' takes \[..., 32, 32,"):
        preprocess_input(np.zeros((2, 28, 28, 3)), mode="cifar10")


def test_networks_without_trained_weights_are_refused():
    for build, says in (
        (lambda: ResNet32(weights="cifar10"), "resnet20 .shortcut 'A'.*, not of resnet32 with"),
        (lambda: ResNet20(weights="cifar10", shortcut="B"), "not of resnet20-b with shortcut 'B'"),
        (lambda: ResNet20(weights="cifar100"), "give None, 'imagenet', 'cifar10' or the path"),
    ):
        with pytest.raises(ValueError, match=says):
            build()


def test_another_head_takes_the_backbone():
    with pytest.warns(UserWarning, match="has 10 classes, resnet20 has 3 classes"):
        model = ResNet20(weights="cifar10", classes=3, input_shape=(32, 32, 3))
    features = ResNet20(weights="cifar10", include_top=False, pooling="avg")
    assert model.output_shape == (None, 3) and features.output_shape == (None, 64)


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "pretrained")
    monkeypatch.setattr(pretrained_weights, "FOLDER", tmp_path / "pretrained")
    file = pretrained_weights.weights_file("cifar10", "resnet20")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="resnet20.weights.h5 is missing or damaged; install the"):
        ResNet20(weights="cifar10")
    file.unlink()
    with pytest.raises(ValueError, match="is missing or damaged"):
        ResNet20(weights="cifar10")


@pytest.mark.slow
def test_a_pretrained_network_is_evaluated_by_the_name_of_its_preprocessing():
    if not os.path.isdir(os.path.join(os.environ.get("TFDS_DATA_DIR", ""), "cifar10")):
        pytest.skip("cifar10 is not at TFDS_DATA_DIR")
    test = data.load("cifar10").test
    model = ResNet20(weights="cifar10", input_shape=(32, 32, 3))
    found = evaluate(
        model,
        (test.images[:200], test.labels[:200]),
        preprocessing="cifar10",
        class_names=manifest()["cifar10"]["resnet20"]["class_names"],
    )
    assert found["top1_error"] < 20
