"""Open exported networks in their runtimes: ONNX Runtime, LiteRT, OpenVINO or TensorFlow's C++.

Nothing here imports TensorFlow's Python or Keras. The runtimes but TensorFlow's are optional.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from .cpp_loader import Endpoint, SavedModel

Format = Literal["saved_model", "litert", "onnx", "openvino"]
FORMATS = get_args(Format)
FILES: dict[Format, str] = {
    "litert": "model.tflite",
    "onnx": "model.onnx",
    "openvino": "model.xml",
}
"""the file of a network, by format; OpenVINO has its weights in a `.bin` file beside it"""
TENSOR = "tensor"
"""the signature of a SavedModel that takes the network's input"""

Answer = Callable[[np.ndarray], np.ndarray]
"""maps the network's input, float32 `[N, H, W, 3]`, to probabilities or logits, `[N, classes]`"""

_PACKAGES: dict[Format, tuple[str, ...]] = {
    "litert": ("ai_edge_litert",),
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "openvino": ("openvino",),
}


def missing_packages(format: Format) -> list[str]:
    """Return the packages that writing and running a format needs and that are not installed."""
    return [name for name in _PACKAGES.get(format, ()) if importlib.util.find_spec(name) is None]


def require_packages(format: Format) -> None:
    """Require the packages that a format needs.

    Raises:
        ValueError: one is not installed. The message says how to install it.
    """
    if missing := missing_packages(format):
        raise ValueError(
            f"format is {format!r}, for which {', '.join(missing)} must be installed:"
            f" pip install 'keras-residual[{format}]'"
        )


def open_network(
    format: Format, path: Path, endpoint: Endpoint | None = None, threads: int | None = None
) -> Callable[[], Answer]:
    """Load a network, and return a function that returns an answerer for one thread.

    Args:
        format: the format.
        path: the file of the network, or the folder of `saved_model.pb`.
        endpoint: the signature `tensor` of a SavedModel.
        threads: the threads that compute one request; None: as many as there are cores. TensorFlow
            takes them from the environment.
    """
    threads = threads or cores()
    if format == "saved_model":
        assert endpoint is not None
        return _open_saved_model(path, endpoint)
    return {"litert": _open_litert, "onnx": _open_onnx, "openvino": _open_openvino}[format](
        path, threads
    )


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _open_saved_model(path: Path, endpoint: Endpoint) -> Callable[[], Answer]:
    model = SavedModel(path, {TENSOR: endpoint})
    (input_name,), (output_name,) = endpoint.inputs, endpoint.outputs
    return lambda: lambda images: model.run(TENSOR, {input_name: images})[output_name]


def _open_litert(path: Path, threads: int) -> Callable[[], Answer]:
    from ai_edge_litert.interpreter import Interpreter

    def answerer() -> Answer:
        # An interpreter answers one request at a time.
        runner = Interpreter(str(path), num_threads=threads).get_signature_runner()
        (name,) = runner.get_input_details()
        return lambda images: next(iter(runner(**{name: images}).values()))

    first = [answerer()]
    return lambda: first.pop() if first else answerer()


def _open_onnx(path: Path, threads: int) -> Callable[[], Answer]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Otherwise its threads compete with those of others for the cores while they wait.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (one.name for one in session.get_inputs())
    return lambda: lambda images: session.run(None, {name: images})[0]


def _open_openvino(path: Path, threads: int) -> Callable[[], Answer]:
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # The default is bfloat16 where the processor has instructions for it.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)

    def answerer() -> Answer:
        request = compiled.create_infer_request()
        return lambda images: request.infer([images])[0].copy()

    return answerer
