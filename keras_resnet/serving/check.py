"""Check a SavedModel as TF Serving would load, batch and run it."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from . import sidecars
from .audit import Finding, audit, file_operations, read_graph, signatures_of
from .cpp_loader import TIME_LIMIT, Call, Endpoint, run_calls
from .needs import judge_needs, missing_operators, needs_of, processor
from .probes import ROWS, kind, probe, takes_batches


@dataclass(frozen=True, kw_only=True)
class Report:
    """The findings and measurements of a check."""

    path: str
    signatures: dict[str, dict[str, dict[str, str]]]
    """the dtype and shape of each input and output, by signature"""
    findings: list[Finding]
    bytes_on_disk: int
    load_seconds: float
    resident_bytes: int
    first_seconds: dict[str, float]
    """the time of each signature's first request of one image, after the warm-up, if any"""
    later_seconds: dict[str, float]
    """the time of each signature's second request of one image"""

    @property
    def errors(self) -> list[str]:
        """The findings that make a server or its clients fail."""
        return [finding.text for finding in self.findings if finding.severity == "error"]


def check(path: str | os.PathLike[str], *, time_limit: float = TIME_LIMIT) -> Report:
    """Load, audit and run any SavedModel as TF Serving would.

    TensorFlow's C++ loader runs it in a separate process. Every signature is run, the answer for a
    row must not depend on the other rows, and the warm-up requests are replayed.

    A SavedModel is a program: run only those you trust. A SavedModel whose graph contains
    operations that read, write or list files is not run. The audit reads the graph; it is not a
    sandbox.

    Args:
        path: the folder of `saved_model.pb`.
        time_limit: the time in seconds to load the SavedModel and answer all requests.

    Raises:
        ValueError: `path` holds no readable SavedModel, or the time limit is not positive.
    """
    if not time_limit > 0:
        raise ValueError(f"time_limit is {time_limit}; give a positive number of seconds")
    return verify(path, [], time_limit)


def verify(
    path: str | os.PathLike[str], expected: Sequence[Call], time_limit: float = TIME_LIMIT
) -> Report:
    """Check a SavedModel as `check` does, and compare its answers with expected ones.

    Args:
        path: the folder of `saved_model.pb`.
        expected: calls with the expected `outputs` and the `tolerance` of their numbers.
        time_limit: the time in seconds to load the SavedModel and answer all requests.

    Raises:
        ValueError: `path` holds no readable SavedModel.
    """
    path = Path(path)
    graph = read_graph(path)
    findings = list(audit(path, graph))
    needs = needs_of(graph)
    missing = missing_operators(needs) if needs else ()
    if needs:
        findings += judge_needs(needs, missing, processor())
    signatures = signatures_of(graph)
    available = _endpoints(signatures)

    warm_up: list[Call] = []
    if (path / sidecars.WARM_UP).is_file():
        try:
            for name, inputs in sidecars.read_warm_up(path):
                warm_up.append(Call(signature=name, inputs=inputs))
        except ValueError as error:
            findings.append(Finding("error", str(error)))
    known = [call for call in warm_up if call.signature in available]
    findings += [
        Finding("error", f"warm-up asks for the signature {name!r}, which does not exist")
        for name in sorted({call.signature for call in warm_up} - available.keys())
    ]
    probes: list[Call] = []
    for name, signature in signatures.items():
        try:
            inputs = {key: probe(name, key, info) for key, info in signature.inputs.items()}
        except ValueError as error:
            findings.append(Finding("warning", f"{name}: not run, because {error}"))
            continue
        last = inputs
        if takes_batches(signature):
            last = {key: value[-1:] for key, value in inputs.items()}
        probes += [Call(signature=name, inputs=i) for i in (last, last, inputs)]

    answered: list[Call] = []
    load_seconds, resident_bytes = 0.0, 0
    if not file_operations(graph) and not missing:
        try:
            answers = run_calls(path, available, [*known, *probes, *expected], time_limit)
        except TimeoutError as error:
            findings.append(Finding("error", f"it was stopped: {error}"))
        except ValueError as error:
            findings.append(Finding("error", f"the C++ loader does not load it: {error}"))
        else:
            answered = answers.calls
            load_seconds, resident_bytes = answers.load_seconds, answers.resident_bytes
    replayed, others = answered[: len(known)], answered[len(known) :]
    probed, compared = others[: len(probes)], others[len(probes) :]
    findings += [
        Finding("error", f"{call.signature}: its warm-up fails: {call.error}")
        for call in replayed
        if call.error
    ]
    triples = [tuple(probed[i : i + 3]) for i in range(0, len(probed), 3)]
    labels = sidecars.read_labels(path) if (path / sidecars.LABELS).is_file() else []
    for alone, repeated, batch in triples:
        findings += _judge(
            signatures[alone.signature], alone, repeated, batch, labels, low_precision=bool(needs)
        )
    for call, answer in zip(expected, compared, strict=False):
        findings += _compare(call, answer)
    return Report(
        path=str(path),
        signatures={
            name: {
                direction: {key: kind(info) for key, info in sorted(tensors.items())}
                for direction, tensors in (
                    ("inputs", signature.inputs),
                    ("outputs", signature.outputs),
                )
            }
            for name, signature in signatures.items()
        },
        findings=sorted(findings, key=lambda finding: finding.severity),
        bytes_on_disk=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        load_seconds=load_seconds,
        resident_bytes=resident_bytes,
        first_seconds={first.signature: first.seconds for first, _, _ in triples},
        later_seconds={second.signature: second.seconds for _, second, _ in triples},
    )


