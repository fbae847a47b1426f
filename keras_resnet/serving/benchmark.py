"""Measure the exports of a network, in every precision and format, one beside the other."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.errors import top_k_error
from ..files import read_json
from ..runs.classifier import Classifier, open_run
from ..runs.interval import wilson_interval
from ..runs.run import Run, is_run
from . import sidecars
from .audit import file_operations, read_graph, signatures_of
from .check import endpoints
from .export import export
from .formats import JSON, file_in
from .labeled_images import images_of
from .lowering import PRECISIONS
from .needs import processor
from .runtimes import FILES, TENSOR, cores, missing_packages, require_packages
from .turns import in_turns
from .version_folders import versions
from .worker import Worker, worker

BATCHES = (1, 8)
"""the batch sizes whose latency is measured"""
_ANSWERED = 100
"""the number of test images per request"""
_LOADS = 3
"""the number of turns in which throughput is measured"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The measurements of one export. Those that are missing are None."""

    variant: str
    """a precision of a SavedModel, or another format in float32"""
    problem: str = ""
    """why it was not measured"""
    bytes_on_disk: int | None = None
    load_seconds: float | None = None
    first_ms: float | None = None
    """the time of the first request, of one image, without warm-up"""
    batch1_ms: float | None = None
    """the median time of a request of one image"""
    batch1_p95_ms: float | None = None
    batch8_ms: float | None = None
    batch8_p95_ms: float | None = None
    images_per_second: float | None = None
    """with as many clients as cores, each of which asks for one image at a time"""
    resident_bytes: int | None = None
    """the memory of its process after all requests"""
    error: float | None = None
    """the top-1 error in percent on the test images"""
    interval: list[float] | None = None
    """its 95 % Wilson interval"""
    changed: int | None = None
    """the number of test images whose most probable class is not that of the export in float32"""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The measurements of all exports of a network, and where they were made."""

    processor: str
    instruction_sets: list[str] | None
    """those of the processor that make low precision fast; None if unknown"""
    cores: int
    images: str
    """the test images, such as "test of digits"; "" without any"""
    count: int
    """the number of test images"""
    rows: list[Row]


def benchmark(
    target: Run | str | os.PathLike[str],
    *,
    run: Run | str | os.PathLike[str] | None = None,
    rounds: int = 30,
    seconds: float = 2.0,
) -> Benchmark:
    """Measure a network in all precisions and formats that can be run here.

    Each variant runs in a process of its own, a SavedModel in TensorFlow's C++ loader. They take
    turns, so that a drift of the machine's speed favors none. An export that fails is a row with
    its `problem`.

    Args:
        target: a run, whose exports are made in a temporary folder; or the folder of an export's
            versions, such as "saved_models/flowers", or one of them, such as
            "saved_models/flowers/2". That version or the newest is measured, and so are the newest
            of those beside it ("saved_models/flowers-int8", "saved_models/flowers-onnx").
        run: the run of an export, for its test images. Without it, neither the error nor the
            agreement is measured.
        rounds: the number of requests whose time is measured, per batch size.
        seconds: the time for which clients ask, per turn.

    Raises:
        ValueError: `target` is neither a run nor an export, no export has the classes of `run`,
            or an argument is out of range.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; give a positive number")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds is {seconds:g}; give a positive number")
    with contextlib.ExitStack() as stack:
        classifier: Classifier | None
        variants: dict[str, Path | ValueError]
        if isinstance(target, Run) or is_run(target):
            if run is not None:
                raise ValueError("run is given; the target is a run, so leave it out")
            classifier = open_run(target)
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            variants = dict(_made(classifier, scratch))
        else:
            found = _found(Path(target))
            classifier = None if run is None else open_run(run)
            variants = {**found}
            if classifier is not None:
                variants = {kind: _checked(each, classifier) for kind, each in found.items()}
                problems = [each for each in variants.values() if isinstance(each, ValueError)]
                if len(problems) == len(variants):
                    raise problems[0]
        return _measured(stack, variants, classifier, rounds, seconds)


def _made(classifier: Classifier, folder: Path) -> Iterator[tuple[str, Path | ValueError]]:
    """Yield the export of a run as each variant, or the error that it gives."""
    assert classifier.run is not None
    for kind in (*PRECISIONS, *FILES):
        how: dict[str, Any] = {"precision": kind} if kind in PRECISIONS else {"format": kind}
        if "format" in how and missing_packages(how["format"]):
            continue
        try:
            # Whether an error is too large is for the reader to say.
            yield kind, export(classifier.run, folder / classifier.name, tolerance=100, **how)
        except ValueError as error:
            yield kind, error


def _found(target: Path) -> dict[str, Path]:
    """Return the named version, or else the newest, and the newest of those beside it."""
    base, named = target.absolute(), None
    if any((base / name).is_file() for name in ("saved_model.pb", *FILES.values())):
        base, named = base.parent, base
    name = base.name
    for kind in (*PRECISIONS, *FILES):
        name = name.removesuffix(f"-{kind}")
    folders = {
        kind: base.with_name(name if kind == "float32" else f"{name}-{kind}")
        for kind in (*PRECISIONS, *FILES)
    }
    found = {
        kind: named if named is not None and folder == base else newest
        for kind, folder in folders.items()
        if folder.is_dir()
        for newest in versions(folder)[-1:]
    }
    if not found or not base.is_dir():
        raise ValueError(
            f"{target} is neither a run (recipe.json) nor an export (a folder of numbered versions)"
        )
    return found


