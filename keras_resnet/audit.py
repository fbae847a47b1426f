"""What can be seen of a SavedModel without running it, with an operator's eyes."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from . import serving_files

PREDICT = "tensorflow/serving/predict"
_METHODS = (PREDICT, "tensorflow/serving/classify", "tensorflow/serving/regress")
_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


@dataclass(frozen=True)
class Finding:
    """One thing that an operator would want to know."""

    severity: Literal["error", "warning"]
    """error: the server would refuse it, or its answers are wrong"""
    text: str


def read_graph(path: Path) -> meta_graph_pb2.MetaGraphDef:
    """What is tagged for serving. Raises `ValueError` where `path` holds no SavedModel that can be read."""
    file = path / "saved_model.pb"
    if not file.is_file():
        versions = sorted(str(found.parent) for found in path.glob("*/saved_model.pb"))
        hint = f"; give one of {', '.join(versions)}" if versions else ""
        raise ValueError(f"{path} is no SavedModel: it has no saved_model.pb{hint}")
    try:
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except Exception as error:  # of a class that protobuf does not name in its interface
        raise ValueError(f"{file} cannot be read: {error}") from None
    for graph in saved.meta_graphs:
        if set(graph.meta_info_def.tags) == {"serve"}:
            return graph
    tags = [sorted(graph.meta_info_def.tags) for graph in saved.meta_graphs]
    raise ValueError(f"{file} has nothing under the tag 'serve' that TF Serving loads, but under {tags}")


def signatures_of(graph: meta_graph_pb2.MetaGraphDef) -> dict[str, Any]:
    """By name, in alphabetical order."""
    return {name: s for name, s in sorted(graph.signature_def.items()) if name != "__saved_model_init_op"}


def audit(path: Path, graph: meta_graph_pb2.MetaGraphDef) -> Iterator[Finding]:
    """What is wrong with, or missing from, the SavedModel in `path`, whose graph is `graph`."""
    signatures = signatures_of(graph)
    if "serving_default" not in signatures:
        yield Finding("warning", f"no serving_default: every request must name one of {sorted(signatures)}")
    for name, signature in signatures.items():
        if signature.method_name not in _METHODS:
            yield Finding("error", f"{name}: its method name is {signature.method_name!r}, not {PREDICT!r}")
        for key, info in sorted([*signature.inputs.items(), *signature.outputs.items()]):
            if info.tensor_shape.unknown_rank or not info.tensor_shape.dim:
                yield Finding("warning", f"{name}: {key} has no batch dimension that is known, so it cannot be batched")
            elif info.tensor_shape.dim[0].size != -1:
                first = info.tensor_shape.dim[0].size
                yield Finding("warning", f"{name}: {key} has {first} rows and no more, so it cannot be batched")
        for key in sorted(signature.outputs):
            if re.fullmatch(r"output_\d+", key):
                yield Finding("warning", f"{name}: the output {key} says nothing of what it is")

    nodes = [*graph.graph_def.node, *(n for f in graph.graph_def.library.function for n in f.node_def)]
    functions = graph.graph_def.library.function
    if any(thing.attr["_XlaMustCompile"].b for thing in (*nodes, *functions) if "_XlaMustCompile" in thing.attr):
        yield Finding("error", "asks for XLA (jit_compile), which the server has disabled: every request would fail")
    if python := sorted({node.op for node in nodes} & _PYTHON):
        yield Finding("error", f"calls Python ({', '.join(python)}), which the server has not")
    yield from _twice(path, nodes)
    raw = (path / "saved_model.pb").read_bytes()
    if found := re.search(rb"(?<![\w./])/(?:home|root|tmp|work|usr|Users|mnt|var|opt|data)/[\w.\-/]+", raw):
        yield Finding("warning", f"has an absolute path inside: {found[0].decode(errors='replace')}")

    takes = {info.dtype for s in signatures.values() for info in s.inputs.values()}
    if tf.string.as_datatype_enum not in takes:
        yield Finding("warning", f"no signature takes encoded pictures{_request_size(signatures)}")
    gives = {info.dtype for s in signatures.values() for info in s.outputs.values()}
    if tf.string.as_datatype_enum not in gives and not (path / serving_files.LABELS).is_file():
        yield Finding("warning", "the answers are numbers of classes: no labels travel with it")
    if not (path / serving_files.WARM_UP).is_file():
        yield Finding("warning", "no warm-up requests: the first of every batch size is slow")
    if not (path / serving_files.BATCHING).is_file():
        yield Finding("warning", f"no {serving_files.BATCHING}: batching is left to the server's settings")
    else:
        try:
            serving_files.read_batching(path)
        except ValueError as error:
            yield Finding("error", str(error))


def _twice(path: Path, nodes: list[Any]) -> Iterator[Finding]:
    """Weights by their bytes; what is all one number, as new biases are, is not counted."""
    found: dict[bytes, list[tuple[str, int]]] = defaultdict(list)

    def see(name: str, value: np.ndarray) -> None:
        if value.size > 1 and value.dtype.kind == "f" and (value != value.flat[0]).any():
            found[hashlib.sha256(value.tobytes()).digest()].append((name, value.nbytes))

    total, norms = 0, set()
    if (path / "variables" / "variables.index").is_file():
        try:
            checkpoint = tf.train.load_checkpoint(str(path / "variables" / "variables"))
            for name in checkpoint.get_variable_to_shape_map():
                value = checkpoint.get_tensor(name)
                if isinstance(value, np.ndarray):
                    see(name, value)
                    total += value.nbytes
        except Exception as error:  # of any class, by what is damaged
            yield Finding("error", f"its variables cannot be read: {error}")
    for node in nodes:
        if node.op == "Const" and len(node.attr["value"].tensor.tensor_content) > 1 << 16:
            see(node.name, tf.make_ndarray(node.attr["value"].tensor))
        name = node.attr["shared_name"].s.decode() if node.op == "VarHandleOp" else ""
        if "moving_variance" in name:
            norms.add(re.sub(r"_\d+$", "", name))  # the number is of a variable that is there twice
    again = sum((len(places) - 1) * places[0][1] for places in found.values())
    if again:
        name = next(places for places in found.values() if len(places) > 1)[0][0]
        yield Finding("warning", f"of {total:,} bytes of weights {again:,} are stored again, such as {name}")
    if norms:
        yield Finding("warning", f"{len(norms)} batch norms are computed for every request; they could be folded")


def _request_size(signatures: dict[str, Any]) -> str:
    """What a picture costs as JSON numbers."""
    sizes = [
        [dim.size for dim in info.tensor_shape.dim[1:]]
        for s in signatures.values()
        for info in s.inputs.values()
        if info.dtype == tf.float32.as_datatype_enum and len(info.tensor_shape.dim) == 4
    ]
    if not sizes or min(sizes[0]) < 1:
        return ""
    count = int(np.prod(sizes[0]))
    bytes_each = len(str(np.random.default_rng(0).normal(size=1000).astype(np.float32).tolist())) / 1000
    return f": one of {'x'.join(map(str, sizes[0]))} is about {count * bytes_each / 1e6:.1f} MB of JSON numbers"
