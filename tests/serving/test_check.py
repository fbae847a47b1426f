import json
import re
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from keras_resnet.cli.commands import main
from keras_resnet.serving import sidecars
from keras_resnet.serving.check import check, endpoints, verify
from keras_resnet.serving.cpp_loader import Call, run_calls, strings

SIGNATURES = {"serving_default", "image_tensor", "features", "tensor", "classify"}


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def save(path, function, spec=None):
    """Save a SavedModel with one signature."""
    module = tf.Module()
    module.function = tf.function(
        function, input_signature=[spec or tf.TensorSpec([None, 4], tf.float32, name="x")]
    )
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.function})
    return path


def texts(report, severity="error"):
    return "\n".join(finding.text for finding in report.findings if finding.severity == severity)


@pytest.mark.slow
def test_an_export_passes_without_findings(exported):
    report = check(exported)
    assert report.findings == []
    assert set(report.signatures) == set(report.first_seconds) == SIGNATURES
    assert report.signatures["features"] == {
        "inputs": {"images": "uint8 [?, ?, ?, 3]"},
        "outputs": {"features": "float32 [?, 64]"},
    }
    assert 0 < report.load_seconds < 60 and report.resident_bytes > report.bytes_on_disk > 0


def test_an_export_by_keras_passes_with_warnings(tmp_path, capsys):
    """The model is a small version of `keras.applications.ResNet50().export()`."""
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3)(inputs))
    outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    keras.Model(inputs, outputs).export(tmp_path / "plain", verbose=False)
    capsys.readouterr()
    assert main(["check", str(tmp_path / "plain"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    warnings = "\n".join(finding["text"] for finding in report["findings"])
    assert {finding["severity"] for finding in report["findings"]} == {"warning"}
    # 8 kernels of 3x3x3 and 80 weights of the classifier, 4 bytes each, without constant weights.
    assert f"{4 * (8 * 27 + 80):,} are stored again" in warnings
    assert "1 batch norms are computed for every request" in warnings
    assert (
        "no signature takes encoded images: an image of 32x32x3 is about 0.1 MB of JSON numbers"
        in warnings
    )
    for text in (
        "name output_0 says nothing",
        "has no labels",
        "no warm-up",
        "no batching_params.pbtxt",
    ):
        assert text in warnings


def test_xla_fails_as_on_the_server(tmp_path):
    compiled = tf.function(lambda x: x * 2.0, jit_compile=True)
    report = check(save(tmp_path / "xla", lambda x: {"y": compiled(x)}))
    assert "asks for XLA" in texts(report)
    assert "XLA compilation disabled" in texts(report)


def test_python_in_the_graph_fails(tmp_path):
    python = save(
        tmp_path / "py",
        lambda x: {"y": tf.ensure_shape(tf.numpy_function(abs, [x], tf.float32), x.shape)},
    )
    report = check(python)
    assert "calls Python (PyFunc" in texts(report)
    assert "serving_default: fails" in texts(report)


def test_signatures_that_cannot_be_batched_are_reported(tmp_path):
    answer = {
        "mean": lambda x: x - tf.reduce_mean(x, axis=0),
        "labels": lambda x: tf.constant(["a", "b"]),
    }
    report = check(
        save(tmp_path / "mixed", lambda x: {name: make(x) for name, make in answer.items()})
    )
    assert "mean of an image depends on the others of its batch" in texts(report)
    assert "labels has (2,) rows for 3" in texts(report)
    assert "labels always has 2 rows" in texts(report, "warning")


def writing(path, function, initializer=None):
    """Save a SavedModel whose function or table can write files."""
    module = tf.Module()
    if initializer is not None:
        module.table = tf.lookup.StaticHashTable(initializer, "none")
        inner = function

        def function(x):
            return inner(x) | {"found": module.table.lookup(tf.fill(tf.shape(x)[:1], "a"))}

    module.function = tf.function(function, input_signature=[tf.TensorSpec([None, 4], name="x")])
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.function})
    return path


@pytest.mark.parametrize(
    ("operation", "access"),
    [
        ("WriteFile", lambda file: tf.io.write_file(file, "written")),
        ("ReadFile", lambda file: tf.io.read_file(file)),
        ("PrintV2", lambda file: tf.print("written", output_stream=f"file://{file}")),
        ("MatchingFiles", lambda file: tf.io.matching_files(f"{file}*")),
        ("SaveV2", lambda file: tf.raw_ops.SaveV2(
            prefix=file, tensor_names=["x"], shape_and_slices=[""], tensors=[tf.constant(1.0)])),
        ("RestoreV2", lambda file: tf.raw_ops.RestoreV2(
            prefix=file, tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32])),
        ("TextLineDataset", lambda file: tf.data.TextLineDataset(file).reduce(
            0, lambda count, _: count + 1)),
        ("CacheDatasetV2", lambda file: tf.data.Dataset.range(3).cache(file).reduce(
            np.int64(0), lambda a, b: a + b)),
    ],
)  # fmt: skip
def test_a_program_that_accesses_files_is_not_run(tmp_path, operation, access):
    file = str(tmp_path / "file")

    def function(x):
        with tf.control_dependencies(tf.nest.flatten(access(file))):
            return {"y": tf.identity(x)}

    report = check(writing(tmp_path / "model", function))
    assert f"reads or writes files by itself ({operation})" in texts(report)
    assert not list(tmp_path.glob("file*")), "it has been run"
    assert report.load_seconds == 0


