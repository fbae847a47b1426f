"""Test the signature `heat_map`."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from folded_models import NAMES, SPECS, network
from PIL import Image
from small_models import images_for

import keras_resnet.serving
from keras_resnet import Preprocessing, data
from keras_resnet.cli.commands import main
from keras_resnet.data.preprocessing import normalize, resize_and_crop
from keras_resnet.networks.class_activation import activation_map, classifier_of, with_maps
from keras_resnet.networks.steps import steps_of
from keras_resnet.serving import lowering, signatures
from keras_resnet.serving.calibration import Calibrated
from keras_resnet.serving.check import check
from keras_resnet.serving.cpp_loader import Call, strings
from keras_resnet.serving.export import export
from keras_resnet.serving.int8 import int8_network
from keras_resnet.serving.quantization import bounds, magnitudes
from keras_resnet.serving.sidecars import BATCH_SIZES, read_warm_up

pytestmark = pytest.mark.slow

README = Path(keras_resnet.serving.__file__).with_name("README.md")


def lowered(model, precision, monkeypatch):
    """Return a network in a precision, and the largest error of its logits by quantization."""
    if precision == "float32":
        return lowering.in_float32(model), 1e-6
    if precision == "bfloat16":
        return lowering.in_bfloat16(model), 2**-7  # of the bias, which has 8 significant bits
    steps = steps_of(model)
    # Doubled, as in test_int8.py, for processors without VNNI.
    found = {k: 2 * v for k, v in bounds(magnitudes(steps, [images_for(model)]), 0.0).items()}
    calibrated = Calibrated(
        network=int8_network(steps, found), method="maximum", in_float32=(), errors={},
        distances={}, calibrated=0, judged=0,
    )  # fmt: skip
    monkeypatch.setattr(lowering, "calibrate", lambda *_: calibrated)
    images = type("Images", (), {"name": "mine"})()
    (dense,) = (step for step in steps.steps if step.name == classifier_of(model).name)
    # The dense layer reads features rounded to steps of 1 / 255 of their bound.
    error = 0.51 * found[dense.sources[0]] / 255 * np.abs(dense.kernel).sum(axis=0).max()
    return lowering.in_int8(model, images, None), float(error)


@pytest.mark.parametrize(
    ("spec", "precision"),
    [
        (SPECS[0], "float32"),  # the others are in test_class_activation.py
        *((spec, precision) for spec in SPECS for precision in ("bfloat16", "int8")),
    ],
    ids=lambda one: one if isinstance(one, str) else NAMES[SPECS.index(one)],
)
def test_the_mean_of_a_map_and_the_bias_are_the_logit(spec, precision, monkeypatch):
    model = with_maps(network(spec))
    one, error = lowered(model, precision, monkeypatch)
    one = lowering.with_temperature(one, 2.0)

    def run(images):
        answer = one.run(images)
        best = tf.argmax(answer["logits"], axis=1)
        return answer["logits"], best, activation_map(answer["maps"], one.class_weights(best))

    found = tf.function(run, autograph=False)(images_for(model))
    logits, best, maps = (value.numpy() for value in found)
    bias = classifier_of(model).get_weights()[1][best] / 2
    sums = maps.mean(axis=(1, 2)) + bias
    atol = error / 2 + 2e-6 * np.abs(logits).max()
    np.testing.assert_allclose(sums, logits.max(axis=1), rtol=0, atol=atol)
    assert np.ptp(maps, axis=(1, 2)).min() > 2 * atol, "a map of one color proves nothing"


def wanted(digits_run, images):
    """Compute classes, scores and maps by the run's own model and NumPy."""
    model = keras.models.load_model(digits_run.model_file)
    preprocessing = Preprocessing.read(digits_run.preprocessing_file)
    last = model.get_layer("predictions")
    pool = next(one for one in model.layers if isinstance(one, keras.layers.GlobalAveragePooling2D))
    inside = keras.Model(model.inputs, [pool.input, model.output])
    maps, logits = inside.predict(normalize(preprocessing, images), verbose=0)
    best = logits.argmax(axis=1)
    kernel = last.get_weights()[0]
    scores = tf.nn.softmax(logits).numpy().max(axis=1)
    return best, scores, np.einsum("nhwc,cn->nhw", maps, kernel[:, best])


