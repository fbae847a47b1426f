"""Calibrate the probabilities of an export by a temperature (Guo et al. 2017)."""

from dataclasses import dataclass

import keras
import numpy as np

from ..data.preprocessing import Preprocessing
from ..evaluation.errors import softmax
from ..evaluation.temperature import (
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from .labeled_images import ExportImages, Images

IMAGES = 5000
"""the largest number of images that a temperature is fitted on, evenly spread; Guo et al. use as
many of CIFAR"""
_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well probabilities fit the labels of test images."""

    calibration_error: float
    """in percent"""
    negative_log_likelihood: float
    """in nats per image"""


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """A temperature, how it was fitted, and what it changes on test images, in float32."""

    value: float
    fitted: int
    """the number of images that it was fitted on"""
    fitted_on: str
    """such as "validation of digits\""""
    trained_on: bool | None
    """whether the network was trained on these images; None if unknown"""
    tested: int
    """the number of test images"""
    tested_on: str
    before: Quality
    after: Quality


def temperature_of(
    network: keras.Model, preprocessing: Preprocessing, images: ExportImages
) -> Temperature:
    """Fit the temperature of a network, and measure it on test images.

    Args:
        network: the network in float32, with a dict of outputs.
        preprocessing: the preprocessing of the network.
        images: the images.

    Raises:
        ValueError: no temperature is the best, such as for images of which none is wrong.
    """
    some = images.fitting.at_most(IMAGES)
    logits, labels = _logits(network, preprocessing, some)
    try:
        value = fit_temperature(logits, labels)
    except ValueError as error:
        raise ValueError(f"calibrate is True; {error} ({some.name})") from None
    test_logits, test_labels = _logits(network, preprocessing, images.test)
    return Temperature(
        value=value,
        fitted=len(labels),
        fitted_on=some.name,
        trained_on=images.trained_on,
        tested=len(test_labels),
        tested_on=images.test.name,
        before=_quality(test_logits, test_labels),
        after=_quality(test_logits / value, test_labels),
    )


def _logits(
    network: keras.Model, preprocessing: Preprocessing, images: Images
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits `[N, classes]` and the labels `[N]` of images."""
    batches = images.batches(preprocessing, _BATCH)
    found = [(network.predict_on_batch(x)["logits"], y) for x, y in batches]
    logits, labels = map(np.concatenate, zip(*found, strict=True))
    return logits, labels


def _quality(logits: np.ndarray, labels: np.ndarray) -> Quality:
    return Quality(
        calibration_error=calibration_error(softmax(logits), labels),
        negative_log_likelihood=negative_log_likelihood(logits, labels),
    )
