import math
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.runs.recipes import RECIPES
from keras_resnet.training.schedule import (
    plateau_factor,
    schedule_of,
    validations_since_best,
)

PAPER = RECIPES["cifar10-resnet20"]


def rates(recipe, total, steps):
    schedule = schedule_of(recipe, total)
    inside = tf.function(lambda step: schedule(step))  # as an optimizer calls it
    eager = [float(schedule(tf.constant(step, tf.int64))) for step in steps]
    np.testing.assert_allclose(
        [float(inside(tf.constant(step, tf.int64))) for step in steps], eager, rtol=1e-6
    )
    return eager


def test_the_schedule_of_the_paper():
    """Section 4.2: 0.1, divided by 10 at 32k and 48k iterations, 64k in all."""
    found = rates(PAPER, 64_000, [0, 31_999, 32_000, 47_999, 48_000, 63_999])
    np.testing.assert_allclose(found, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)


def test_the_papers_warm_up_of_110_layers():
    """Section 4.2: 0.01 for about 400 iterations, then 0.1 and the same drops."""
    found = rates(RECIPES["cifar10-resnet110"], 64_000, [0, 399, 400, 31_999, 32_000, 48_000])
    np.testing.assert_allclose(found, [0.01, 0.01, 0.1, 0.1, 0.01, 0.001], rtol=1e-6)


def test_a_shorter_run_scales_the_schedule():
    found = rates(PAPER, 64, [0, 31, 32, 47, 48])
    np.testing.assert_allclose(found, [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-6)


def test_cosine():
    """Half a period from the peak to zero (Loshchilov and Hutter 2016, eq. 5, without restarts)."""
    steps = [0, 25, 50, 75, 100]
    wanted = [0.1 * (1 + math.cos(math.pi * step / 100)) / 2 for step in steps]
    np.testing.assert_allclose(
        rates(replace(PAPER, schedule="cosine"), 100, steps), wanted, rtol=1e-5, atol=1e-8
    )


def test_warm_up_rises_linearly_to_the_schedule():
    found = rates(
        replace(PAPER, warmup=0.1, schedule=((0.0, 1.0), (0.5, 0.1))), 100, [0, 1, 8, 9, 10, 49, 50]
    )
    np.testing.assert_allclose(found, [0.01, 0.02, 0.09, 0.1, 0.1, 0.1, 0.01], rtol=1e-6)


@pytest.mark.parametrize(
    ("errors", "factor"),
    [
        ([], 1),
        ([0.9, 0.8, 0.7], 1),
        ([0.9, 0.9, 0.9], 1),  # waited twice
        ([0.9, 0.9, 0.9, 0.9], 0.1),
        ([0.9, 0.95, 0.92, 0.8, 0.85, 0.85], 1),  # a new lowest error restarts the wait
        ([0.9, 0.95, 0.92, 0.91, 0.91], 0.1),
        ([0.9, *[0.95] * 6], 0.01),
        ([0.9, *[0.95] * 3, 0.5, *[0.6] * 3], 0.01),
    ],
)
def test_plateau(errors, factor):
    assert plateau_factor(errors, patience=3) == pytest.approx(factor)


def test_the_plateaus_factor_multiplies_the_rate():
    schedule = schedule_of(replace(PAPER, schedule="plateau", holdout=5000), 100)
    step = tf.function(lambda: schedule(tf.constant(7, tf.int64)))
    assert float(step()) == pytest.approx(0.1)
    schedule.factor.assign(0.01)
    assert float(step()) == pytest.approx(0.001), "in the graph that is already there"


@pytest.mark.parametrize(
    ("errors", "waited"), [([0.5], 0), ([0.5, 0.4], 0), ([0.4, 0.5, 0.4], 2), ([0.5, 0.4, 0.6], 1)]
)
def test_validations_since_the_first_lowest_error(errors, waited):
    assert validations_since_best(errors) == waited
