"""The verbs that use what was trained: each calls one public function and prints its answer."""

import shlex
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..files import write_table, write_text
from ..runs.interval import with_interval
from ..runs.run import Run
from . import tables
from .flags import Flag, optional
from .output import console, print_answers, print_json, print_line
from .startup import import_tensorflow

if TYPE_CHECKING:
    from ..evaluation.compare import Comparison

NOT_OVER_SEEDS = "they measure the sampling of the test images, not the spread over seeds"


def evaluate(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")],
    other: Annotated[tyro.conf.Positional[Path | None], optional("[RUN]")] = None,
    *,
    dataset: Annotated[str | None, optional("DATASET")] = None,
    split: Literal["test", "validation", "train"] = "test",
    views: Literal["single", "ten-crop", "multi-scale"] = "single",
    scores: Literal["probabilities", "logits"] = "probabilities",
    batch_size: int = 256,
    json: Flag = False,
) -> None:
    """Report the error of a run over every image of a split, or compare two evaluated runs.

    Example: keras-resnet evaluate runs/digits-resnet20

    Args:
        run: folder of a trained run
        other: another run, to compare the two by the predictions that `evaluate` has stored of
            each for the same --dataset, --split and --views
        dataset: other data of the same classes: the name of a data set, or a folder of images; by
            default the run's own
        split: which part of the data
        views: of each image: its center, the paper's ten crops (Table 3), or the whole image at
            five scales (Table 4)
        scores: what is averaged over the views of an image
        batch_size: views at a time; does not change the result
        json: print JSON
    """
    if other is not None:
        for name, value, default in (
            ("scores", scores, "probabilities"),
            ("batch_size", batch_size, 256),
        ):
            if value != default:
                raise ValueError(
                    f"{name} is {value!r}; two runs are compared by what they have stored: leave it"
                    " out"
                )
        from ..evaluation.compare import compare

        found = compare(run, other, data=dataset, split=split, views=views)
        if json:
            return print_json({"first": str(run), "second": str(other)} | asdict(found))
        return _print_comparison(str(run), str(other), found)
    import_tensorflow()
    from ..evaluation.evaluate import evaluate as run_evaluation
    from ..evaluation.prediction_files import suffix

    result = run_evaluation(
        run, dataset, split=split, views=views, scores=scores, batch_size=batch_size
    )
    if json:
        return print_json(result)
    errors = [
        f"top-{k} error {with_interval(result[f'top{k}_error'], result[f'top{k}_interval'])}"
        for k in (1, 5)
        if f"top{k}_error" in result
    ]
    print_line(
        f"{result['dataset']} {result['split']}, {result['images']} images, {views}: "
        + ", ".join(errors)
    )
    print_line(
        f"expected calibration error {result['calibration_error']:.2f} % (Guo et al. 2017, 15 bins)"
    )
    by_class, intervals = result["class_errors"], result["class_intervals"]
    if len(by_class) > 2:
        worst = sorted(by_class, key=by_class.__getitem__, reverse=True)[:5]
        texts = [f"{name} {with_interval(by_class[name], intervals[name])}" for name in worst]
        print_line(f"worst classes: {', '.join(texts)}")
    print_line(f"in brackets: 95 % intervals (Wilson 1927); {NOT_OVER_SEEDS}")
    # Other data than the run's own test split has files of its own.
    on = suffix(None if dataset is None else result["dataset"], split)
    print_line(f"confusion matrix: {Run(run).confusion_file(views, on)}")
    print_line(f"next: keras-resnet export {shlex.quote(str(run))}")


def _print_comparison(first: str, second: str, found: "Comparison") -> None:
    print_line(f"{first}: top-1 error {with_interval(found.first_error, found.first_interval)}")
    print_line(f"{second}: top-1 error {with_interval(found.second_error, found.second_interval)}")
    print_line(
        f"of the same {found.images} images both have {found.both_right} right, {first} alone "
        f"{found.only_first_right}, {second} alone {found.only_second_right}, neither "
        f"{found.both_wrong}"
    )
    low, high = found.difference_interval
    print_line(
        f"difference, second minus first: {found.difference:+.2f} percentage points "
        f"({low:+.2f} to {high:+.2f})"
    )
    print_line(f"exact McNemar test of equal errors: p = {found.p_value:.3g}")
    print_line(
        "in brackets: 95 % intervals (Wilson 1927; Newcombe 1998, method 10, of the difference); "
        f"{NOT_OVER_SEEDS}"
    )


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
    if to is not None:
        write_text(to / "benchmark.json", dumps(found, indent=2) + "\n")
        rows = [dict(row) for row in found["rows"]]
        for row in rows:
            row["interval_low"], row["interval_high"] = row.pop("interval") or (None, None)
        write_table(to / "benchmark.csv", rows)
    if json:
        return print_json(found)
    sets = found["instruction_sets"]
    known = "unknown instruction sets" if sets is None else ", ".join(sets) or "no AVX2"
    print_line(f"{found['processor']} ({known}), {found['cores']} cores")
    console().print(tables.benchmark(found))
    for row in found["rows"]:
        if row["problem"]:
            print_line(f"{row['variant']}: {row['problem']}")
    if to is not None:
        print_line(f"written: {to / 'benchmark.json'}, {to / 'benchmark.csv'}")


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
