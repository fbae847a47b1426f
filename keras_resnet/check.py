"""The gate that exports pass: a SavedModel as TF Serving would load, audit and run it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from . import serving_files
from .audit import Finding, audit, read_graph, signatures_of
from .cpp_loader import Call, Calls, Endpoint, read_calls, strings, write_calls

_UNKNOWN_SIDE = 64
"""pixels, where a signature takes pictures of any size"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the gate saw."""

    path: str
    signatures: dict[str, dict[str, dict[str, str]]]
    """dtype and shape of each input and output"""
    findings: list[Finding]
    bytes_on_disk: int
    load_seconds: float
    resident_bytes: int
    first_seconds: dict[str, float]
    """each signature's first request of one picture, after warm-up where there is one"""
    later_seconds: dict[str, float]
    """its second"""

    @property
    def errors(self) -> list[str]:
        return [finding.text for finding in self.findings if finding.severity == "error"]


def check(path: str | os.PathLike[str], *, expected: str | os.PathLike[str] | None = None) -> Report:
    """Loads, audits and runs a SavedModel as TF Serving would, by its C++ loader in a process of its own.

    Every signature is run, each row must be answered as if it came alone, warm-up is replayed.

    Args:
        path: the folder of `saved_model.pb`.
        expected: file of calls (`cpp_loader.write_calls`) with the outputs that they must have, each to within the
            call's tolerance.

    Raises `ValueError` where `path` holds no SavedModel that can be read.
    """
    path = Path(path)
    graph = read_graph(path)
    findings = list(audit(path, graph))
    signatures = signatures_of(graph)
    places = _endpoints(signatures)

    warm_up: list[Call] = []
    if (path / serving_files.WARM_UP).is_file():
        try:
            for name, inputs in serving_files.read_warm_up(path):
                warm_up.append(Call(signature=name, inputs=inputs))
        except ValueError as error:
            findings.append(Finding("error", str(error)))
    known = [call for call in warm_up if call.signature in places]
    findings += [
        Finding("error", f"warm-up asks for the signature {name!r}, which is not there")
        for name in sorted({call.signature for call in warm_up} - places.keys())
    ]
    probes: list[Call] = []
    for name, signature in signatures.items():
        guesses = {key: _guess(name, key, info, count=3) for key, info in signature.inputs.items()}
        inputs = {key: guess for key, guess in guesses.items() if guess is not None}
        if inputs.keys() != guesses.keys():
            findings.append(Finding("warning", f"{name}: not run, since its inputs are of no known kind"))
            continue
        last = {key: value[-1:] for key, value in inputs.items()}
        probes += [Call(signature=name, inputs=i) for i in (last, last, inputs)]
    wanted = read_calls(Path(expected)).calls if expected else []

    answers = _run(path, Calls(endpoints=places, calls=[*known, *probes, *wanted]))
    if isinstance(answers, str):
        findings.append(Finding("error", f"the C++ loader does not load it: {answers}"))
        answered, load_seconds, resident = [], 0.0, 0
    else:
        answered, load_seconds, resident = answers.calls, answers.load_seconds, answers.resident_bytes
    replayed, rest = answered[: len(known)], answered[len(known) :]
    probed, got = rest[: len(probes)], rest[len(probes) :]
    findings += [Finding("error", f"{c.signature}: its warm-up fails: {c.error}") for c in replayed if c.error]
    triples = [tuple(probed[i : i + 3]) for i in range(0, len(probed), 3)]
    labels = _labels(path)
    for alone, again, three in triples:
        findings += _judge(signatures[alone.signature], alone, again, three, labels)
    for want, answer in zip(wanted, got, strict=False):
        findings += _compare(want, answer)
    return Report(
        path=str(path),
        signatures={
            name: {
                way: {key: _kind(info) for key, info in sorted(place.items())}
                for way, place in (("inputs", signature.inputs), ("outputs", signature.outputs))
            }
            for name, signature in signatures.items()
        },
        findings=sorted(findings, key=lambda finding: finding.severity),
        bytes_on_disk=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        load_seconds=load_seconds,
        resident_bytes=resident,
        first_seconds={first.signature: first.seconds for first, _, _ in triples},
        later_seconds={again.signature: again.seconds for _, again, _ in triples},
    )


def endpoints(path: str | os.PathLike[str]) -> dict[str, Endpoint]:
    """The signatures of a SavedModel, for `cpp_loader.SavedModel`. Raises `ValueError` as `check` does."""
    return _endpoints(signatures_of(read_graph(Path(path))))


def _endpoints(signatures: dict[str, Any]) -> dict[str, Endpoint]:
    return {
        name: Endpoint(
            {key: info.name for key, info in signature.inputs.items()},
            {key: info.name for key, info in signature.outputs.items()},
        )
        for name, signature in signatures.items()
    }