def _checked(version: Path, classifier: Classifier) -> Path | ValueError:
    """Return a version, or an error if it names other classes than those of the classifier."""
    try:
        if (version / JSON).is_file():
            labels = read_json(version / JSON).get("labels")
        elif (version / sidecars.LABELS).is_file():
            labels = [label.decode() for label in sidecars.read_labels(version)]
        else:
            return version  # answers indices
    except ValueError as error:
        return error
    if labels != list(classifier.class_names):
        return ValueError(f"run is {classifier.name}, whose classes are not those of {version}")
    return version


def _start(stack: contextlib.ExitStack, kind: str, version: Path) -> tuple[Worker, list[int]]:
    """Start the process of an export, and return it with the shape of an image `[H, W, C]`."""
    if kind not in PRECISIONS:
        format, path = file_in(version)
        require_packages(format)
        shape = read_json(version / JSON)["input"]["shape"][1:]
        return stack.enter_context(worker(format, path)), shape
    graph = read_graph(version)
    if names := file_operations(graph):
        raise ValueError(f"it is not run, because its graph works on files by {', '.join(names)}")
    places = endpoints(version)
    if TENSOR not in places:
        raise ValueError(f"it has no signature {TENSOR!r}, which takes the network's input")
    (info,) = signatures_of(graph)[TENSOR].inputs.values()
    shape = [dim.size for dim in info.tensor_shape.dim[1:]]
    return stack.enter_context(worker("saved_model", version, places[TENSOR])), shape


def _measured(
    stack: contextlib.ExitStack,
    variants: Mapping[str, Path | ValueError],
    classifier: Classifier | None,
    rounds: int,
    seconds: float,
) -> Benchmark:
    """Measure the exports in turns."""
    requests = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "requests.npy"
    measured: dict[str, dict[str, Any]] = {kind: {} for kind in variants}
    workers: dict[str, Worker] = {}

    def tried(kind: str, measure: Callable[[], Any]) -> Any:
        """Return a measurement; None if it fails, after which nothing else is measured."""
        if "problem" in measured[kind]:
            return None
        try:
            return measure()
        except (KeyError, OSError, TypeError, ValueError) as error:
            measured[kind] = {"problem": " ".join(str(error).split())}
            return None

    def start(kind: str, version: Path | ValueError) -> None:
        if isinstance(version, ValueError):
            raise version
        process, shape = _start(stack, kind, version)
        images = np.random.default_rng(0).normal(size=(max(BATCHES), *shape))
        np.save(requests, images.astype(np.float32))  # of the same shape for all
        workers[kind] = process
        files = [path for path in version.rglob("*") if path.is_file()]
        measured[kind] = {
            "bytes_on_disk": sum(path.stat().st_size for path in files),
            "load_seconds": process.load_seconds,
            "first_ms": 1000 * process.ask("time", images=str(requests), batch=1),
        }

    def note(kind: str, **values: Any) -> None:
        if "problem" not in measured[kind]:
            measured[kind] |= values

    def request(kind: str, verb: str, **arguments: Any) -> Any:
        """Ask the process of a variant."""
        return tried(kind, lambda: workers[kind].ask(verb, **arguments))

    for kind, version in variants.items():
        tried(kind, partial(start, kind, version))
    for batch in BATCHES:
        ask = partial(request, verb="time", images=str(requests), batch=batch)
        for kind, values in in_turns(workers, rounds, ask).items():
            if "problem" not in measured[kind]:
                middle, late = 1000 * np.percentile(values, [50, 95])
                note(kind, **{f"batch{batch}_ms": middle, f"batch{batch}_p95_ms": late})
    ask = partial(request, verb="load", images=str(requests), clients=cores(), seconds=seconds)
    for kind, values in in_turns(workers, _LOADS, ask).items():
        if "problem" not in measured[kind]:
            note(kind, images_per_second=float(np.median(values)))
    name, count = "", 0
    if classifier is not None:
        name, labels, scores = _answers(classifier, workers, tried)
        count = len(labels)
        for kind, answered in scores.items():
            error = top_k_error(answered, labels, 1)
            note(kind, error=error, interval=wilson_interval(error, count))
            if "float32" in scores:
                best = [each.argmax(axis=1) for each in (answered, scores["float32"])]
                note(kind, changed=int(np.sum(best[0] != best[1])))
    for kind in workers:
        note(kind, resident_bytes=request(kind, "memory"))
    here = processor()
    return Benchmark(
        processor=here.name,
        instruction_sets=here.fast_sets,
        cores=cores(),
        images=name,
        count=count,
        rows=[Row(variant=kind, **values) for kind, values in measured.items()],
    )


def _answers(
    classifier: Classifier,
    workers: Mapping[str, Worker],
    tried: Callable[[str, Callable[[], Any]], Any],
) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
    """Return the name of the test images, their labels, and the scores of each export."""
    test = images_of(classifier, None).test
    labels: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {kind: [] for kind in workers}
    for images, of_images in test.batches(classifier.preprocessing, _ANSWERED):
        labels.append(of_images)
        for kind, process in workers.items():
            answer = tried(kind, partial(process.answer, images))
            if answer is None:
                scores.pop(kind, None)
            else:
                scores[kind].append(answer)
    whole = {kind: np.concatenate(rows) for kind, rows in scores.items()}
    return test.name, np.concatenate(labels), whole