def test_an_initializer_that_writes_is_not_run(tmp_path):
    """An initializer runs when the SavedModel is loaded."""

    class Writing(tf.lookup.KeyValueTensorInitializer):
        def initialize(self, table):
            with tf.control_dependencies([tf.io.write_file(str(tmp_path / "file"), "written")]):
                return super().initialize(table)

    model = writing(tmp_path / "model", lambda x: {"y": x}, Writing(["a"], ["b"]))
    (tmp_path / "file").unlink()  # written when the SavedModel was created
    assert "reads or writes files by itself (WriteFile)" in texts(check(model))
    assert not (tmp_path / "file").exists()


def test_tables_of_assets_and_caches_in_memory_are_allowed(tmp_path):
    (tmp_path / "words.txt").write_text("a\nb\n")
    words = tf.lookup.TextFileInitializer(
        str(tmp_path / "words.txt"),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
    )

    def function(x):
        numbers = tf.data.Dataset.range(3).cache().reduce(np.int64(0), lambda a, b: a + b)
        return {"y": x + tf.cast(numbers, tf.float32)}

    report = check(writing(tmp_path / "model", function, words))
    assert report.errors == [] and report.load_seconds > 0


def test_a_saved_model_without_signatures_fails(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path))
    assert "no signatures" in texts(check(tmp_path))


@pytest.mark.slow
def test_an_endless_saved_model_is_stopped(tmp_path):
    def endless(x):
        return {"y": tf.while_loop(lambda y: tf.reduce_sum(y) < 1e9, lambda y: [y * 0.5], [x])[0]}

    report = check(save(tmp_path / "endless", endless), time_limit=5)
    assert "it was stopped: it has not answered within 5 seconds" in texts(report)
    with pytest.raises(ValueError, match="time_limit is 0; give a positive"):
        check(tmp_path / "endless", time_limit=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.float64, tf.bool, tf.int8])
def test_inputs_of_any_number_type_are_run(tmp_path, dtype):
    """Twice a number and the negation of a boolean are exact in every type."""
    answer = tf.logical_not if dtype == tf.bool else lambda x: x + x
    path = save(
        tmp_path / "model", lambda x: {"y": answer(x)}, tf.TensorSpec([None, 4], dtype, name="x")
    )
    report = check(path)
    assert report.errors == [] and report.first_seconds.keys() == {"serving_default"}
    numbers = np.array([[0, 1, 1, 0]]).astype(dtype.as_numpy_dtype)
    wanted = ~numbers if dtype == tf.bool else numbers + numbers
    call = Call(signature="serving_default", inputs={"x": numbers}, outputs={"y": wanted})
    assert run_calls(path, endpoints(path), [call]).calls[0].outputs["y"].tolist() == (
        wanted.tolist()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype"), [([], tf.string), ([2], tf.string), ([], tf.float32), ([1, 4], tf.float32)]
)
def test_inputs_without_a_batch_dimension_are_run(tmp_path, shape, dtype):
    """The only finding is a warning that they cannot be batched."""
    report = check(
        save(tmp_path / "model", lambda x: {"y": x}, tf.TensorSpec(shape, dtype, name="x"))
    )
    assert report.errors == [] and report.first_seconds.keys() == {"serving_default"}
    assert "cannot be batched" in texts(report, "warning")


