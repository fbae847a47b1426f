"""Audit a SavedModel for an operator without running it."""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from . import sidecars

PREDICT = "tensorflow/serving/predict"
_METHODS = (PREDICT, "tensorflow/serving/classify", "tensorflow/serving/regress")
_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
# Operations that read, write or list files, or connect to other machines.
_FILES = re.compile(
    r"ReadFile|WriteFile|MatchingFiles|ImmutableConst|LoadAndRemapMatrix|RecordInput|DumpTensor"
    r"|(Experimental)?(MatchingFiles|FixedLengthRecord|TFRecord|TextLine|LMDB|CSV|Sql|Snapshot"
    r"|SnapshotChunk|ListSnapshotChunks|Save|Load|DataService)Dataset(V\d)?"
    r"|Snapshot(Nested)?DatasetReader|(Experimental)?DatasetToTFRecord|RegisterDataset(V\d)?"
    r"|(WholeFile|TextLine|FixedLengthRecord|TFRecord|LMDB)Reader(V2)?|CreateSummary(File|Db)Writer"
    r"|Debug(Identity|NumericSummary|NanCount)(V\d)?|FileSystemSetConfiguration|DistributedSave"
)
_SAVES = {"Save", "SaveV2", "SaveSlices", "MergeV2Checkpoints"}
_RESTORES = {"Restore", "RestoreV2", "RestoreSlice", "DTensorRestoreV2"}
# Operations that read or write a file if the input with this index names one.
_NAMED_BY = {"CacheDataset": 1, "CacheDatasetV2": 1}
_NAMED_BY |= {"InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1}


@dataclass(frozen=True)
class Finding:
    """One result of the audit or the check."""

    severity: Literal["error", "warning"]
    """error: a server refuses the SavedModel or answers incorrectly; warning: any other defect"""
    text: str


def read_graph(path: Path) -> meta_graph_pb2.MetaGraphDef:
    """Read the graph with the tag `serve`.

    Args:
        path: the folder of `saved_model.pb`.

    Raises:
        ValueError: `path` holds no readable SavedModel.
    """
    file = path / "saved_model.pb"
    if not file.is_file():
        versions = sorted(str(found.parent) for found in path.glob("*/saved_model.pb"))
        hint = f"; give one of {', '.join(versions)}" if versions else ""
        raise ValueError(f"{path} is not a SavedModel: it has no saved_model.pb{hint}")
    try:
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except Exception as error:  # protobuf does not document the exception class
        raise ValueError(f"{file} cannot be read: {error}") from None
    for graph in saved.meta_graphs:
        if set(graph.meta_info_def.tags) == {"serve"}:
            return graph
    tags = [sorted(graph.meta_info_def.tags) for graph in saved.meta_graphs]
    raise ValueError(
        f"{file} has nothing under the tag 'serve' that TF Serving loads, but under {tags}"
    )


def file_operations(graph: meta_graph_pb2.MetaGraphDef) -> list[str]:
    """Return the operations that read, write or list files when a server loads or runs a graph.

    Operations that restore variables or tables from the SavedModel itself are left out.

    Args:
        graph: the result of `read_graph`.
    """
    saver = graph.saver_def
    main = [name for s in graph.collection_def.values() for name in s.node_list.value]
    requested = [
        info.name
        for signature in graph.signature_def.values()
        for info in (*signature.inputs.values(), *signature.outputs.values())
    ]
    running = {node.op for node in _reached(graph, [*requested, *main])}
    restoring = {node.op for node in _reached(graph, [saver.restore_op_name])}
    found = (running & (_SAVES | _RESTORES)) | (restoring & _SAVES)
    assets = {asset.tensor_info.name.partition(":")[0] for asset in graph.asset_file_def}
    for nodes in (graph.graph_def.node, *(f.node_def for f in graph.graph_def.library.function)):
        constants = {node.name: node for node in nodes if node.op == "Const"}
        for node in nodes:
            stream = node.attr["output_stream"].s if "output_stream" in node.attr else b""
            if _FILES.fullmatch(node.op) or (node.op == "PrintV2" and b"://" in stream):
                found.add(node.op)
            elif node.op in _NAMED_BY and len(node.input) > _NAMED_BY[node.op]:
                name = node.input[_NAMED_BY[node.op]].partition(":")[0]
                if (
                    name in constants
                    and name not in assets
                    and any(constants[name].attr["value"].tensor.string_val)
                ):
                    found.add(node.op)
    return sorted(found)


def _reached(graph: meta_graph_pb2.MetaGraphDef, names: list[str]) -> Iterator[Any]:
    """Yield the named nodes, all nodes they depend on, and the nodes of all functions they call."""
    nodes = {node.name: node for node in graph.graph_def.node}
    functions = {f.signature.name: f.node_def for f in graph.graph_def.library.function}
    names = list(map(_node_of, names))
    while names:
        # Visited nodes and functions are removed. A function runs as a whole.
        pending = [nodes.pop(name) for name in set(names) & nodes.keys()]
        names = [_node_of(tensor) for node in pending for tensor in node.input]
        while pending:
            node = pending.pop()
            yield node
            called = [
                f.name for value in node.attr.values() for f in (value.func, *value.list.func)
            ]
            for function in (node.op, *called):
                pending += functions.pop(function, ())


def _node_of(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def signatures_of(graph: meta_graph_pb2.MetaGraphDef) -> dict[str, Any]:
    """Return the signatures by name, in alphabetical order."""
    return {
        name: s
        for name, s in sorted(graph.signature_def.items())
        if name != "__saved_model_init_op"
    }


def audit(path: Path, graph: meta_graph_pb2.MetaGraphDef) -> Iterator[Finding]:
    """Yield the errors and omissions of a SavedModel.

    Args:
        path: the folder of `saved_model.pb`.
        graph: the result of `read_graph(path)`.
    """
    signatures = signatures_of(graph)
    if files := file_operations(graph):
        yield Finding(
            "error",
            f"reads or writes files by itself ({', '.join(files)}), as it may wherever it is"
            " loaded: it is not run",
        )
    if not signatures:
        yield Finding("error", "no signatures: a server loads it, and can answer no request")
    elif "serving_default" not in signatures:
        yield Finding(
            "warning", f"no serving_default: every request must name one of {sorted(signatures)}"
        )
    for name, signature in signatures.items():
        if signature.method_name not in _METHODS:
            yield Finding(
                "error", f"{name}: its method name is {signature.method_name!r}, not {PREDICT!r}"
            )
        for key, info in sorted([*signature.inputs.items(), *signature.outputs.items()]):
            if info.tensor_shape.unknown_rank or not info.tensor_shape.dim:
                yield Finding(
                    "warning",
                    f"{name}: {key} has no known batch dimension, so it cannot be batched",
                )
            elif info.tensor_shape.dim[0].size != -1:
                first = info.tensor_shape.dim[0].size
                yield Finding(
                    "warning",
                    f"{name}: {key} always has {first} rows, so it cannot be batched",
                )
        for key in sorted(signature.outputs):
            if re.fullmatch(r"output_\d+", key):
                yield Finding("warning", f"{name}: the output's name {key} says nothing")

    nodes = [
        *graph.graph_def.node,
        *(n for f in graph.graph_def.library.function for n in f.node_def),
    ]
    functions = graph.graph_def.library.function
    if any(
        thing.attr["_XlaMustCompile"].b
        for thing in (*nodes, *functions)
        if "_XlaMustCompile" in thing.attr
    ):
        yield Finding(
            "error",
            "asks for XLA (jit_compile), which the server has disabled: every request would fail",
        )
    if python := sorted({node.op for node in nodes} & _PYTHON):
        yield Finding(
            "error", f"calls Python ({', '.join(python)}), which the server does not have"
        )
    yield from _weights(path, nodes)
    raw = (path / "saved_model.pb").read_bytes()
    if found := re.search(
        rb"(?<![\w./])/(?:home|root|tmp|work|usr|Users|mnt|var|opt|data)/[\w.\-/]+", raw
    ):
        yield Finding("warning", f"contains an absolute path: {found[0].decode(errors='replace')}")

    takes = {info.dtype for s in signatures.values() for info in s.inputs.values()}
    if tf.string.as_datatype_enum not in takes:
        yield Finding("warning", f"no signature takes encoded images{_request_size(signatures)}")
    gives = {info.dtype for s in signatures.values() for info in s.outputs.values()}
    if tf.string.as_datatype_enum not in gives and not (path / sidecars.LABELS).is_file():
        yield Finding("warning", "the answers are indices of classes: it has no labels")
    if not (path / sidecars.WARM_UP).is_file():
        yield Finding(
            "warning", "no warm-up requests: the first request of every batch size is slow"
        )
    if not (path / sidecars.BATCHING).is_file():
        yield Finding(
            "warning", f"no {sidecars.BATCHING}: the server's own settings decide on batching"
        )
    else:
        try:
            sidecars.read_batching(path)
        except ValueError as error:
            yield Finding("error", str(error))


def _weights(path: Path, nodes: list[Any]) -> Iterator[Finding]:
    """Yield findings on duplicate weights and on batch norms.

    Weights are compared by their bytes. Constant weights, such as untrained biases, do not count.
    """
    found: dict[bytes, list[tuple[str, int]]] = defaultdict(list)

    def see(name: str, value: np.ndarray) -> None:
        # bfloat16 is of kind "V".
        weights = value.dtype.kind in "fV" or value.dtype == np.int8
        if value.size > 1 and weights and (value != value.flat[0]).any():
            found[hashlib.sha256(value.tobytes()).digest()].append((name, value.nbytes))

    total, norms = 0, set()
    if (path / "variables" / "variables.index").is_file():
        try:
            checkpoint = tf.train.load_checkpoint(str(path / "variables" / "variables"))
            shapes = checkpoint.get_variable_to_shape_map()
            kinds = checkpoint.get_variable_to_dtype_map()
            # Strings have no fixed size, and are not weights.
            numbers = [name for name in shapes if kinds[name] != tf.string]
            declared = sum(math.prod(shapes[name]) * kinds[name].size for name in numbers)
            stored = sum(file.stat().st_size for file in path.glob("variables/variables.data-*"))
            if declared > stored:
                raise ValueError(f"they declare {declared:,} bytes, and {stored:,} are stored")
            for name in numbers:
                value = checkpoint.get_tensor(name)
                if isinstance(value, np.ndarray):
                    see(name, value)
                    total += value.nbytes
        except Exception as error:  # the class depends on the damage
            yield Finding("error", f"its variables cannot be read: {error}")
    for node in nodes:
        if node.op == "Const" and len(node.attr["value"].tensor.tensor_content) > 1 << 16:
            see(node.name, tf.make_ndarray(node.attr["value"].tensor))
        name = node.attr["shared_name"].s.decode() if node.op == "VarHandleOp" else ""
        if "moving_variance" in name:
            norms.add(re.sub(r"_\d+$", "", name))  # a suffix marks a duplicate variable
    duplicate = sum((len(copies) - 1) * copies[0][1] for copies in found.values())
    if duplicate:
        name = next(copies for copies in found.values() if len(copies) > 1)[0][0]
        yield Finding(
            "warning",
            f"of {total:,} bytes of weights {duplicate:,} are stored again, such as {name}",
        )
    if norms:
        yield Finding(
            "warning",
            f"{len(norms)} batch norms are computed for every request; they could be folded",
        )


def _request_size(signatures: dict[str, Any]) -> str:
    """Describe the size of an image as JSON numbers; "" if the signatures take no fixed size."""
    sizes = [
        [dim.size for dim in info.tensor_shape.dim[1:]]
        for s in signatures.values()
        for info in s.inputs.values()
        if info.dtype == tf.float32.as_datatype_enum and len(info.tensor_shape.dim) == 4
    ]
    if not sizes or min(sizes[0]) < 1:
        return ""
    count = int(np.prod(sizes[0]))
    bytes_each = (
        len(str(np.random.default_rng(0).normal(size=1000).astype(np.float32).tolist())) / 1000
    )
    shape, megabytes = "x".join(map(str, sizes[0])), count * bytes_each / 1e6
    return f": an image of {shape} is about {megabytes:.1f} MB of JSON numbers"
