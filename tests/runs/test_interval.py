"""Intervals of errors, against published examples and the formula."""

import json
import math
from pathlib import Path
from statistics import NormalDist

import pytest

from keras_resnet.runs.interval import wilson_interval, with_interval
from keras_resnet.runs.run import Run

RESULTS = Path(__file__).parents[2] / "scripts" / "results"


@pytest.mark.parametrize(
    ("wrong", "images", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_match_newcombes_examples(wrong, images, low, high):
    """R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, Table I, method 3."""
    found = wilson_interval(100 * wrong / images, images)
    assert found == pytest.approx([100 * low, 100 * high], abs=0.005)


@pytest.mark.parametrize("images", [1, 7, 360, 10_000])
def test_the_ends_are_exact(images):
    assert wilson_interval(0, images)[0] == 0
    assert wilson_interval(100, images)[1] == 100
    low, high = wilson_interval(0, images), wilson_interval(100, images)
    assert low[1] == pytest.approx(100 - high[0])


def by_formula(wrong, images):
    """Compute Wilson's interval by its formula in Newcombe's paper, equation 4."""
    z, p = NormalDist().inv_cdf(0.975), wrong / images
    center = (2 * images * p + z**2) / (2 * (images + z**2))
    half = z * math.sqrt(z**2 + 4 * images * p * (1 - p)) / (2 * (images + z**2))
    return [100 * (center - half), 100 * (center + half)]


def test_an_evaluation_of_an_earlier_version_has_intervals():
    """They are computed from the error and the number of images."""
    run = Run(RESULTS / "cifar10-resnet20")
    stored = json.loads(run.evaluation_file().read_text())
    assert stored["images"] == 10_000 and "top1_interval" not in stored
    result = run.evaluation()
    for k in ("top1", "top5"):
        wrong = round(stored[f"{k}_error"] * 100)
        assert result[f"{k}_interval"] == pytest.approx(by_formula(wrong, 10_000))


def test_intervals_are_formatted_with_their_error():
    assert with_interval(2.2222, [1.1302, 4.3231]) == "2.22 % (1.13 to 4.32)"
