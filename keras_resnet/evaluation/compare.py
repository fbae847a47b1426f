"""Compare two classifiers on the same images, by the predictions that their evaluations stored."""

import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runs.interval import wilson_interval
from ..runs.run import Run, as_run
from .prediction_files import Predictions, read_predictions, suffix


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two classifiers on the same images; errors are top-1 and in percent."""

    images: int
    both_right: int
    only_first_right: int
    only_second_right: int
    both_wrong: int
    first_error: float
    first_interval: list[float]
    """95 %, Wilson 1927"""
    second_error: float
    second_interval: list[float]
    """95 %, Wilson 1927"""
    difference: float
    """`second_error` minus `first_error`, in percentage points"""
    difference_interval: list[float]
    """95 %, of paired proportions: Newcombe 1998, method 10"""
    p_value: float
    """of the exact, two-sided McNemar test of equal errors"""


def compare(
    first: Run | str | os.PathLike[str],
    second: Run | str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    split: str = "test",
    views: str = "single",
) -> Comparison:
    """Compare the top-1 errors of two runs on the same images.

    `evaluate` must have stored the predictions of both. Images are paired by the hash of their
    content and by their label, so that their order does not matter and an image that occurs twice
    is paired twice.

    The interval and the test measure the sampling of the test images. They say nothing of how much
    the errors vary over seeds: two trainings of one recipe can differ significantly.

    Args:
        first: a run, the path of its folder, or the `directory` that `evaluate` wrote to.
        second: likewise.
        data: what `evaluate` tested on: the name of a data set or the path of a folder; None for
            the runs' own.
        split: as in `evaluate`.
        views: as in `evaluate`.

    Raises:
        ValueError: a run has no stored predictions, they are damaged, or the images, their labels
            or the class names of the two differ.
        OSError: a file cannot be read.

    References:
        McNemar 1947, *Note on the sampling error of the difference between correlated proportions
        or percentages*; Newcombe 1998, *Improved confidence intervals for the difference between
        binomial proportions based on paired data*.
    """
    runs = as_run(first), as_run(second)
    on = suffix(None if data is None else _name(data), split)
    ours, theirs = (_stored(run, run.predictions_file(views, on)) for run in runs)
    names = [str(run.path) for run in runs]
    _require_same_classes(names, ours, theirs)
    our_order, their_order = _order(ours), _order(theirs)
    _require_same_images(names, ours, theirs, our_order, their_order)
    right, other_right = ours.right()[our_order], theirs.right()[their_order]
    return compared_answers(right, other_right)


def compared_answers(right: np.ndarray, other_right: np.ndarray) -> Comparison:
    """Return the comparison of two classifiers on the same images.

    Args:
        right: which images the first has right, bool `[N]`.
        other_right: which images the second has right, bool `[N]`.
    """
    return compared(
        both_right=int(np.sum(right & other_right)),
        only_first_right=int(np.sum(right & ~other_right)),
        only_second_right=int(np.sum(~right & other_right)),
        both_wrong=int(np.sum(~right & ~other_right)),
    )


def compared(
    *, both_right: int, only_first_right: int, only_second_right: int, both_wrong: int
) -> Comparison:
    """Return the comparison that follows from the numbers of images.

    Args:
        both_right: images that both classifiers have right.
        only_first_right: images that the first alone has right.
        only_second_right: images that the second alone has right.
        both_wrong: images that neither has right.
    """
    from scipy.stats import binomtest

    discordant = only_first_right + only_second_right
    images = both_right + discordant + both_wrong
    first_error = 100 * ((only_second_right + both_wrong) / images)  # as in `top_k_error`
    second_error = 100 * ((only_first_right + both_wrong) / images)
    return Comparison(
        images=images,
        both_right=both_right,
        only_first_right=only_first_right,
        only_second_right=only_second_right,
        both_wrong=both_wrong,
        first_error=first_error,
        first_interval=wilson_interval(first_error, images),
        second_error=second_error,
        second_interval=wilson_interval(second_error, images),
        difference=100 * (only_first_right - only_second_right) / images,
        difference_interval=paired_interval(
            both_wrong, only_first_right, only_second_right, both_right
        ),
        p_value=float(binomtest(only_first_right, discordant).pvalue) if discordant else 1.0,
    )


def paired_interval(both: int, only_one: int, only_other: int, neither: int) -> list[float]:
    """Return the 95 % interval of the difference of two paired proportions, in percentage points.

    Method 10 of Newcombe 1998: the Wilson intervals of the two proportions are combined, and their
    correlation is estimated with a correction for continuity. No library that is kept well has a
    release with it.

    Args:
        both: pairs of which both are counted.
        only_one: pairs of which the first alone is counted.
        only_other: pairs of which the second alone is counted.
        neither: pairs of which none is counted.

    Returns:
        `[low, high]` of the first proportion minus the second.
    """
    pairs = both + only_one + only_other + neither
    one, other = 100 * (both + only_one) / pairs, 100 * (both + only_other) / pairs
    (low_one, high_one), (low_other, high_other) = (
        wilson_interval(one, pairs),
        wilson_interval(other, pairs),
    )
    excess = float(both * neither - only_one * only_other)
    if excess > 0:
        excess = max(excess - pairs / 2, 0.0)
    scale = math.sqrt(
        (both + only_one) * (only_other + neither) * (both + only_other) * (only_one + neither)
    )
    correlation = excess / scale if scale else 0.0

    def combined(x: float, y: float) -> float:
        return math.sqrt(max(x**2 - 2 * correlation * x * y + y**2, 0.0))  # not -1e-17

    return [
        one - other - combined(one - low_one, high_other - other),
        one - other + combined(high_one - one, other - low_other),
    ]


def _name(data: str | os.PathLike[str]) -> str:
    """Return the name under which `evaluate` stores what it tests on other data."""
    return Path(data).resolve().name if Path(data).is_dir() else os.fspath(data)


def _stored(run: Run, file: Path) -> Predictions:
    if file.is_file():
        return read_predictions(file)
    if not run.path.is_dir():
        run.recipe()  # names the runs nearby
    raise ValueError(
        f"{run.path} has no {file.name}; evaluate it first, with the same `data`, `split` and"
        " `views`"
    )


def _require_same_classes(names: list[str], ours: Predictions, theirs: Predictions) -> None:
    if ours.class_names == theirs.class_names:
        return
    counts = len(ours.class_names), len(theirs.class_names)
    if counts[0] != counts[1]:
        differ = f"{counts[0]} and {counts[1]} of them"
    else:
        pairs = enumerate(zip(ours.class_names, theirs.class_names, strict=True))
        number, (our, their) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
        differ = f"class {number} is {our!r} and {their!r}"
    raise ValueError(f"{names[0]} and {names[1]} have different classes: {differ}")


def _order(predictions: Predictions) -> np.ndarray:
    """Return the order by hash and label, int `[N]`; equal ones keep their order."""
    words = np.ascontiguousarray(predictions.hashes).view(np.uint64)
    return np.lexsort((predictions.labels, *words.T))


def _require_same_images(
    names: list[str],
    ours: Predictions,
    theirs: Predictions,
    our_order: np.ndarray,
    their_order: np.ndarray,
) -> None:
    if np.array_equal(ours.hashes[our_order], theirs.hashes[their_order]):
        differing = int(np.sum(ours.labels[our_order] != theirs.labels[their_order]))
        if differing:
            raise ValueError(
                f"{names[0]} and {names[1]} were tested with different labels of {differing} images"
            )
        return
    our_images, their_images = (
        Counter(row.tobytes() for row in predictions.hashes) for predictions in (ours, theirs)
    )
    missing = (our_images - their_images).total(), (their_images - our_images).total()
    raise ValueError(
        f"{names[0]} and {names[1]} were not tested on the same images: {missing[0]} of"
        f" {len(ours.labels)} are only in the first, {missing[1]} of {len(theirs.labels)} only in"
        " the second; evaluate both on the same data"
    )
