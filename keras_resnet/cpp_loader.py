"""SavedModels by TensorFlow's C++ loader, as TF Serving loads and runs them: no Python TensorFlow, no Keras.

`TF_LoadSessionFromSavedModel` in the `libtensorflow_cc` of the TensorFlow package is the loader and the session of the
server; XLA is disabled as the server does when it starts. The same library must not be in the process twice, so this
module is for processes that do not import TensorFlow, and has a command of its own:

    python -m keras_resnet.cpp_loader SAVED_MODEL CALLS ANSWERS

runs the calls in one file (`write_calls`) and writes them with what came out to another.
"""

import ctypes
import importlib.util
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray]

# TF_DataType of tensorflow/c/tf_datatype.h.
_STRING = 7
_NUMBERS = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 9: "int64", 10: "bool",
            17: "uint16", 19: "float16", 22: "uint32", 23: "uint64"}  # fmt: skip
_TYPES = {np.dtype(name): number for number, name in _NUMBERS.items()}
_SIZE_OF_STRING = 24
"""of a TF_TString"""


@dataclass(frozen=True)
class Endpoint:
    """One signature: the names of tensors in the graph by the names of inputs and outputs."""

    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request and, once it is answered, its answer. Strings are arrays of dtype object that hold `bytes`."""

    signature: str
    inputs: Tensors
    outputs: Tensors = field(default_factory=dict)
    error: str = ""
    """what the session said where it refused"""
    seconds: float = 0.0
    tolerance: float = 0.0
    """by how much numbers may differ from `outputs` where those are what is wanted"""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What travels between the processes."""

    endpoints: dict[str, Endpoint]
    calls: list[Call]
    load_seconds: float = 0.0
    resident_bytes: int = 0
    """of the process, after the last call"""


def write_calls(path: Path, calls: Calls) -> None:
    """As one `.npz` file without pickle: an array a tensor, and JSON for the rest."""
    arrays: dict[str, np.ndarray] = {}

    def put(tensors: Tensors) -> dict[str, Any]:
        where: dict[str, Any] = {}
        for name, value in tensors.items():
            where[name] = key = f"array{len(arrays)}"
            if value.dtype == object:
                where[name] = {"key": key, "shape": value.shape, "lengths": [len(one) for one in value.flat]}
                value = np.frombuffer(b"".join(value.flat), np.uint8)
            arrays[key] = value
        return where

    rows = [
        vars(call) | {"inputs": put(call.inputs), "outputs": put(call.outputs)}
        for call in calls.calls
    ]
    header = {
        "endpoints": {name: vars(endpoint) for name, endpoint in calls.endpoints.items()},
        "calls": rows,
        "load_seconds": calls.load_seconds,
        "resident_bytes": calls.resident_bytes,
    }
    with open(path, "wb") as file:  # np.savez adds an ending to a name that has none
        np.savez(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]


def read_calls(path: Path) -> Calls:
    """What `write_calls` wrote."""
    with np.load(path) as archive:
        header = json.loads(str(archive["header"]))

        def take(where: dict[str, Any]) -> Tensors:
            tensors = {}
            for name, place in where.items():
                if isinstance(place, str):
                    tensors[name] = archive[place]
                else:
                    whole, ends = archive[place["key"]].tobytes(), np.cumsum([0, *place["lengths"]])
                    tensors[name] = strings(whole[a:b] for a, b in zip(ends, ends[1:], strict=False))
                    tensors[name] = tensors[name].reshape(place["shape"])
            return tensors

        calls = [Call(**row | {name: take(row[name]) for name in ("inputs", "outputs")}) for row in header["calls"]]
    endpoints = {name: Endpoint(**endpoint) for name, endpoint in header["endpoints"].items()}
    return Calls(**header | {"endpoints": endpoints, "calls": calls})


