"""Run SavedModels in TensorFlow's C++ loader, as TF Serving does: no Python TensorFlow, no Keras.

`TF_LoadSessionFromSavedModel` in the `libtensorflow_cc` of the TensorFlow package is the loader and
session of the server. XLA is disabled, as the server disables it at start-up. A process cannot load
the library twice, so `SavedModel` works only in processes that do not import TensorFlow.
`run_calls` starts such a process:

    python -P cpp_loader.py SAVED_MODEL CALLS ANSWERS

This command runs the calls of one file (`write_calls`) and writes them with their answers to
another. A SavedModel is a program: it has all rights of its process, which is not a sandbox.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import ml_dtypes  # noqa: F401  # registers TensorFlow's other dtypes with NumPy
import numpy as np

Tensors = Mapping[str, np.ndarray]

# TF_DataType in tensorflow/c/tf_datatype.h.
_STRING = 7
_NUMBERS = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 9: "int64",
            8: "complex64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128",
            19: "float16", 22: "uint32", 23: "uint64", 24: "float8_e5m2",
            25: "float8_e4m3fn"}  # fmt: skip
TYPES = {np.dtype(name): number for number, name in _NUMBERS.items()}
"""the dtypes of tensors that a call can hold, besides strings"""
_SIZE_OF_STRING = 24
"""the size of a TF_TString in bytes"""
TIME_LIMIT = 600.0
"""the default time in seconds to load a SavedModel and answer all calls"""
_MESSAGE = 1 << 16
"""the number of bytes read from the end of a process's messages"""


@dataclass(frozen=True)
class Endpoint:
    """The tensor names of one signature in the graph, by input and output."""

    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request with its answer. String tensors are arrays of dtype object with `bytes`."""

    signature: str
    inputs: Tensors
    outputs: Tensors = field(default_factory=dict)
    error: str = ""
    """the message of the session if the request failed"""
    seconds: float = 0.0
    tolerance: float = 0.0
    """for expected `outputs`: the largest allowed difference of a number in the answer"""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Calls of one SavedModel, with measurements if they have been answered."""

    endpoints: dict[str, Endpoint]
    calls: list[Call]
    load_seconds: float = 0.0
    resident_bytes: int = 0
    """the memory of the process after the last call"""


def run_calls(
    saved_model: str | os.PathLike[str],
    endpoints: Mapping[str, Endpoint],
    calls: Iterable[Call],
    time_limit: float = TIME_LIMIT,
) -> Calls:
    """Run calls in the C++ loader, in a separate process.

    The process runs in an empty folder, so it imports nothing from the working directory. It ends
    when this process ends.

    Args:
        saved_model: the folder of `saved_model.pb`.
        endpoints: the signatures of the SavedModel by name, as `check.endpoints` reads them.
        calls: the calls, which run one at a time in this order.
        time_limit: the time in seconds after which the process is killed.

    Returns:
        The calls with their answers. A failed call has a message in `error`.

    Raises:
        ValueError: the SavedModel does not load, or the process died. The message is one line.
        TimeoutError: the time limit is exceeded.
    """
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "asked.npz", Path(scratch) / "answered.npz"
        write_calls(asked, Calls(endpoints=dict(endpoints), calls=list(calls)))
        files = map(str, (Path(saved_model).absolute(), asked, answered))
        # However this process ends, the pipe closes, and the child waits for that.
        read_end, write_end = os.pipe()
        # A file instead of memory, because a SavedModel can print without end.
        with open(Path(scratch) / "messages", "w+b") as messages:
            try:
                done = subprocess.run(
                    [sys.executable, "-P", __file__, *files],
                    stdin=read_end,
                    stdout=subprocess.DEVNULL,
                    stderr=messages,
                    cwd=scratch,
                    env=os.environ | {"PYTHONPATH": python_path(), "TF_CPP_MIN_LOG_LEVEL": "3"},
                    timeout=time_limit,
                )
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"it has not answered within {time_limit:g} seconds") from None
            finally:
                os.close(read_end)
                os.close(write_end)
            if done.returncode:
                raise ValueError(reason(done.returncode, messages))
        return read_calls(answered)


