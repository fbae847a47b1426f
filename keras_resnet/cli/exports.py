"""The verbs of exports: each calls one public function and prints its answer."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..files import write_table, write_text
from ..runs.run import Run
from . import tables
from .flags import Flag, optional
from .output import console, print_answers, print_json, print_line
from .startup import import_tensorflow


def export(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    *,
    to: Path = Path("saved_models"),
    precision: Literal["float32", "bfloat16", "int8"] = "float32",
    format: Literal["saved_model", "litert", "onnx", "openvino"] = "saved_model",
    calibrate: Flag = False,
    heat_map: Flag = False,
    tolerance: float = 0.5,
    json: Flag = False,
) -> None:
    """Export a SavedModel for TF Serving, verified before it appears as TO/NAME/VERSION.

    In low precision it appears as TO/NAME-PRECISION/VERSION, if its error on the test split does
    not exceed that of float32 by more than the tolerance. Only processors with instructions for
    it compute faster in low precision.

    In another format a file appears in TO/NAME-FORMAT/VERSION, if it answers as the network does,
    with one JSON that says how to use it.

    Example: keras-resnet export runs/digits-resnet20

    Args:
        run: folder of a trained run
        to: folder of all exports
        precision: of weights and arithmetic
        format: of the exported network; each but saved_model needs the extra of this name, and is
            in float32
        calibrate: divide the logits by a temperature, fitted on the validation split, so that
            probabilities say how often an answer is right
        heat_map: add the signature heat_map: where in an image its best class is seen
        tolerance: percentage points by which the error in low precision may be larger
        json: print JSON
    """
    import_tensorflow()
    from ..serving.export import export as run_export

    version = run_export(
        run,
        to / Run(run).name,
        precision=precision,
        format=format,
        calibrate=calibrate,
        heat_map=heat_map,
        tolerance=tolerance,
    )
    if json:
        return print_json({"export": str(version)})
    model = version.parent
    print_line(f"exported: {version}")
    if format != "saved_model":
        return print_line(f"how to use it: {version / 'model.json'}")
    print_line(f"next: keras-resnet predict {shlex.quote(str(model))} IMAGE, or serve it:")
    print_line(
        f"  docker run -p 8501:8501 -v {shlex.quote(f'{model.resolve()}:/models/{model.name}')} "
        f"-e MODEL_NAME={shlex.quote(model.name)} tensorflow/serving"
    )


def check(
    saved_model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SAVED_MODEL")],
    *,
    time_limit: float = 600.0,
    speed: Flag = False,
    json: Flag = False,
) -> None:
    """Load, audit and run a SavedModel as TF Serving would, without Python TensorFlow.

    A SavedModel is a program: only one whose graph names no operation on files is run. The exit
    status is 2 where it fails.

    With --speed one that passes is also measured under settings of TF Serving that can make it
    faster on this machine. Nothing else should run then.

    Example: keras-resnet check saved_models/digits-resnet20/1

    Args:
        saved_model: a folder with saved_model.pb: an export's version, or anyone's
        time_limit: seconds that it has to load and to answer all requests
        speed: say which settings of the server make it faster here; takes half a minute more
        json: print JSON
    """
    import_tensorflow()
    from ..serving.check import check as run_check
    from ..serving.speed import advice, measure

    report = run_check(saved_model, time_limit=time_limit)
    measured = None
    if speed and not report.errors:
        measured = measure(saved_model, time_limit=time_limit)
    if json:
        found = {"speed": asdict(measured) | {"advice": advice(measured)}} if measured else {}
        print_json(asdict(report) | found)
    else:
        seconds = (report.first_seconds, report.later_seconds)
        console().print(tables.signatures(str(saved_model), report.signatures, *seconds))
        print_line(
            f"loads in {report.load_seconds:.2f} s; {report.bytes_on_disk / 1e6:.1f} MB on disk, "
            f"{report.resident_bytes / 1e6:.0f} MB resident after the requests"
        )
        for finding in report.findings:
            print_line(f"{finding.severity}: {finding.text}")
        if measured:
            print_line(f"speed: {advice(measured)}")
    if report.errors:
        raise ValueError(
            f"{saved_model} does not pass: {len(report.errors)} of the above are errors"
        )
    if not json:
        print("passed")


def benchmark(
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|EXPORT")],
    *,
    run: Annotated[Path | None, optional("RUN")] = None,
    rounds: int = 30,
    seconds: float = 2.0,
    to: Annotated[Path | None, optional("FOLDER")] = None,
    json: Flag = False,
) -> None:
    """Measure a network in every precision and format that can run here, in one table.

    Size, load time, first request, latency, throughput, memory, test error, and answers that are
    not those of float32. Each variant has a process of its own, and they take turns.

    Example: keras-resnet benchmark runs/digits-resnet20

    Args:
        target: a run, which is exported into a temporary folder; or the folder of an export's
            versions, which is measured with those beside it, such as NAME-int8 and NAME-onnx
        run: the run of an export, whose test images give error and agreement
        rounds: requests per batch size whose time is measured
        seconds: how long the clients ask, per turn
        to: write benchmark.json and benchmark.csv into this folder
        json: print JSON
    """
    import_tensorflow()
    from ..serving.benchmark import benchmark as run_benchmark

    found = asdict(run_benchmark(target, run=run, rounds=rounds, seconds=seconds))
    if json:
        print_json(found)
    else:
        _print_benchmark(found)
    # After printing: what took minutes is not lost if it cannot be written.
    if to is not None:
        write_text(to / "benchmark.json", dumps(found, indent=2) + "\n")
        rows = [dict(row) for row in found["rows"]]
        for row in rows:
            row["interval_low"], row["interval_high"] = row.pop("interval") or (None, None)
        write_table(to / "benchmark.csv", rows)
        if not json:
            print_line(f"written: {to / 'benchmark.json'}, {to / 'benchmark.csv'}")


def _print_benchmark(found: Mapping[str, Any]) -> None:
    sets = found["instruction_sets"]
    known = "unknown instruction sets" if sets is None else ", ".join(sets) or "no AVX2"
    print_line(f"{found['processor']} ({known}), {found['cores']} cores")
    console().print(tables.benchmark(found))
    for row in found["rows"]:
        if row["problem"]:
            print_line(f"{row['variant']}: {row['problem']}")


def predict(
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="EXPORT|RUN")],
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE ...")],
    *,
    top: int = 5,
    json: Flag = False,
) -> None:
    """Print the most probable classes of image files, one line per file.

    Files that are not images are named on standard error, and the exit status is 2 at the end.

    Example: keras-resnet predict saved_models/digits-resnet20 digit.png

    Args:
        target: an export (a version, or the folder of its versions) or a run
        images: JPEG, PNG, GIF or BMP files, or folders of them
        top: how many classes to print
        json: print a line of JSON per file, with "error" in place of "classes" and "scores" where
            it is not an image
    """
    if not images:
        raise ValueError("no image is given; give one file or more")
    import_tensorflow()
    from ..serving.predict import files_in, predict_each

    files = files_in(images)
    print_answers(predict_each(target, files, top=top), len(files), json)
