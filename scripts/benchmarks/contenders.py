"""Serve a network in several ways, each in a process of its own that is asked for measurements."""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.serving.cpp_loader import (
    Call,
    Calls,
    SavedModel,
    read_calls,
    resident_bytes,
    strings,
    write_calls,
)
from keras_resnet.serving.runtimes import Answer, open_network

CORES, SIZE, CLASSES = 2, 224, 1000


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to serve a network."""

    name: str
    path: str
    """the folder of `saved_model.pb`, or the file of another runtime"""
    runtime: str = "saved_model"
    """"saved_model", "onnx" or "openvino\""""
    environment: dict[str, str] = field(default_factory=dict)
    """environment variables of a SavedModel's server"""
    config: str = ""
    """the ConfigProto of a SavedModel's server, serialized, in hexadecimal digits"""
    settings: dict[str, str] = field(default_factory=dict)
    """settings of OpenVINO"""
    calls: str = ""
    """the requests of a SavedModel, as `write_requests` writes them"""

    def size(self) -> int:
        """Return the bytes on disk."""
        path = Path(self.path).resolve()
        # OpenVINO has its weights in a file beside it.
        files = path.rglob("*") if path.is_dir() else (path, path.with_suffix(".bin"))
        if self.runtime == "onnx":
            files = (path,)
        return sum(file.stat().st_size for file in files if file.is_file())


class Worker:
    """The process of a contender."""

    def __init__(self, context: Any, contender: Contender, inputs: Path, jpeg: Path):
        self.contender = contender
        self._pipe, end_of_worker = context.Pipe()
        arguments = (json.dumps(asdict(contender)), inputs, jpeg, end_of_worker)
        self._process = context.Process(target=_work, args=arguments)
        self._process.start()
        end_of_worker.close()  # so that the end of the process is the end of the pipe
        self.load, self.warm_up, self.first = self._pipe.recv()

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Call a method of `_Served` in the process."""
        self._pipe.send((verb, arguments))
        return self._pipe.recv()

    def end(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()


class _Served:
    def __init__(self, answerer: Callable[[], Answer], model: Any, inputs: np.ndarray, jpeg: bytes):
        self._answerer, self._answer = answerer, answerer()
        self._model, self._inputs, self._jpeg = model, inputs, jpeg

    def time(self, batch: int) -> float:
        """Return the seconds of a request with so many images."""
        start = time.perf_counter()
        self._answer(self._inputs[:batch])
        return time.perf_counter() - start

    def time_of_jpeg(self, batch: int) -> float:
        """Return the seconds of a request with so many encoded images."""
        start = time.perf_counter()
        self._model.run("serving_default", {"image_bytes": strings([self._jpeg] * batch)})
        return time.perf_counter() - start

    def rate(self, clients: int, seconds: float) -> float:
        """Return the images per second that clients get, each with one image per request."""
        answers = [self._answerer() for _ in range(clients)]
        start = time.perf_counter()

        def ask(answer: Answer) -> int:
            count = 0
            while not count or time.perf_counter() < start + seconds:
                answer(self._inputs[:1])
                count += 1
            return count

        with ThreadPoolExecutor(clients) as pool:
            return sum(pool.map(ask, answers)) / (time.perf_counter() - start)

    def logits(self) -> np.ndarray:
        return self._answer(self._inputs)

    def memory(self) -> int:
        return resident_bytes()


def _work(contender: str, inputs: Path, jpeg: Path, pipe: Any) -> None:
    """Load a contender, warm it up, and answer what `Worker.ask` asks."""
    one = Contender(**json.loads(contender))
    os.environ.update(one.environment)
    images = np.load(inputs)
    start = time.perf_counter()
    answerer, model, warm_up = _open(one)
    loaded = time.perf_counter()
    warm_up()
    warm = time.perf_counter()
    served = _Served(answerer, model, images, jpeg.read_bytes())
    first = served.time(1)
    pipe.send((loaded - start, warm - loaded, first))
    while (asked := pipe.recv()) is not None:
        verb, arguments = asked
        pipe.send(getattr(served, verb)(*arguments))


def _open(contender: Contender) -> tuple[Callable[[], Answer], Any, Callable[[], None]]:
    """Return a function that returns an answerer, the SavedModel, and one that warms it up."""
    if contender.runtime == "onnx":
        return open_network("onnx", Path(contender.path), threads=CORES), None, lambda: None
    if contender.runtime == "openvino":
        return _open_openvino(contender), None, lambda: None
    asked = read_calls(Path(contender.calls))
    model = SavedModel(contender.path, asked.endpoints, bytes.fromhex(contender.config))
    first, *others = asked.calls
    (name,) = first.inputs

    def answer(images: np.ndarray) -> np.ndarray:
        return next(iter(model.run(first.signature, {name: images}).values()))

    def warm_up() -> None:
        for call in others:
            model.run(call.signature, call.inputs)

    return lambda: answer, model, warm_up


def _open_openvino(contender: Contender) -> Callable[[], Answer]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": str(CORES), **contender.settings}
    compiled = openvino.Core().compile_model(contender.path, "CPU", settings)

    def answerer() -> Answer:
        request = compiled.create_infer_request()
        return lambda images: request.infer([images])[0].copy()

    return answerer


def random_resnet50() -> Any:
    """Return `keras.applications.ResNet50` on logits, with random statistics in batch norm."""
    import keras

    keras.utils.set_random_seed(0)
    network = keras.applications.ResNet50(weights=None, classifier_activation=None)
    random = np.random.default_rng(0)
    bounds = {
        "gamma": (0.5, 1.5),
        "beta": (-0.3, 0.3),
        "moving_mean": (-0.3, 0.3),
        "moving_variance": (0.5, 2.0),
    }
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                weight.assign(random.uniform(*bounds[weight.name], weight.shape))
    return network


def photographs() -> list[np.ndarray]:
    """Return scikit-learn's two photographs, uint8 `[H, W, 3]`."""
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def write_requests(saved_model: Path, inputs: np.ndarray, file: Path) -> None:
    """Write a request with tensors, and the warm-up of a SavedModel if it has one.

    Args:
        saved_model: the folder of `saved_model.pb`.
        inputs: the input of the network, float32 `[N, H, W, 3]`.
        file: the file to write.
    """
    from keras_resnet.serving import sidecars
    from keras_resnet.serving.check import endpoints

    available = endpoints(saved_model)
    signature = "tensor" if "tensor" in available else "serving_default"
    (name,) = available[signature].inputs
    calls = [Call(signature=signature, inputs={name: inputs})]
    if (saved_model / sidecars.WARM_UP).is_file():
        warm_up = sidecars.read_warm_up(saved_model)
        calls += [Call(signature=one, inputs=given) for one, given in warm_up]
    write_calls(file, Calls(endpoints=available, calls=calls))


def spread(values: np.ndarray, digits: int) -> str:
    """Return the median and the quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