def python_path() -> str:
    """Return PYTHONPATH without the working directory; an empty entry stands for it too."""
    paths = [os.path.realpath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.pathsep.join(path for path in paths if path != os.path.realpath(""))


def reason(status: int, messages: IO[bytes]) -> str:
    """Return in one line why a process ended: the signal, and the last line that it wrote.

    Args:
        status: its exit status; that of a signal is negative.
        messages: the file of its standard error.
    """
    messages.seek(max(0, messages.seek(0, os.SEEK_END) - _MESSAGE))
    text = messages.read().decode(errors="replace").strip()
    line = (text.splitlines() or ["it gave no message"])[-1]
    return f"signal {-status} ended it: {line}" if status < 0 else line


def write_calls(path: Path, calls: Calls) -> None:
    """Write one `.npz` file without pickle: an array per tensor, and JSON for all other fields."""
    arrays: dict[str, np.ndarray] = {}

    def put(tensors: Tensors) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for name, value in tensors.items():
            entries[name] = key = f"array{len(arrays)}"
            if value.dtype == object:
                entries[name] = {
                    "key": key,
                    "shape": value.shape,
                    "lengths": [len(one) for one in value.flat],
                }
                value = np.frombuffer(b"".join(value.flat), np.uint8)
            elif value.dtype.kind == "V":  # .npz files cannot hold this dtype
                entries[name] = {"key": key, "type": value.dtype.name}
                value = value.view(f"u{value.dtype.itemsize}")
            arrays[key] = value
        return entries

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
    with open(path, "wb") as file:  # np.savez adds a suffix to a file name
        np.savez(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]


def read_calls(path: Path) -> Calls:
    """Read a file written by `write_calls`."""
    with np.load(path) as archive:
        header = json.loads(str(archive["header"]))

        def take(entries: dict[str, Any]) -> Tensors:
            tensors = {}
            for name, entry in entries.items():
                if isinstance(entry, str):
                    tensors[name] = archive[entry]
                elif "type" in entry:
                    tensors[name] = archive[entry["key"]].view(entry["type"])
                else:
                    whole, ends = archive[entry["key"]].tobytes(), np.cumsum([0, *entry["lengths"]])
                    tensors[name] = strings(
                        whole[a:b] for a, b in zip(ends, ends[1:], strict=False)
                    )
                    tensors[name] = tensors[name].reshape(entry["shape"])
            return tensors

        calls = [
            Call(**row | {name: take(row[name]) for name in ("inputs", "outputs")})
            for row in header["calls"]
        ]
    endpoints = {name: Endpoint(**endpoint) for name, endpoint in header["endpoints"].items()}
    return Calls(**header | {"endpoints": endpoints, "calls": calls})


def strings(values: Any) -> np.ndarray:
    """Return bytes as a string tensor `[N]`."""
    values = list(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array


class SavedModel:
    """A SavedModel in the C++ session, which several threads may ask at a time.

    Args:
        path: the folder of `saved_model.pb`.
        endpoints: the signatures by name.
        config: a serialized `ConfigProto`, such as TF Serving makes of its flags.

    Raises:
        ValueError: the SavedModel cannot be loaded. The message is TensorFlow's.
        RuntimeError: this process has imported TensorFlow.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        endpoints: Mapping[str, Endpoint],
        config: bytes = b"",
    ):
        self.endpoints = endpoints
        self._library = library = _library()
        self._graph = ctypes.c_void_p(library.TF_NewGraph())
        options = ctypes.c_void_p(library.TF_NewSessionOptions())
        tags = (ctypes.c_char_p * 1)(b"serve")
        with self._checked_status() as status:
            library.TF_SetConfig(options, config, ctypes.c_size_t(len(config)), status)
            session = library.TF_LoadSessionFromSavedModel(
                options, None, os.fsencode(path), tags, 1, self._graph, None, status
            )
            library.TF_DeleteSessionOptions(options)
        self._session = ctypes.c_void_p(session)

    def run(
        self, signature: str, inputs: Tensors, outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Answer one request.

        Args:
            signature: the name of one of the `endpoints`.
            inputs: the tensors by name.
            outputs: the names of the outputs to compute; empty for all.

        Raises:
            ValueError: the request fails. The message is TensorFlow's.
        """
        endpoint, library = self.endpoints[signature], self._library
        outputs = outputs or tuple(endpoint.outputs)
        feeds = [self._output(endpoint.inputs[name]) for name in inputs]
        fetches = [self._output(endpoint.outputs[name]) for name in outputs]
        values = [self._to_tensor(np.asarray(value)) for value in inputs.values()]
        answers = (ctypes.c_void_p * len(fetches))()
        try:
            with self._checked_status() as status:
                library.TF_SessionRun(
                    self._session, None,
                    (_Output * len(feeds))(*feeds), (ctypes.c_void_p * len(values))(*values),
                    len(feeds),
                    (_Output * len(fetches))(*fetches), answers, len(fetches),
                    None, 0, None, status,
                )  # fmt: skip
            return {
                name: self._to_array(ctypes.c_void_p(t))
                for name, t in zip(outputs, answers, strict=True)
            }
        finally:
            for value in values:
                self._free(value)
            for answer in filter(None, answers):
                library.TF_DeleteTensor(ctypes.c_void_p(answer))

    def _output(self, name: str) -> "_Output":
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
            tensor = library.TF_AllocateTensor(TYPES[value.dtype], shape, value.ndim, value.nbytes)
            ctypes.memmove(
                library.TF_TensorData(ctypes.c_void_p(tensor)), value.ctypes.data, value.nbytes
            )
            return ctypes.c_void_p(tensor)
        tensor = ctypes.c_void_p(
            library.TF_AllocateTensor(_STRING, shape, value.ndim, _SIZE_OF_STRING * value.size)
        )
        start = library.TF_TensorData(tensor)
        for i, one in enumerate(value.flat):
            string = ctypes.c_void_p(start + i * _SIZE_OF_STRING)
            library.TF_StringInit(string)
            library.TF_StringCopy(string, one, len(one))
        return tensor

    def _to_array(self, tensor: ctypes.c_void_p) -> np.ndarray:
        library = self._library
        shape = [library.TF_Dim(tensor, i) for i in range(library.TF_NumDims(tensor))]
        kind, data = library.TF_TensorType(tensor), library.TF_TensorData(tensor)
        if kind in _NUMBERS:
            raw = ctypes.string_at(data, library.TF_TensorByteSize(tensor)) if data else b""
            return np.frombuffer(raw, np.dtype(_NUMBERS[kind])).reshape(shape)
        if kind != _STRING:
            raise ValueError(f"an output is of TF_DataType {kind}, which NumPy does not have")
        pointers = [ctypes.c_void_p(data + i * _SIZE_OF_STRING) for i in range(int(np.prod(shape)))]
        return strings(
            ctypes.string_at(library.TF_StringGetDataPointer(p), library.TF_StringGetSize(p))
            for p in pointers
        ).reshape(shape)

    def _free(self, tensor: ctypes.c_void_p) -> None:
        """Delete a tensor and its strings; TF_DeleteTensor alone would leak the strings."""
        library = self._library
        if library.TF_TensorType(tensor) == _STRING:
            start, size = library.TF_TensorData(tensor), library.TF_TensorByteSize(tensor)
            for string in range(start, start + size, _SIZE_OF_STRING):
                library.TF_StringDealloc(ctypes.c_void_p(string))
        library.TF_DeleteTensor(tensor)

    @contextlib.contextmanager
    def _checked_status(self) -> Iterator[ctypes.c_void_p]:
        """Yield a status to fill, and raise the error that it then holds."""
        status = ctypes.c_void_p(self._library.TF_NewStatus())
        try:
            yield status
            if self._library.TF_GetCode(status):
                raise ValueError(self._library.TF_Message(status).decode(errors="replace"))
        finally:
            self._library.TF_DeleteStatus(status)


class _Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def _library() -> ctypes.CDLL:
    if "tensorflow" in sys.modules:
        raise RuntimeError("Python TensorFlow is in this process; the C++ loader needs one without")
    found = importlib.util.find_spec("tensorflow")  # imports nothing
    assert found is not None and found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0])
    ending = "{}.2.dylib" if sys.platform == "darwin" else "{}.so.2"
    ctypes.CDLL(str(folder / ending.format("libtensorflow_framework")))
    library = ctypes.CDLL(str(folder / ending.format("libtensorflow_cc")))
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    for result, names in {
        pointer: ["NewStatus", "NewGraph", "NewSessionOptions", "LoadSessionFromSavedModel",
                  "GraphOperationByName", "AllocateTensor", "TensorData", "StringGetDataPointer"],
        ctypes.c_int64: ["Dim"],
        ctypes.c_size_t: ["TensorByteSize", "StringGetSize"],
        ctypes.c_char_p: ["Message"],
    }.items():  # fmt: skip
        for name in names:
            getattr(library, f"TF_{name}").restype = result
    library.TF_AllocateTensor.argtypes = [integer, pointer, integer, ctypes.c_size_t]
    library.TF_StringCopy.argtypes = [pointer, ctypes.c_char_p, ctypes.c_size_t]
    library.TF_Dim.argtypes = [pointer, integer]
    # As the server's main() does by default: a graph that requires XLA then fails when it runs.
    library._ZN10tensorflow21DisableXlaCompilationEv()
    return library


def resident_bytes() -> int:
    """Return the memory of this process in bytes; 0 on systems without /proc/self/statm."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _exit_with_parent() -> None:
    """Exit when standard input closes."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main(saved_model: str, calls_file: str, answers_file: str) -> None:
    """Run the calls of one file, and write them with their answers to another."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
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
        print(" ".join(str(failure).split()), file=sys.stderr)
        sys.exit(1)
