"""Test exports for other runtimes. Each test needs the extra of its format."""

import contextlib
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from folded_models import NAMES, SPECS
from small_models import trained

import keras_resnet.serving
from keras_resnet import ResNet, data
from keras_resnet.cli.commands import main
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.evaluation.evaluate import evaluate, predictions
from keras_resnet.runs.classifier import of_model
from keras_resnet.serving import export as module
from keras_resnet.serving import formats, runtimes
from keras_resnet.serving.export import export
from keras_resnet.serving.worker import worker

README = Path(keras_resnet.serving.__file__).with_name("README.md")


@pytest.fixture(scope="module", params=["litert", "onnx", "openvino"])
def format(request):
    for package in runtimes._PACKAGES[request.param]:
        pytest.importorskip(package)
    return request.param


@pytest.fixture(scope="module")
def version(digits_run, format, tmp_path_factory):
    """The digits run in a format, with the folder of the SavedModel given."""
    evaluate(digits_run)
    return export(digits_run, tmp_path_factory.mktemp("formats") / "digits", format=format)


def test_a_format_is_a_model_of_its_own(version, format):
    assert version.parts[-2:] == (f"digits-{format}", "1")
    assert formats.file_in(version) == (format, version / runtimes.FILES[format])


def test_the_json_says_all_that_a_user_needs(digits_run, version):
    about = json.loads((version / "model.json").read_text())
    dataset, result = data.load("digits"), digits_run.evaluation()
    assert about["labels"] == list(dataset.class_names) and about["classes"] == 10
    assert about["input"] == {"name": "inputs", "dtype": "float32", "shape": [None, 8, 8, 3]}
    assert about["output"]["shape"] == [None, 10]
    assert about["output"]["scores"] == "probabilities"
    assert "bilinear and antialiased" in about["preprocessing"].pop("description")
    read = Preprocessing.from_json(json.dumps(about["preprocessing"]))
    assert read == Preprocessing.read(digits_run.preprocessing_file)
    assert about["errors"]["single"]["top1_error"] == result["top1_error"]
    assert about["errors"]["single"]["top1_interval"] == result["top1_interval"]
    files = {path.name: path.read_bytes() for path in version.iterdir()}
    del files["model.json"]
    assert about["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }


RUN = {  # in the place of the line of the README that runs ONNX Runtime
    "litert": "from ai_edge_litert.interpreter import Interpreter\n"
    "runner = Interpreter('model.tflite').get_signature_runner()\n"
    "probabilities = runner(inputs=inputs)['probabilities']\n",
    "openvino": "import openvino\n"
    "compiled = openvino.Core().compile_model('model.xml', 'CPU')\n"
    "probabilities = compiled(inputs)['probabilities']\n",
}


def test_the_example_needs_only_the_file_and_its_json(digits_run, version, format):
    """In a process that cannot import this package, TensorFlow or Keras."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if "onnxruntime" in block)
    if format != "onnx":
        block = block.replace("import onnxruntime\n", "")
        block, count = re.subn(r"session = .*?\n.*?\n", RUN[format], block)
        assert count == 1
    number = 7
    image = data.load("digits").test.images[number]
    folder = version.parent
    tf.io.write_file(str(folder / "digit.png"), tf.io.encode_png(image))
    for path in version.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    without = ("keras_resnet", "tensorflow", "keras")
    program = f"import sys\nsys.modules.update(dict.fromkeys({without}))\n{block}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{program}\nnp.save('answer.npy', probabilities)"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    wanted, _ = predictions(digits_run)
    answer = np.load(folder / "answer.npy")
    # OpenVINO computes in bfloat16 by default where the processor has instructions for it.
    tolerance = 0.02 if format == "openvino" else 1e-5
    np.testing.assert_allclose(answer[0], wanted[number], rtol=0, atol=tolerance)
    assert done.stdout.split()[0] == str(wanted[number].argmax())


FAST = ("A-post", "B-pre")


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, id=name, marks=() if name.startswith(FAST) else pytest.mark.slow)
        for spec, name in zip(SPECS, NAMES, strict=True)
    ],
)
def test_every_shortcut_in_both_orders_answers_as_the_network(spec, format, tmp_path):
    keras.utils.set_random_seed(0)
    model = trained(ResNet(spec, input_shape=(16, 16, 3), classes=5))
    classifier = of_model(
        model, preprocessing=Preprocessing(resize=16, crop=16), class_names=list("abcde")
    )
    network, _ = module._served_network(classifier)
    formats.write(tmp_path / "new", classifier, network, format)
    images = np.random.default_rng(0).normal(size=(5, 16, 16, 3)).astype(np.float32)
    with worker(*formats.file_in(tmp_path / "new")) as runtime:
        batch, one = runtime.answer(images), runtime.answer(images[3:4])
    wanted = model(images, training=False).numpy()
    assert np.ptp(wanted, axis=0).max() > 0.01  # the images are told apart
    np.testing.assert_allclose(batch, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one, wanted[3:4], rtol=0, atol=1e-5)


def small():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))


def exported_small(folder, **arguments):
    return export(
        small(),
        folder / "mine",
        class_names=["a", "b"],
        preprocessing=Preprocessing(resize=12, crop=12, scale=(255.0, 255.0, 255.0)),
        **arguments,
    )


def test_a_keras_model_gives_probabilities_of_both_classes(format, tmp_path):
    """One sigmoid unit has two classes in every format."""
    version = exported_small(tmp_path, format=format)
    assert version == tmp_path / f"mine-{format}" / "1"
    assert json.loads((version / "model.json").read_text())["errors"] == {}
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    with worker(*formats.file_in(version)) as runtime:
        answer = runtime.answer(images)
    second = small()(images).numpy()[:, 0]
    np.testing.assert_allclose(answer, np.stack([1 - second, second], axis=1), atol=1e-5)


@pytest.fixture
def without_runtimes(monkeypatch):
    """Write LiteRT files, whose converter is in TensorFlow, and return what answers for them."""
    answers = SimpleNamespace(answer=None)

    @contextlib.contextmanager
    def stand_in(*_):
        yield answers

    monkeypatch.setattr(formats, "worker", stand_in)
    monkeypatch.setattr(module, "require_packages", lambda _: None)
    return answers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda own: np.roll(own, 1, axis=1), r"differ from the model's by \d\.\de-\d+, more than"),
        (lambda own: own[:, :1], "differ from the model's by inf, more than"),
        (lambda own: np.full_like(own, np.nan), "differ from the model's by nan, more than"),
    ],
)
def test_a_file_that_answers_otherwise_is_refused(answer, message, without_runtimes, tmp_path):
    def answers(inputs):
        second = small()(inputs).numpy()[:, 0]
        return answer(np.stack([1 - second, second], axis=1))

    without_runtimes.answer = answers
    with pytest.raises(ValueError, match=message + ".*so nothing is exported"):
        exported_small(tmp_path, format="litert")
    assert list((tmp_path / "mine-litert").iterdir()) == []


def test_a_file_that_does_not_run_is_refused(without_runtimes, tmp_path):
    def fails(_):
        raise ValueError("no such operator")

    without_runtimes.answer = fails
    with pytest.raises(ValueError, match="the litert file does not run, nothing is exported: no"):
        exported_small(tmp_path, format="litert")
    assert list((tmp_path / "mine-litert").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "torch"}, "format is 'torch'; choose one of 'saved_model', 'litert', 'onnx'"),
        (
            {"format": "onnx", "precision": "int8"},
            "precision is 'int8' and format is 'onnx'; only the format 'saved_model' takes it",
        ),
        ({"format": "litert", "calibrate": True}, "calibrate is True and format is 'litert'; only"),
        ({"format": "litert", "heat_map": True}, "heat_map is True and format is 'litert'; only"),
        (
            {"format": "onnx"},
            r"format is 'onnx', for which onnx, onnxruntime, tf2onnx must be installed: pip install"
            r" 'keras-residual\[onnx\]'",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=message):
        exported_small(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_refuses_in_one_line(digits_run, capsys):
    command = ["export", str(digits_run.path), "--format", "onnx", "--precision", "bfloat16"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--precision is 'bfloat16' and --format is 'onnx'; only the format" in line


def test_a_folder_without_a_network_is_named(tmp_path):
    with pytest.raises(ValueError, match="has none of model.tflite, model.onnx, model.xml"):
        formats.file_in(tmp_path)
