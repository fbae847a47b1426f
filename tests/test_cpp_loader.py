import subprocess
import sys

import numpy as np
import pytest

from keras_resnet.cpp_loader import Call, Calls, Endpoint, SavedModel, read_calls, strings, write_calls


def test_calls_come_back_as_they_were(tmp_path):
    tensors = {
        "strings": strings([b"", b"a\0b\0", bytes(range(256))]),
        "matrix": np.array([[b"a", b"bc"]], object),
        "floats": np.array([[1.5, np.nan]], np.float32),
        "none": np.zeros((0, 3), np.uint8),
    }
    call = Call(signature="s", inputs=tensors, outputs={"y": np.array([True])}, error="e", seconds=0.5, tolerance=0.1)
    write_calls(tmp_path / "calls", Calls(endpoints={"s": Endpoint({"x": "x:0"}, {"y": "y:1"})}, calls=[call]))
    back = read_calls(tmp_path / "calls")
    assert back.endpoints == {"s": Endpoint({"x": "x:0"}, {"y": "y:1"})}
    assert (back.calls[0].error, back.calls[0].seconds, back.calls[0].tolerance) == ("e", 0.5, 0.1)
    for name, value in tensors.items():
        found = back.calls[0].inputs[name]
        assert found.shape == value.shape and found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)


def test_no_python_tensorflow_and_no_keras_are_in_the_process(exported, tmp_path):
    code = f"""
import sys
from keras_resnet.cpp_loader import Endpoint, SavedModel, strings
endpoint = Endpoint({{"image_bytes": "serving_default_image_bytes:0"}}, {{}})
SavedModel({str(exported)!r}, {{"serving_default": endpoint}})
print(*sorted(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "keras_resnet" in loaded
    assert not loaded & {"tensorflow", "keras"}


def test_beside_python_tensorflow_it_refuses():
    with pytest.raises(RuntimeError, match="Python TensorFlow is in this process"):
        SavedModel("anywhere", {})


def test_what_cannot_be_loaded_is_said_in_a_line(tmp_path):
    write_calls(tmp_path / "calls", Calls(endpoints={}, calls=[]))
    command = [sys.executable, "-m", "keras_resnet.cpp_loader", str(tmp_path), str(tmp_path / "calls"), "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Could not find SavedModel" in done.stderr.splitlines()[-1]
