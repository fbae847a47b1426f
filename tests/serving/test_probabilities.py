"""Test exports with calibrated probabilities, in the C++ loader."""

import re
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from folded_models import network, spec
from small_models import TINY, images_for, trained

from keras_resnet import Preprocessing, ResNet, data
from keras_resnet.cli.commands import main
from keras_resnet.evaluation.errors import softmax
from keras_resnet.evaluation.evaluate import predictions
from keras_resnet.evaluation.temperature import (
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from keras_resnet.networks.steps import steps_of
from keras_resnet.runs.classifier import open_run
from keras_resnet.runs.run import Run
from keras_resnet.serving.cpp_loader import Call, strings
from keras_resnet.serving.export import export
from keras_resnet.serving.gate import expected_calls
from keras_resnet.serving.int8 import int8_network
from keras_resnet.serving.labeled_images import images_of
from keras_resnet.serving.lowering import in_bfloat16, in_float32, with_temperature

HELD_OUT = 300


@pytest.fixture(scope="module")
def held_out_run(digits_run, tmp_path_factory):
    """The digits run, as if it had held images out for validation."""
    folder = tmp_path_factory.mktemp("held-out") / "digits"
    shutil.copytree(digits_run.path, folder, ignore=shutil.ignore_patterns("data.json"))
    run = Run(folder)
    run.recipe_file.write_text(replace(run.recipe(), holdout=HELD_OUT).to_json())
    return run


@pytest.mark.slow
def test_a_calibrated_export(held_out_run, tmp_path, ask, capsys):
    """Probabilities are those of `evaluate` at the temperature of the validation split."""
    command = ["export", str(held_out_run.path), "--to", str(tmp_path), "--calibrate"]
    assert main(command) == 0, capsys.readouterr().err
    version = tmp_path / "digits" / "1"

    probabilities, labels = predictions(held_out_run, split="validation")
    temperature = fit_temperature(np.log(probabilities), labels)
    test, test_labels = predictions(held_out_run)
    wanted = softmax(np.log(test) / temperature)
    assert abs(temperature - 1) > 0.02 and np.abs(wanted - test).max() > 1e-3

    photos = strings(tf.io.encode_png(one).numpy() for one in data.load("digits").test.images)
    (call,) = ask(version, Call(signature="serving_default", inputs={"image_bytes": photos}))
    np.testing.assert_allclose(call.outputs["probabilities"], wanted, atol=1e-4)
    np.testing.assert_array_equal(call.outputs["classes"][:, 0].astype(int), test.argmax(axis=1))

    card = (version / "README.md").read_text()
    text = " ".join(card.split())
    assert f"temperature {temperature:.4f}, which minimizes the negative log-likelihood" in text
    assert f"{HELD_OUT} images, validation of digits (Guo et al. 2017). The most" in text
    errors = [f"{calibration_error(p, test_labels):.2f} %" for p in (test, wanted)]
    losses = [f"{negative_log_likelihood(np.log(p), test_labels):.4f}" for p in (test, wanted)]
    assert "| 360 images, test of digits, in float32 | before | after |" in card
    assert f"| expected calibration error, 15 bins | {' | '.join(errors)} |" in card
    assert f"| negative log-likelihood, nats per image | {' | '.join(losses)} |" in card


@pytest.mark.slow
def test_the_card_says_that_images_were_trained_on(digits_run, tmp_path, unchecked):
    with pytest.warns(match="on which the network was trained, so it is too small"):
        version = export(digits_run, tmp_path / "digits", calibrate=True)
    text = " ".join((version / "README.md").read_text().split())
    assert re.search(
        r"of 1,437 images, train of digits \(Guo et al\. 2017\)\. The network was trained on these"
        r" images, .*: the temperature is too small\.",
        text,
    )


@pytest.mark.slow
def test_a_keras_model_is_calibrated_on_every_second_image_given(tmp_path, unchecked):
    keras.utils.set_random_seed(0)
    model = trained(ResNet(TINY, input_shape=(16, 16, 3), classes=5))
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    preprocessing = Preprocessing(resize=16, crop=16, scale=(255, 255, 255))
    labels = model.predict(images / np.float32(255), verbose=0).argmax(axis=1)
    labels[::10] = (labels[::10] + 1) % 5  # a fifth of the images that it is fitted on are wrong
    version = export(
        model,
        tmp_path / "mine",
        class_names=list("abcde"),
        preprocessing=preprocessing,
        calibrate=True,
        data=(images, labels),
    )
    text = " ".join((version / "README.md").read_text().split())
    assert "of 20 images, half of the given images (Guo et al. 2017). If the network was" in text
    assert "| 20 images, the other half of the given images, in float32 | before | after |" in text


def test_a_temperature_is_never_fitted_on_the_test_split(digits_run, held_out_run):
    own, held_out = (images_of(open_run(run), None) for run in (digits_run, held_out_run))
    assert (own.fitting.name, own.trained_on) == ("train of digits", True)
    assert (held_out.fitting.name, held_out.trained_on) == ("validation of digits", False)
    assert len(held_out.fitting) == HELD_OUT


@pytest.mark.slow
@pytest.mark.parametrize("lower", ["float32", "bfloat16", "int8"])
def test_the_order_of_classes_stays_in_every_precision(lower):
    """A division by one number is monotonic, so two classes never change places."""
    model = network(spec("B", "post"))
    steps = steps_of(model)
    lowered = {
        "float32": lambda: in_float32(model),
        "bfloat16": lambda: in_bfloat16(model),
        "int8": lambda: replace(
            in_float32(model), run=int8_network(steps, dict.fromkeys(steps.before(), 8.0))
        ),
    }[lower]()
    images = np.concatenate([images_for(model)] * 8) * np.linspace(0, 2, 32)[:, None, None, None]
    before, after = (
        tf.function(one.run, autograph=False)(images.astype(np.float32))
        for one in (lowered, with_temperature(lowered, 1.7))
    )
    logits, divided = before["logits"].numpy(), after["logits"].numpy()
    np.testing.assert_allclose(divided, logits / 1.7, rtol=1e-6)
    order = np.argsort(logits, axis=1)
    assert (np.diff(np.take_along_axis(divided, order, axis=1)) >= 0).all()
    np.testing.assert_array_equal(divided.argmax(axis=1), logits.argmax(axis=1))
    np.testing.assert_array_equal(after["features"], before["features"])


def test_the_gate_knows_the_temperature(digits_run):
    classifier = open_run(digits_run)
    lowered = in_float32(classifier.split.model)
    calls, divided = (
        {call.signature: call.outputs for call in expected_calls(classifier, one)}
        for one in (lowered, with_temperature(lowered, 3.0))
    )
    np.testing.assert_allclose(divided["tensor"]["logits"], calls["tensor"]["logits"] / 3)
    wanted = softmax(np.log(calls["image_tensor"]["probabilities"]) / 3)
    np.testing.assert_allclose(divided["image_tensor"]["probabilities"], wanted, atol=1e-6)


def test_logits_of_another_last_layer_are_refused(digits_run, monkeypatch):
    classifier = open_run(digits_run)
    own = type(classifier).own_probabilities
    monkeypatch.setattr(
        type(classifier), "own_probabilities", lambda self, images: own(self, images)[:, ::-1]
    )
    with pytest.raises(ValueError, match="give other probabilities than its last layer"):
        expected_calls(classifier, with_temperature(in_float32(classifier.split.model), 2.0))
