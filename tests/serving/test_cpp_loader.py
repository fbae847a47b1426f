import os
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.serving.check import endpoints
from keras_resnet.serving.cpp_loader import (
    Call,
    Calls,
    Endpoint,
    SavedModel,
    read_calls,
    run_calls,
    strings,
    write_calls,
)


def test_calls_are_written_and_read(tmp_path):
    tensors = {
        "strings": strings([b"", b"a\0b\0", bytes(range(256))]),
        "matrix": np.array([[b"a", b"bc"]], object),
        "floats": np.array([[1.5, np.nan]], np.float32),
        "none": np.zeros((0, 3), np.uint8),
        "half": np.array([[1.5], [-2.0]], ml_dtypes.bfloat16),
        "scalar": np.array(b"a", object),
    }
    call = Call(
        signature="s",
        inputs=tensors,
        outputs={"y": np.array([True])},
        error="e",
        seconds=0.5,
        tolerance=0.1,
    )
    write_calls(
        tmp_path / "calls",
        Calls(endpoints={"s": Endpoint({"x": "x:0"}, {"y": "y:1"})}, calls=[call]),
    )
    restored = read_calls(tmp_path / "calls")
    assert restored.endpoints == {"s": Endpoint({"x": "x:0"}, {"y": "y:1"})}
    (restored_call,) = restored.calls
    assert (restored_call.error, restored_call.seconds, restored_call.tolerance) == ("e", 0.5, 0.1)
    for name, value in tensors.items():
        found = restored_call.inputs[name]
        assert found.shape == value.shape and found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)


def test_the_process_imports_neither_tensorflow_nor_keras(exported, tmp_path):
    code = f"""
import sys
from keras_resnet.serving.cpp_loader import Endpoint, SavedModel, strings
endpoint = Endpoint({{"image_bytes": "serving_default_image_bytes:0"}}, {{}})
SavedModel({str(exported)!r}, {{"serving_default": endpoint}})
print(*sorted(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "keras_resnet" in loaded
    assert not loaded & {"tensorflow", "keras"}


def test_a_process_with_python_tensorflow_is_refused():
    with pytest.raises(RuntimeError, match="Python TensorFlow is in this process"):
        SavedModel("anywhere", {})


def test_a_folder_that_cannot_be_loaded_gives_one_line(tmp_path):
    with pytest.raises(ValueError, match="Could not find SavedModel") as raised:
        run_calls(tmp_path, {}, [])
    assert len(str(raised.value).splitlines()) == 1


def test_a_failing_request_does_not_affect_others(exported):
    calls = run_calls(
        exported,
        endpoints(exported),
        [
            Call(signature="tensor", inputs={"inputs": np.zeros((1, 8, 8, channels), np.float32)})
            for channels in (2, 3)
        ],
    ).calls
    assert calls[0].error and not calls[0].outputs
    assert not calls[1].error and calls[1].outputs["logits"].shape == (1, 10)
    assert calls[1].seconds > 0


@pytest.mark.slow
@pytest.mark.parametrize("python_path", [None, "", os.pathsep + "/nowhere", "."])
def test_nothing_in_the_working_directory_is_imported(exported, tmp_path, monkeypatch, python_path):
    """An empty entry of PYTHONPATH stands for the working directory too."""
    for name in ("ctypes", "numpy", "json", "keras_resnet"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of the working directory')")
    monkeypatch.chdir(tmp_path)
    if python_path is not None:
        monkeypatch.setenv("PYTHONPATH", python_path)
    assert run_calls(exported, endpoints(exported), []).load_seconds > 0


def test_the_process_is_killed_after_its_time_limit(tmp_path, monkeypatch):
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 60\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="^it has not answered within 0.5 seconds$"):
        run_calls(tmp_path, {}, [], time_limit=0.5)
    assert time.monotonic() - start < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.slow
def test_the_process_ends_with_its_parent(tmp_path):
    """The SavedModel is endless, and the parent is killed."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def endless(x):
        return {"y": tf.while_loop(lambda y: tf.reduce_sum(y) < 1e9, lambda y: [y * 0.5], [x])[0]}

    module.endless = endless
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=endless)
    code = f"""
from keras_resnet.serving.check import endpoints
from keras_resnet.serving.cpp_loader import Call, run_calls
import numpy as np
path = {str(tmp_path / "model")!r}
call = Call(signature="serving_default", inputs={{"x": np.ones(1, np.float32)}})
run_calls(path, endpoints(path), [call])
"""
    parent_process = subprocess.Popen([sys.executable, "-c", code])
    try:
        loader = wait_for(lambda: child_of(parent_process.pid))
        wait_for(lambda: processor_seconds(loader) > 3)  # it has loaded and is running
    finally:
        parent_process.kill()
        parent_process.wait()
    wait_for(lambda: not Path(f"/proc/{loader}").exists() or state(loader) == "Z")


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


def fields(pid):
    """Return the fields of a process's `stat`, beginning with its state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


def state(pid):
    return fields(pid)[0]


def processor_seconds(pid):
    return int(fields(pid)[11]) / os.sysconf("SC_CLK_TCK")


def child_of(parent):
    """Return the child process that runs the C++ loader, or None."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(fields(folder.name)[1]) == parent:
                if b"cpp_loader" in (folder / "cmdline").read_bytes():
                    return int(folder.name)
        except (OSError, ProcessLookupError):
            pass
    return None


def test_a_process_killed_by_a_signal_gives_one_line(exported, tmp_path, monkeypatch):
    """The interpreter is replaced by a script that kills itself."""
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\necho first >&2\necho last words >&2\nkill -9 $$\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    with pytest.raises(ValueError, match="^signal 9 ended it: last words$"):
        run_calls(exported, {}, [])