def test_the_served_heat_map(digits_run, tmp_path, ask, capsys):
    command = ["export", str(digits_run.path), "--to", str(tmp_path), "--heat-map"]
    assert main(command) == 0, capsys.readouterr().err
    version = tmp_path / digits_run.name / "1"
    images = data.load("digits").test.images[:40]
    photos = [tf.io.encode_png(image).numpy() for image in images]
    photos.insert(7, b"no image")
    (call,) = ask(version, Call(signature="heat_map", inputs={"image_bytes": strings(photos)}))
    assert not call.error
    bad = {name: value[7] for name, value in call.outputs.items()}
    assert bad["classes"] == b"" and bad["scores"] == 0 and not bad["maps"].any()
    answer = {name: np.delete(value, 7, axis=0) for name, value in call.outputs.items()}
    best, scores, maps = wanted(digits_run, images)
    np.testing.assert_array_equal(answer["classes"].astype(int), best)
    np.testing.assert_allclose(answer["scores"], scores, atol=1e-5)
    assert answer["maps"].shape == (40, 2, 2)
    np.testing.assert_allclose(answer["maps"], maps, atol=1e-4)

    report = check(version)
    assert report.findings == []
    assert report.signatures["heat_map"] == {
        "inputs": {"image_bytes": "string [?]"},
        "outputs": {"classes": "string [?]", "scores": "float32 [?]", "maps": "float32 [?, 2, 2]"},
    }
    warm_up = [len(x["image_bytes"]) for name, x in read_warm_up(version) if name == "heat_map"]
    assert sorted(warm_up) == sorted(BATCH_SIZES)
    card = " ".join((version / "README.md").read_text().split())
    assert "| `heat_map` | `image_bytes`: as `serving_default` |" in card
    assert "whose side is 8 / 8 of the shorter side; lay it there" in card


def test_wrong_maps_are_not_exported(digits_run, tmp_path, monkeypatch):
    monkeypatch.setattr(signatures, "activation_map", lambda *args: -activation_map(*args))
    with pytest.raises(ValueError, match="heat_map: maps differ from the model's by"):
        export(digits_run, tmp_path / "digits", heat_map=True)


@pytest.mark.parametrize("precision", ["int8"])
def test_heat_maps_in_low_precision(digits_run, precision, tmp_path, ask):
    with pytest.warns(match="the temperature is fitted on train of digits"):
        version = export(
            digits_run, tmp_path / "low", heat_map=True, calibrate=True, precision=precision
        )
    images = data.load("digits").test.images[:40]
    photos = strings(tf.io.encode_png(image).numpy() for image in images)
    heat, tensor = ask(
        version,
        Call(signature="heat_map", inputs={"image_bytes": photos}),
        Call(signature="serving_default", inputs={"image_bytes": photos}),
    )
    np.testing.assert_array_equal(heat.outputs["classes"], tensor.outputs["classes"][:, 0])
    np.testing.assert_allclose(heat.outputs["scores"], tensor.outputs["scores"][:, 0], atol=1e-2)


@pytest.mark.parametrize("size", [(40, 60), (90, 50), (64, 64)])
def test_the_example_lays_a_map_where_the_network_looks(size):
    """A hot cell is painted on the part of the image that becomes this part of the input."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if "def overlay" in block)
    names = {}
    exec(compile(block, str(README), "exec"), names)
    preprocessing = Preprocessing(resize=36, crop=32)
    for row, column in [(0, 0), (1, 3), (3, 2)]:
        heat = -np.ones((4, 4), np.float32)
        heat[row, column] = 5.0
        painted = names["overlay"](Image.new("RGB", size), heat, resize=36, crop=32)
        assert painted.size == size
        view = resize_and_crop(preprocessing, np.asarray(painted)[np.newaxis])[0, ..., 0]
        cells = np.reshape(view, (4, 8, 4, 8)).mean(axis=(1, 3))
        assert np.unravel_index(cells.argmax(), cells.shape) == (row, column)
        assert cells.max() > 0.4 * cells.sum()