def strings(values: Any) -> np.ndarray:
    """Bytes as a string tensor `[N]`."""
    values = list(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array


class SavedModel:
    """A SavedModel in the C++ session. Raises `ValueError` with TensorFlow's message where it cannot be loaded."""

    def __init__(self, path: str | os.PathLike[str], endpoints: Mapping[str, Endpoint]):
        self.endpoints = endpoints
        self._library = library = _library()
        self._status = ctypes.c_void_p(library.TF_NewStatus())
        self._graph = ctypes.c_void_p(library.TF_NewGraph())
        options = ctypes.c_void_p(library.TF_NewSessionOptions())
        tags = (ctypes.c_char_p * 1)(b"serve")
        session = library.TF_LoadSessionFromSavedModel(
            options, None, os.fsencode(path), tags, 1, self._graph, None, self._status
        )
        library.TF_DeleteSessionOptions(options)
        self._require_ok()
        self._session = ctypes.c_void_p(session)

    def run(self, signature: str, inputs: Tensors, outputs: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """The outputs of one request, all or those named. Raises `ValueError` with TensorFlow's message."""
        endpoint, library = self.endpoints[signature], self._library
        outputs = outputs or tuple(endpoint.outputs)
        feeds = [self._place(endpoint.inputs[name]) for name in inputs]
        fetches = [self._place(endpoint.outputs[name]) for name in outputs]
        values = [self._to_tensor(np.asarray(value)) for value in inputs.values()]
        answers = (ctypes.c_void_p * len(fetches))()
        try:
            library.TF_SessionRun(
                self._session, None,
                (_Output * len(feeds))(*feeds), (ctypes.c_void_p * len(values))(*values), len(feeds),
                (_Output * len(fetches))(*fetches), answers, len(fetches),
                None, 0, None, self._status,
            )  # fmt: skip
            self._require_ok()
            return {name: self._to_array(ctypes.c_void_p(t)) for name, t in zip(outputs, answers, strict=True)}
        finally:
            for value in values:
                self._free(value)
            for answer in filter(None, answers):
                library.TF_DeleteTensor(ctypes.c_void_p(answer))

    def _place(self, name: str) -> "_Output":
        operation, _, index = name.partition(":")
        found = self._library.TF_GraphOperationByName(self._graph, operation.encode())
        if not found:
            raise ValueError(f"the graph has no operation {operation!r}")
        return _Output(found, int(index or 0))

    def _to_tensor(self, value: np.ndarray) -> ctypes.c_void_p:
        library = self._library
        shape = (ctypes.c_int64 * value.ndim)(*value.shape)
        if value.dtype != object:
            value = np.ascontiguousarray(value)
            tensor = library.TF_AllocateTensor(_TYPES[value.dtype], shape, value.ndim, value.nbytes)
            ctypes.memmove(library.TF_TensorData(ctypes.c_void_p(tensor)), value.ctypes.data, value.nbytes)
            return ctypes.c_void_p(tensor)
        tensor = ctypes.c_void_p(library.TF_AllocateTensor(_STRING, shape, value.ndim, _SIZE_OF_STRING * value.size))
        start = library.TF_TensorData(tensor)
        for i, one in enumerate(value.flat):
            place = ctypes.c_void_p(start + i * _SIZE_OF_STRING)
            library.TF_StringInit(place)
            library.TF_StringCopy(place, one, len(one))
        return tensor

    def _to_array(self, tensor: ctypes.c_void_p) -> np.ndarray:
        library = self._library
        shape = [library.TF_Dim(tensor, i) for i in range(library.TF_NumDims(tensor))]
        kind, data = library.TF_TensorType(tensor), library.TF_TensorData(tensor)
        if kind in _NUMBERS:
            raw = ctypes.string_at(data, library.TF_TensorByteSize(tensor)) if data else b""
            return np.frombuffer(raw, _NUMBERS[kind]).reshape(shape)
        if kind != _STRING:
            raise ValueError(f"an output has a type without a NumPy equal (TF_DataType {kind})")
        places = [ctypes.c_void_p(data + i * _SIZE_OF_STRING) for i in range(int(np.prod(shape)))]
        return strings(
            ctypes.string_at(library.TF_StringGetDataPointer(p), library.TF_StringGetSize(p)) for p in places
        ).reshape(shape)

    def _free(self, tensor: ctypes.c_void_p) -> None:
        """TF_DeleteTensor does not know that TF_AllocateTensor's strings own memory."""
        library = self._library
        if library.TF_TensorType(tensor) == _STRING:
            start, size = library.TF_TensorData(tensor), library.TF_TensorByteSize(tensor)
            for place in range(start, start + size, _SIZE_OF_STRING):
                library.TF_StringDealloc(ctypes.c_void_p(place))
        library.TF_DeleteTensor(tensor)

    def _require_ok(self) -> None:
        if self._library.TF_GetCode(self._status):
            raise ValueError(self._library.TF_Message(self._status).decode(errors="replace"))


class _Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def _library() -> ctypes.CDLL:
    if "tensorflow" in sys.modules:
        raise RuntimeError("Python TensorFlow is in this process; the C++ loader needs one without")
    found = importlib.util.find_spec("tensorflow")  # which imports nothing
    assert found is not None and found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0])
    ending = "{}.2.dylib" if sys.platform == "darwin" else "{}.so.2"
    ctypes.CDLL(str(folder / ending.format("libtensorflow_framework")))
    library = ctypes.CDLL(str(folder / ending.format("libtensorflow_cc")))
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    for result, names in {
        pointer: ["NewStatus", "NewGraph", "NewSessionOptions", "LoadSessionFromSavedModel", "GraphOperationByName",
                  "AllocateTensor", "TensorData", "StringGetDataPointer"],
        ctypes.c_int64: ["Dim"],
        ctypes.c_size_t: ["TensorByteSize", "StringGetSize"],
        ctypes.c_char_p: ["Message"],
    }.items():  # fmt: skip
        for name in names:
            getattr(library, f"TF_{name}").restype = result
    library.TF_AllocateTensor.argtypes = [integer, pointer, integer, ctypes.c_size_t]
    library.TF_StringCopy.argtypes = [pointer, ctypes.c_char_p, ctypes.c_size_t]
    library.TF_Dim.argtypes = [pointer, integer]
    # What the server's main() does unless it is told otherwise: a graph that asks for XLA fails when it is run.
    library._ZN10tensorflow21DisableXlaCompilationEv()
    return library


def resident_bytes() -> int:
    """Memory of this process, where the system says it as Linux does; else 0."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main(saved_model: str, calls_file: str, answers_file: str) -> None:
    asked = read_calls(Path(calls_file))
    start = time.perf_counter()
    model = SavedModel(saved_model, asked.endpoints)
    load_seconds = time.perf_counter() - start
    answered = []
    for call in asked.calls:
        start = time.perf_counter()
        try:
            outputs = model.run(call.signature, call.inputs)
            answered.append(replace(call, outputs=outputs, seconds=time.perf_counter() - start))
        except ValueError as error:
            answered.append(replace(call, error=str(error), seconds=time.perf_counter() - start))
    assert not {"tensorflow", "keras"} & sys.modules.keys()
    write_calls(
        Path(answers_file),
        replace(asked, calls=answered, load_seconds=load_seconds, resident_bytes=resident_bytes()),
    )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