def endpoints(path: str | os.PathLike[str]) -> dict[str, Endpoint]:
    """Read the signatures of a SavedModel for `cpp_loader.run_calls`.

    Args:
        path: the folder of `saved_model.pb`.

    Raises:
        ValueError: `path` holds no readable SavedModel.
    """
    return _endpoints(signatures_of(read_graph(Path(path))))


def _endpoints(signatures: dict[str, Any]) -> dict[str, Endpoint]:
    return {
        name: Endpoint(
            {key: info.name for key, info in signature.inputs.items()},
            {key: info.name for key, info in signature.outputs.items()},
        )
        for name, signature in signatures.items()
    }


def _judge(
    signature: Any,
    alone: Call,
    repeated: Call,
    batch: Call,
    labels: list[bytes],
    *,
    low_precision: bool,
) -> Iterator[Finding]:
    """Yield findings on the answers to one image, the same image again, and a batch."""
    name = alone.signature
    for call in (alone, repeated, batch):
        if call.error:
            yield Finding("error", f"{name}: fails: {call.error}")
            return
    for key, info in signature.outputs.items():
        one, rows = alone.outputs[key], batch.outputs[key]
        if rows.dtype != object and tf.dtypes.as_dtype(info.dtype).as_numpy_dtype != rows.dtype:
            yield Finding("error", f"{name}: {key} is {rows.dtype}, not the signature's type")
        if floating := tf.dtypes.as_dtype(info.dtype).is_floating and rows.dtype != object:
            one, rows = one.astype(np.float64), rows.astype(np.float64)  # for half precision
            if not np.isfinite(rows).all():
                yield Finding("error", f"{name}: {key} is not finite")
        if not takes_batches(signature):
            continue  # the audit reports it
        # Low precision rounds differently in batches of different sizes.
        low = low_precision or batch.outputs[key].itemsize <= 2
        precision = 1e-2 if low else 1e-4
        if rows.shape[:1] != (ROWS,) or one.shape[:1] != (1,):
            yield Finding(
                "error", f"{name}: {key} has {rows.shape[:1]} rows for 3 and cannot be batched"
            )
        elif floating and not np.allclose(
            rows[-1:], one, rtol=0, atol=precision * np.abs(one).max(initial=0)
        ):
            yield Finding("error", f"{name}: {key} of an image depends on the others of its batch")
    named = ("probabilities", "classes", "scores")
    if labels and all(np.ndim(batch.outputs.get(key, 0)) == 2 for key in named):
        probabilities, classes, scores = (batch.outputs[key] for key in named)
        if probabilities.shape[1] != len(labels):
            yield Finding(
                "error", f"{name}: {probabilities.shape[1]} classes, but {len(labels)} labels"
            )
        elif not set(classes.flat) <= set(labels):
            yield Finding("error", f"{name}: answers with a class that is not in {sidecars.LABELS}")
        elif len(set(labels)) == len(labels):
            indices = np.array([[labels.index(label) for label in row] for row in classes])
            best = np.sort(probabilities, axis=1)[:, ::-1][:, : scores.shape[1]]
            of_classes = np.take_along_axis(probabilities, indices, axis=1)
            if not ((of_classes == scores).all() and (best == scores).all()):
                yield Finding(
                    "error", f"{name}: classes and scores are not the best of probabilities"
                )


def _compare(expected: Call, actual: Call) -> Iterator[Finding]:
    """Yield an error per output that differs from the expected one."""
    if actual.error:
        yield Finding("error", f"{expected.signature}: fails: {actual.error}")
        return
    for key, value in expected.outputs.items():
        if key not in actual.outputs:
            yield Finding("error", f"{expected.signature}: has no output {key}")
            continue
        answer = actual.outputs[key]
        if value.dtype == object:
            if not np.array_equal(value, answer):
                text = f"{expected.signature}: {key} are {answer.tolist()}, not {value.tolist()}"
                yield Finding("error", text)
            continue
        difference = np.abs(answer - value).max() if answer.shape == value.shape else np.inf
        if not difference <= expected.tolerance:  # true for NaN too
            yield Finding(
                "error",
                f"{expected.signature}: {key} differ from the model's by {difference:.1e}, "
                f"more than {expected.tolerance:.1e}",
            )
