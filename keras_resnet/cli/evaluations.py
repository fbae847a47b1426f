"""The verb that measures the error of a run, or compares two."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..runs.interval import with_interval
from ..runs.run import Run
from .flags import Flag, optional
from .output import print_json, print_line
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