@pytest.mark.parametrize("side", [30_000, 2**40])
def test_inputs_larger_than_memory_are_not_created(tmp_path, side):
    spec = tf.TensorSpec([None, side, side, 3], name="x")
    path = save(tmp_path / "model", lambda x: {"y": x[:, 0, 0]}, spec)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = check(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert f"not run, because x is float32 [?, {side}, {side}, 3]" in texts(report, "warning")


@pytest.mark.slow
def test_warm_up_records_larger_than_memory_are_not_created(copy):
    with tf.io.TFRecordWriter(str(copy / sidecars.WARM_UP)) as writer:
        log = prediction_log_pb2.PredictionLog()
        log.predict_log.request.model_spec.signature_name = "tensor"
        tensor = tf.make_tensor_proto(np.float32(0), shape=[1])
        del tensor.tensor_shape.dim[:]
        for _ in range(4):
            tensor.tensor_shape.dim.add(size=10_000)  # one number, repeated 10^16 times
        log.predict_log.request.inputs["inputs"].CopyFrom(tensor)
        writer.write(log.SerializeToString())
    assert "too large for the memory" in texts(check(copy))


def test_an_absolute_path_is_reported(tmp_path):
    file = tmp_path / "home" / "labels.txt"
    report = check(
        save(
            tmp_path / "path",
            lambda x: {"y": x, "file": tf.fill(tf.shape(x)[:1], "/home/me/labels.txt")},
        )
    )
    assert "absolute path: /home/me/labels.txt" in texts(report, "warning")
    assert not file.exists()


@pytest.mark.slow
def test_different_answers_are_reported_with_the_difference(exported):
    image, zeros = np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 10), np.float32)

    def tensor(inputs, logits):
        return Call(
            signature="tensor",
            inputs={"inputs": inputs},
            outputs={"logits": logits},
            tolerance=1e-5,
        )

    calls = [
        *(tensor(image, logits) for logits in (zeros + 99, np.zeros((1, 11)), zeros + np.nan)),
        tensor(image[..., :2], zeros),
        Call(
            signature="serving_default",
            inputs={"image_bytes": strings([b"no image"])},
            outputs={"classes": strings([b"7"])},
        ),
    ]
    errors = verify(exported, calls).errors
    assert len(errors) == 5
    assert any(
        re.search(r"logits differ from the model's by \d.*more than 1.0e-05", error)
        for error in errors
    )
    assert any("by inf" in error for error in errors) and any("by nan" in error for error in errors)
    assert any("classes are" in error for error in errors)
    assert any(error.startswith("tensor: fails") for error in errors)


@pytest.mark.slow
def test_damaged_sidecars_are_reported(copy, capsys):
    """Each would make loading or answering fail."""
    (copy / sidecars.LABELS).write_text("".join(f"{n}\n" for n in range(9)))
    (copy / sidecars.BATCHING).write_text("max_batch_size { value: 8 }\nallowed_batch_sizes: 4\n")
    with tf.io.TFRecordWriter(str(copy / sidecars.WARM_UP)) as writer:
        log = prediction_log_pb2.PredictionLog()
        log.predict_log.request.model_spec.signature_name = "tensor"
        log.predict_log.request.inputs["inputs"].CopyFrom(
            tf.make_tensor_proto(np.float32(0), shape=[1, 8, 8, 2])
        )
        writer.write(log.SerializeToString())
        log.predict_log.request.model_spec.signature_name = "tensors"
        writer.write(log.SerializeToString())
    assert main(["check", str(copy)]) == 2
    shown = capsys.readouterr()
    assert "10 classes, but 9 labels" in shown.out
    assert "allowed_batch_sizes are [4]" in shown.out
    assert "tensor: its warm-up fails" in shown.out
    assert "warm-up asks for the signature 'tensors', which does not exist" in shown.out
    assert "does not pass" in shown.err and "passed" not in shown.out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_batch_sise { value: 8 }", "max_batch_sise"),
        (
            "max_batch_size { value: 8 }\nallowed_batch_sizes: 8\nallowed_batch_sizes: 4",
            r"are \[8, 4\]",
        ),
    ],
)
def test_batching_parameters_that_the_server_refuses_are_errors(tmp_path, text, says):
    (tmp_path / sidecars.BATCHING).write_text(text)
    with pytest.raises(ValueError, match=says):
        sidecars.read_batching(tmp_path)


def test_damaged_variables_are_reported(copy):
    (copy / "variables" / "variables.data-00000-of-00001").write_bytes(b"short")
    errors = check(copy).errors
    assert any("its variables cannot be read" in error for error in errors)
    assert any("the C++ loader does not load it" in error for error in errors)


def test_a_folder_without_a_saved_model_is_refused(exported, tmp_path):
    with pytest.raises(ValueError, match=r"no saved_model.pb; give one of .*digits-tiny/1$"):
        check(exported.parent)
    (tmp_path / "saved_model.pb").write_bytes(b"no protobuf")
    with pytest.raises(ValueError, match="cannot be read"):
        check(tmp_path)
    with pytest.raises(ValueError, match="is not a SavedModel"):
        endpoints(tmp_path / "nowhere")
