"""Test exports in low precision, in the C++ loader."""

import re
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_resnet import data
from keras_resnet.cli.commands import main
from keras_resnet.evaluation.evaluate import predictions
from keras_resnet.networks.folding import fold_batch_norm
from keras_resnet.runs.classifier import open_run
from keras_resnet.serving import export as module
from keras_resnet.serving.audit import read_graph
from keras_resnet.serving.check import endpoints
from keras_resnet.serving.cpp_loader import Call, strings
from keras_resnet.serving.export import export
from keras_resnet.serving.needs import needs_of, processor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["bfloat16", "int8"])
def precision(request):
    return request.param


@pytest.fixture(scope="module")
def version(digits_run, precision, tmp_path_factory):
    """The digits run in low precision, with the folder of float32 given."""
    return export(digits_run, tmp_path_factory.mktemp("low") / "digits", precision=precision)


def test_low_precision_is_a_model_of_its_own_with_the_same_signatures(version, precision, exported):
    assert version.parts[-2:] == (f"digits-{precision}", "1")
    names = [
        {name: (*one.inputs, *one.outputs) for name, one in endpoints(path).items()}
        for path in (version, exported)
    ]
    assert names[0] == names[1]


def test_every_weight_is_stored_once(digits_run, version, precision):
    network = fold_batch_norm(open_run(digits_run).split.model)
    count = network.count_params()
    biases = sum(weight.shape[0] for weight in network.weights if weight.name == "bias")
    stored = {"bfloat16": 2 * count, "int8": count + 3 * biases}[precision]
    size = (version / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert stored <= size < stored + 10_000
    library = read_graph(version).graph_def.library
    constants = [n for f in library.function for n in f.node_def if n.op == "Const"]
    arrays = [tf.make_ndarray(node.attr["value"].tensor) for node in constants]
    assert sum(array.nbytes for array in arrays if array.dtype != object) < count / 2


def test_the_card_states_the_agreement_that_a_client_sees(digits_run, version, precision, ask):
    images, labels = (lambda split: (split.images, split.labels))(data.load("digits").test)
    photos = strings(tf.io.encode_png(image).numpy() for image in images)
    (call,) = ask(version, Call(signature="serving_default", inputs={"image_bytes": photos}))
    wanted, _ = predictions(digits_run)
    errors = [100 * np.mean(one.argmax(axis=1) != labels) for one in (wanted, probabilities(call))]
    changed = np.sum(wanted.argmax(axis=1) != probabilities(call).argmax(axis=1))
    card = (version / "README.md").read_text()
    assert f"| float32 | {errors[0]:.2f} % (" in card
    assert f"| {precision} | {errors[1]:.2f} % (" in card
    assert f"| difference | {errors[1] - errors[0]:+.2f} points (" in card
    assert f"changes for {changed} images" in card
    assert f"error of {len(labels)} images, test of digits" in card
    operator = {"bfloat16": "`Conv2D`", "int8": "`_FusedQuantizedConv2D`, `QuantizeV2`"}[precision]
    assert f"has its operators: {operator}\n({precision})." in card
    needs = needs_of(read_graph(version))
    assert ("float32 is faster there" in card) == (not processor().is_fast(needs))


def probabilities(call):
    assert not call.error
    return call.outputs["probabilities"]


def with_wrong_answers(lower):
    """Return a lowering whose network takes every class for the next one."""

    def wrong(*args):
        lowered = lower(*args)

        def run(images):
            answer = lowered.run(images)
            return answer | {"logits": tf.roll(answer["logits"], 1, axis=1)}

        return replace(lowered, run=run)

    return wrong


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_an_export_with_a_larger_error_is_refused(
    digits_run, precision, tmp_path, monkeypatch, unchecked, capsys
):
    name = f"in_{precision}"
    monkeypatch.setattr(module, name, with_wrong_answers(getattr(module, name)))
    command = ["export", str(digits_run.path), "--to", str(tmp_path), "--precision", precision]
    assert main([*command, "--tolerance", "2"]) == 2
    error = capsys.readouterr().err
    assert re.search(
        r"--tolerance is 2 percentage points; the error rises by [\d.]+, from [\d.]+ % in float32"
        r" to [\d.]+ % \(test of digits\), so nothing is exported",
        error,
    ), error
    assert list((tmp_path / f"digits-tiny-{precision}").iterdir()) == []


def small():
    """Return a Keras classifier of three classes, with layers of its own activations."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(
        layers.Rescaling(1 / 255)(inputs)
    )
    x = layers.MaxPooling2D(2)(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


@pytest.mark.parametrize("precision", ["int8", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_keras_model_is_compared_on_every_second_image_given(tmp_path, precision, unchecked):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 12, 12, 3), np.uint8)
    labels = np.zeros(60, np.int32)
    version = export(
        small(),
        tmp_path / "mine",
        class_names=["a", "b", "c"],
        preprocessing=data.preprocessing.Preprocessing(resize=12, crop=12),
        precision=precision,
        data=(images, labels),
        tolerance=100,
    )
    card = (version / "README.md").read_text()
    assert "error of 30 images, the other half of the given images" in card
    assert card.startswith("# mine\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "float16"}, "precision is 'float16'; choose one of"),
        ({"precision": "bfloat16"}, "data is None; give labeled images"),
        ({"precision": "bfloat16", "data": "digits"}, "digits has other classes than"),
        ({"precision": "bfloat16", "data": 1}, "data is of type int; give"),
        (
            {"precision": "int8", "data": (np.zeros((9, 12, 12, 3), np.uint8), np.arange(9))},
            "labels go from 0 to 8; there are 3 classes",
        ),
        ({"precision": "bfloat16", "tolerance": -1.0}, "tolerance is -1.0; give"),
        ({"data": "digits"}, "data is given; only a Keras model in low precision or with"),
        ({"calibrate": True}, "data is None; give labeled images"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(
            small(),
            tmp_path / "mine",
            class_names=["a", "b", "c"],
            preprocessing=data.preprocessing.Preprocessing(resize=12, crop=12),
            **arguments,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_run_has_its_own_data(digits_run, tmp_path):
    with pytest.raises(ValueError, match="data is given; only a Keras model"):
        export(digits_run, tmp_path / "mine", precision="bfloat16", data="digits")
