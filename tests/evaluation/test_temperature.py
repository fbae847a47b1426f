"""Test temperatures and calibration errors against published values and by hand."""

import numpy as np
import pytest

from keras_resnet.evaluation.errors import softmax
from keras_resnet.evaluation.temperature import (
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)


def test_the_calibration_error_of_torchmetrics():
    """The example of `MulticlassCalibrationError` in torchmetrics' documentation: 0.2000."""
    probabilities = np.array(
        [[0.25, 0.20, 0.55], [0.55, 0.05, 0.40], [0.10, 0.30, 0.60], [0.90, 0.05, 0.05]]
    )
    found = calibration_error(probabilities, np.array([0, 1, 2, 0]), bins=3)
    assert found == pytest.approx(20.0)


def test_the_calibration_error_by_hand():
    """Confidences 0.62 and 0.66 share the tenth of 15 bins, 0.6 is in the ninth, 0.95 the last."""
    confidence = np.array([0.62, 0.66, 0.60, 0.95, 0.95])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 1, 0, 0, 0])
    gaps = (abs(1 - 1.28), abs(1 - 0.60), abs(2 - 1.90))
    assert calibration_error(probabilities, labels) == pytest.approx(100 * sum(gaps) / 5)


def test_the_bins_by_hand():
    """The same images: what a reliability diagram shows of the ninth, tenth and last bin."""
    confidence = np.array([0.62, 0.66, 0.60, 0.95, 0.95])
    found = reliability(np.stack([confidence, 1 - confidence], axis=1), np.array([0, 1, 0, 0, 0]))
    assert np.flatnonzero(found.images).tolist() == [8, 9, 14]
    assert found.images[[8, 9, 14]].tolist() == [1, 2, 2]
    assert found.right[[8, 9, 14]].tolist() == [1, 1, 2]
    assert found.confidence[[8, 9, 14]] == pytest.approx([0.60, 1.28, 1.90])


def test_a_bin_takes_its_upper_end():
    """The lower of two bins takes 0.5; in one bin the gaps -0.5 and 0.4 would nearly cancel."""
    probabilities = np.array([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2]])
    found = calibration_error(probabilities, np.array([1, 0]), bins=2)
    assert found == pytest.approx(100 * (0.5 + 0.4) / 2)


def test_a_network_that_says_nothing_is_wrong_with_its_confidence():
    assert calibration_error(np.full((4, 10), 0.1), np.arange(4)) == pytest.approx(10.0)
    assert calibration_error(np.full((4, 10), np.nan), np.arange(4)) == 100


def test_the_negative_log_likelihood_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]) + [[3.0], [-1e4]]
    found = negative_log_likelihood(logits, np.array([0, 1]))
    assert found == pytest.approx(-(np.log(0.5) + np.log(0.1)) / 2)


def test_the_temperature_of_two_classes_by_hand():
    """With 3 of 4 images right and a difference z between the logits, sigmoid(z / T) is 3 / 4."""
    logits, labels = np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1])
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(4 / np.log(3), rel=1e-6)
    assert calibration_error(softmax(logits / temperature), labels) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("true", [0.02, 0.5, 1.0, 3.0, 200.0])
def test_a_temperature_is_found_again(true):
    """Labels drawn from the softmax of `logits / true`; a slow search knows no derivatives."""
    random = np.random.default_rng(0)
    scaled = random.normal(size=(4000, 5)) * 2
    labels = np.array([random.choice(5, p=row) for row in softmax(scaled)])
    logits = (scaled * true).astype(np.float32)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.05)
    grid = found * np.array([0.9, 0.99, 1.0, 1.01, 1.1])
    losses = [negative_log_likelihood(logits / one, labels) for one in grid]
    assert np.argmin(losses) == 2


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([[2.0, 0.0], [0.0, 1.0]], "all 2 images are right, .*; hold images out of training"),
        ([[0.0, 2.0], [1.0, 0.0]], "labels of the 2 images are no more probable"),
        ([[2.0, 0.0], [0.0, np.nan]], "logits are not finite"),
    ],
)
def test_a_temperature_that_does_not_exist_is_refused(logits, message):
    with pytest.raises(ValueError, match=f"a temperature cannot be fitted: .*{message}"):
        fit_temperature(np.array(logits), np.array([0, 1]))