def _guess(signature: str, name: str, info: Any, count: int) -> np.ndarray | None:
    """A batch of `count` different rows for an input, or None where nothing is known that it could take."""
    random = np.random.default_rng(0)
    if info.dtype == tf.string.as_datatype_enum:
        pictures = [tf.io.encode_png(random.integers(0, 256, (48 + i, 64, 3), np.uint8)).numpy() for i in range(count)]
        if signature == "classify" or "example" in name:
            pictures = list(map(serving_files.example, pictures))
        return strings(pictures)
    dtype = tf.dtypes.as_dtype(info.dtype)
    if info.tensor_shape.unknown_rank or not info.tensor_shape.dim or not (dtype.is_floating or dtype.is_integer):
        return None
    shape = [count, *(_UNKNOWN_SIDE if dim.size < 0 else dim.size for dim in info.tensor_shape.dim[1:])]
    if info.tensor_shape.dim[0].size > 0:
        return None
    values = random.normal(size=shape) if dtype.is_floating else random.integers(0, 127, shape)
    return values.astype(dtype.as_numpy_dtype)


def _run(path: Path, calls: Calls) -> Calls | str:
    """The calls answered by the C++ loader in a fresh process, or what that said last where it ended badly."""
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch) / "asked.npz", Path(scratch) / "answered.npz"
        write_calls(asked, calls)
        done = subprocess.run(
            [sys.executable, "-m", f"{__package__}.cpp_loader", str(path), str(asked), str(answered)],
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it said nothing"]
            return lines[-1] if done.returncode > 0 else f"it was ended by signal {-done.returncode}: {lines[-1]}"
        return read_calls(answered)


def _judge(signature: Any, alone: Call, again: Call, three: Call, labels: list[bytes]) -> Iterator[Finding]:
    """Whether one signature's answers are what a batching server needs."""
    name = alone.signature
    for call in (alone, again, three):
        if call.error:
            yield Finding("error", f"{name}: fails: {call.error}")
            return
    for key, info in signature.outputs.items():
        one, rows = alone.outputs[key], three.outputs[key]
        if rows.shape[:1] != (3,) or one.shape[:1] != (1,):
            yield Finding("error", f"{name}: {key} has {rows.shape[:1]} rows for 3 and cannot be batched")
        elif rows.dtype.kind == "f" and not np.allclose(rows[-1:], one, rtol=0, atol=1e-4 * np.abs(one).max()):
            yield Finding("error", f"{name}: {key} of a picture depends on the others of its batch")
        if rows.dtype.kind == "f" and not np.isfinite(rows).all():
            yield Finding("error", f"{name}: {key} is not finite")
        if rows.dtype != object and tf.dtypes.as_dtype(info.dtype).as_numpy_dtype != rows.dtype:
            yield Finding("error", f"{name}: {key} is {rows.dtype}, not what the signature says")
    if labels and {"probabilities", "classes", "scores"} <= three.outputs.keys():
        probabilities, classes, scores = (three.outputs[key] for key in ("probabilities", "classes", "scores"))
        if probabilities.shape[1] != len(labels):
            yield Finding("error", f"{name}: {probabilities.shape[1]} classes, but {len(labels)} labels")
        elif not set(classes.flat) <= set(labels):
            yield Finding("error", f"{name}: answers with a class that {serving_files.LABELS} has not")
        elif len(set(labels)) == len(labels):
            places = np.array([[labels.index(label) for label in row] for row in classes])
            best = np.sort(probabilities, axis=1)[:, ::-1][:, : scores.shape[1]]
            named = np.take_along_axis(probabilities, places, axis=1)
            if not ((named == scores).all() and (best == scores).all()):
                yield Finding("error", f"{name}: classes and scores are not the best of probabilities")


def _compare(want: Call, got: Call) -> Iterator[Finding]:
    if got.error:
        yield Finding("error", f"{want.signature}: fails: {got.error}")
        return
    for key, value in want.outputs.items():
        answer = got.outputs[key]
        if value.dtype == object:
            if not np.array_equal(value, answer):
                yield Finding("error", f"{want.signature}: {key} are {answer.tolist()}, not {value.tolist()}")
            continue
        difference = np.abs(answer - value).max() if answer.shape == value.shape else np.inf
        if not difference <= want.tolerance:  # so written that NaN is too much
            yield Finding(
                "error",
                f"{want.signature}: {key} differ from the network's by {difference:.1e}, "
                f"more than {want.tolerance:.1e}",
            )


def _labels(path: Path) -> list[bytes]:
    file = path / serving_files.LABELS
    return file.read_bytes().splitlines() if file.is_file() else []


def _kind(info: Any) -> str:
    name = tf.dtypes.as_dtype(info.dtype).name
    if info.tensor_shape.unknown_rank:
        return f"{name} of any shape"
    return f"{name} [{', '.join('?' if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim)}]"
