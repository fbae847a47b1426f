"""Scores per class, mistakes, label errors and copies, against published values and by hand."""

import hashlib

import numpy as np
import pytest

from keras_resnet.evaluation.diagnostics import (
    class_scores,
    copies,
    label_errors,
    worst_mistakes,
)

# 24 images of three classes, of which six have a wrong label; two digits, and rows sum to 1.
DOUBTFUL = np.array(
    [
        [0.70, 0.30, 0.00], [0.00, 0.13, 0.87], [0.58, 0.09, 0.33], [0.82, 0.18, 0.00],
        [0.83, 0.01, 0.16], [0.10, 0.86, 0.04], [0.58, 0.41, 0.01], [0.53, 0.27, 0.20],
        [0.33, 0.58, 0.09], [0.24, 0.72, 0.04], [0.55, 0.31, 0.14], [0.14, 0.67, 0.19],
        [0.32, 0.52, 0.16], [0.16, 0.76, 0.08], [0.15, 0.76, 0.09], [0.65, 0.02, 0.33],
        [0.19, 0.05, 0.76], [0.08, 0.70, 0.22], [0.17, 0.21, 0.62], [0.02, 0.38, 0.60],
        [0.55, 0.33, 0.12], [0.18, 0.11, 0.71], [0.22, 0.02, 0.76], [0.19, 0.06, 0.75],
    ]
)  # fmt: skip


def answers(predicted, classes):
    """Return probabilities whose most probable classes are these."""
    return np.full((len(predicted), classes), 0.1) + 0.5 * np.eye(classes)[predicted]


def test_the_scores_of_scikit_learns_documentation():
    """The example of `classification_report`, with two digits.

    https://scikit-learn.org/stable/modules/generated/sklearn.metrics.classification_report.html
    """
    found = class_scores(answers([0, 0, 2, 2, 1], 3), np.array([0, 1, 2, 2, 2]))
    assert found.images.tolist() == [1, 1, 3]
    assert found.precision == pytest.approx([0.50, 0.00, 1.00], abs=0.005)
    assert found.recall == pytest.approx([1.00, 0.00, 0.67], abs=0.005)
    assert found.f1 == pytest.approx([0.67, 0.00, 0.80], abs=0.005)


def test_scores_that_divide_by_zero_are_nan():
    """Class 1 has images and no answers, class 2 has answers and no images, class 3 neither."""
    found = class_scores(answers([0, 2, 2], 4), np.array([0, 0, 1]))
    assert np.isnan(found.precision).tolist() == [False, True, False, True]
    assert np.isnan(found.recall).tolist() == [False, False, True, True]
    assert found.f1[:3] == pytest.approx([2 / 3, 0, 0])
    assert np.isnan(found.f1[3])


def test_the_label_errors_of_cleanlab():
    """As cleanlab 2.9.0, the library of the authors, finds and ranks them.

    `cleanlab.filter.find_label_issues(labels, DOUBTFUL, filter_by="confident_learning",
    return_indices_ranked_by="normalized_margin")`
    """
    found = label_errors(DOUBTFUL, np.repeat(np.arange(3), 8))
    assert found.rows.tolist() == [1, 5, 15, 17, 20, 10]
    assert found.likely.tolist() == [2, 1, 0, 1, 0, 0]
    assert found.margins == pytest.approx([-0.87, -0.76, -0.63, -0.48, -0.43, -0.24])


def test_a_label_error_by_hand():
    """The thresholds are the means (0.8 + 0.6 + 0.1) / 3 = 0.5 and (0.9 + 0.7 + 0.45) / 3 = 0.683.

    The third image has 0.9 of the other class, which is enough. The last one has 0.55, more than
    the other threshold. An image of class 1 with 0.45 of class 0 would not be a candidate.
    """
    first = np.array([0.8, 0.6, 0.1, 0.1, 0.3, 0.55])
    found = label_errors(np.stack([first, 1 - first], axis=1), np.array([0, 0, 0, 1, 1, 1]))
    assert found.rows.tolist() == [2, 5]
    assert found.likely.tolist() == [1, 0]
    assert found.margins == pytest.approx([-0.8, -0.1])
    first[5] = 0.45
    found = label_errors(np.stack([first, 1 - first], axis=1), np.repeat([0, 1], 3))
    assert found.rows.tolist() == [2]


def test_a_class_without_images_is_no_likely_label():
    probabilities = np.array([[0.6, 0.1, 0.3], [0.1, 0.0, 0.9], [0.2, 0.8, 0.0]])
    assert label_errors(probabilities, np.array([0, 0, 1])).rows.tolist() == []


def test_the_worst_mistakes_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]])
    labels = np.array([0, 0, 0, 0, 1])
    assert worst_mistakes(probabilities, labels, 2).tolist() == [2, 3]
    assert worst_mistakes(probabilities, labels, 9).tolist() == [2, 3, 1]


def test_copies_are_grouped():
    digests = [hashlib.sha256(content).digest() for content in (b"c", b"a", b"b", b"a", b"c", b"a")]
    hashes = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    assert [group.tolist() for group in copies(hashes)] == [[0, 4], [1, 3, 5]]
    assert copies(hashes[:3]) == []
