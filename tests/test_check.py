import json
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from keras_resnet import serving_files
from keras_resnet.check import check, endpoints
from keras_resnet.cli import main
from keras_resnet.cpp_loader import Call, Calls, strings, write_calls

SIGNATURES = {"serving_default", "image_tensor", "features", "tensor", "classify"}


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def save(path, function, spec=None):
    """A SavedModel of one signature."""
    module = tf.Module()
    module.function = tf.function(function, input_signature=[spec or tf.TensorSpec([None, 4], tf.float32, name="x")])
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.function})
    return path


def texts(report, severity="error"):
    return "\n".join(finding.text for finding in report.findings if finding.severity == severity)


def test_an_export_passes_without_a_word(exported):
    report = check(exported)
    assert report.findings == []
    assert set(report.signatures) == set(report.first_seconds) == SIGNATURES
    assert report.signatures["features"] == {
        "inputs": {"images": "uint8 [?, ?, ?, 3]"},
        "outputs": {"features": "float32 [?, 64]"},
    }
    assert 0 < report.load_seconds < 60 and report.resident_bytes > report.bytes_on_disk > 0


def test_what_an_operator_would_want_to_know_of_an_export_by_keras(tmp_path, capsys):
    """`keras.applications.ResNet50().export()` in small: it does not fail, and there is much to say."""
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3)(inputs))
    outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    keras.Model(inputs, outputs).export(tmp_path / "plain", verbose=False)
    capsys.readouterr()
    assert main(["check", str(tmp_path / "plain"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    said = "\n".join(finding["text"] for finding in report["findings"])
    assert {finding["severity"] for finding in report["findings"]} == {"warning"}
    # 8 kernels of 3x3x3 and the classifier's 80 weights, 4 bytes each; what is all zeros or ones does not count.
    assert f"{4 * (8 * 27 + 80):,} are stored again" in said
    assert "1 batch norms are computed for every request" in said
    assert "no signature takes encoded pictures: one of 32x32x3 is about 0.1 MB of JSON numbers" in said
    for text in ("output_0 says nothing", "no labels", "no warm-up", "no batching_params.pbtxt"):
        assert text in said


def test_xla_fails_as_on_the_server(tmp_path):
    compiled = tf.function(lambda x: x * 2.0, jit_compile=True)
    report = check(save(tmp_path / "xla", lambda x: {"y": compiled(x)}))
    assert "asks for XLA" in texts(report)
    assert "XLA compilation disabled" in texts(report)


def test_python_in_the_graph_fails(tmp_path):
    python = save(tmp_path / "py", lambda x: {"y": tf.ensure_shape(tf.numpy_function(abs, [x], tf.float32), x.shape)})
    report = check(python)
    assert "calls Python (PyFunc" in texts(report)
    assert "serving_default: fails" in texts(report)


def test_what_cannot_be_batched(tmp_path):
    answer = {"mean": lambda x: x - tf.reduce_mean(x, axis=0), "labels": lambda x: tf.constant(["a", "b"])}
    report = check(save(tmp_path / "mixed", lambda x: {name: make(x) for name, make in answer.items()}))
    assert "mean of a picture depends on the others of its batch" in texts(report)
    assert "labels has (2,) rows for 3" in texts(report)
    assert "labels has 2 rows and no more" in texts(report, "warning")


def test_a_path_inside_is_found(tmp_path):
    file = tmp_path / "home" / "labels.txt"
    report = check(save(tmp_path / "path", lambda x: {"y": x, "file": tf.fill(tf.shape(x)[:1], "/home/me/labels.txt")}))
    assert "absolute path inside: /home/me/labels.txt" in texts(report, "warning")
    assert not file.exists()


def test_answers_that_differ_are_said_with_both_numbers(exported, tmp_path):
    image, zeros = np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 10), np.float32)

    def tensor(inputs, logits):
        return Call(signature="tensor", inputs={"inputs": inputs}, outputs={"logits": logits}, tolerance=1e-5)

    calls = [
        *(tensor(image, logits) for logits in (zeros + 99, np.zeros((1, 11)), zeros + np.nan)),
        tensor(image[..., :2], zeros),
        Call(
            signature="serving_default",
            inputs={"image_bytes": strings([b"no picture"])},
            outputs={"classes": strings([b"7"])},
        ),
    ]
    write_calls(tmp_path / "expected.npz", Calls(endpoints={}, calls=calls))
    errors = check(exported, expected=tmp_path / "expected.npz").errors
    assert len(errors) == 5
    assert any(re.search(r"logits differ from the network's by \d.*more than 1.0e-05", error) for error in errors)
    assert any("by inf" in error for error in errors) and any("by nan" in error for error in errors)
    assert any("classes are" in error for error in errors)
    assert any(error.startswith("tensor: fails") for error in errors)


def test_damage_is_found(copy, capsys):
    """Each of these would fail the load, or its answers."""
    (copy / serving_files.LABELS).write_text("".join(f"{n}\n" for n in range(9)))
    (copy / serving_files.BATCHING).write_text("max_batch_size { value: 8 }\nallowed_batch_sizes: 4\n")
    with tf.io.TFRecordWriter(str(copy / serving_files.WARM_UP)) as writer:
        log = prediction_log_pb2.PredictionLog()
        log.predict_log.request.model_spec.signature_name = "tensor"
        log.predict_log.request.inputs["inputs"].CopyFrom(tf.make_tensor_proto(np.float32(0), shape=[1, 8, 8, 2]))
        writer.write(log.SerializeToString())
        log.predict_log.request.model_spec.signature_name = "tensors"
        writer.write(log.SerializeToString())
    assert main(["check", str(copy)]) == 2
    shown = capsys.readouterr()
    assert "10 classes, but 9 labels" in shown.out
    assert "allowed_batch_sizes are [4]" in shown.out
    assert "tensor: its warm-up fails" in shown.out
    assert "warm-up asks for the signature 'tensors'" in shown.out
    assert "does not pass" in shown.err and "passed" not in shown.out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_batch_sise { value: 8 }", "max_batch_sise"),
        ("max_batch_size { value: 8 }\nallowed_batch_sizes: 8\nallowed_batch_sizes: 4", r"are \[8, 4\]"),
    ],
)
def test_batching_parameters_that_the_server_would_refuse(tmp_path, text, says):
    (tmp_path / serving_files.BATCHING).write_text(text)
    with pytest.raises(ValueError, match=says):
        serving_files.read_batching(tmp_path)


def test_variables_that_are_damaged_do_not_load(copy):
    (copy / "variables" / "variables.data-00000-of-00001").write_bytes(b"short")
    errors = check(copy).errors
    assert any("its variables cannot be read" in error for error in errors)
    assert any("the C++ loader does not load it" in error for error in errors)


def test_what_is_no_saved_model_is_named(exported, tmp_path):
    with pytest.raises(ValueError, match=r"no saved_model.pb; give one of .*digits-tiny/1$"):
        check(exported.parent)
    (tmp_path / "saved_model.pb").write_bytes(b"no protobuf")
    with pytest.raises(ValueError, match="cannot be read"):
        check(tmp_path)
    with pytest.raises(ValueError, match="is no SavedModel"):
        endpoints(tmp_path / "nowhere")
