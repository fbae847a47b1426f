"""Find where a classifier fails, and which labels may be wrong, from stored predictions."""

from dataclasses import dataclass

import numpy as np

from .errors import predicted_classes


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 per class, as fractions, `[classes]` each."""

    images: np.ndarray
    """the number of images with the label"""
    precision: np.ndarray
    """NaN for a class that is never predicted"""
    recall: np.ndarray
    """NaN for a class without images"""
    f1: np.ndarray
    """NaN for a class without images that is never predicted"""


@dataclass(frozen=True)
class LabelErrors:
    """Images whose labels may be wrong, the most suspicious first, `[K]` each."""

    rows: np.ndarray
    """the position of the image in the split"""
    likely: np.ndarray
    """the class that the label may have to be"""
    margins: np.ndarray
    """the probability of the label minus the largest other one"""


def class_scores(probabilities: np.ndarray, labels: np.ndarray) -> ClassScores:
    """Compute precision, recall and F1 of each class.

    Args:
        probabilities: `[N, classes]`.
        labels: `[N]`.
    """
    from sklearn import metrics

    precision, recall, f1, images = metrics.precision_recall_fscore_support(
        labels,
        predicted_classes(probabilities, labels),
        labels=np.arange(probabilities.shape[1]),
        zero_division=np.nan,
    )
    return ClassScores(images, precision, recall, f1)


def worst_mistakes(probabilities: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return the wrong images whose labels have the lowest probabilities, the lowest first.

    These have the largest cross-entropy.

    Args:
        probabilities: `[N, classes]`.
        labels: `[N]`.
        count: the largest number of images.

    Returns:
        The positions in the split, int `[<= count]`.
    """
    wrong = np.flatnonzero(predicted_classes(probabilities, labels) != labels)
    return wrong[np.argsort(probabilities[wrong, labels[wrong]], kind="stable")][:count]


def label_errors(probabilities: np.ndarray, labels: np.ndarray) -> LabelErrors:
    """Find likely label errors by confident learning (Northcutt, Jiang and Chuang 2021).

    *Confident Learning: Estimating Uncertainty in Dataset Labels*, arXiv:1911.00068, section 3.1:
    an image may belong to another class if its probability of that class is at least the mean that
    the class' own images have. Of several such classes the most probable counts. Images that the
    classifier has right are left out. Section 3.2, step 3: they are ranked by normalized margin.

    `cleanlab`, the authors' library, brings pandas along, for what these lines compute.

    Args:
        probabilities: `[N, classes]`, of images that the classifier was not trained on.
        labels: `[N]`.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    classes = probabilities.shape[1]
    images = np.bincount(labels, minlength=classes)
    with np.errstate(invalid="ignore"):  # a class without images has no mean, and no candidates
        thresholds = np.bincount(labels, own, classes) / images
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    likely = confident.argmax(axis=1)
    wrong = predicted_classes(probabilities, labels) != labels
    candidates = np.flatnonzero((confident.max(axis=1) >= 0) & (likely != labels) & wrong)
    rivals = probabilities[candidates].copy()
    rivals[np.arange(len(candidates)), labels[candidates]] = -np.inf
    margins = own[candidates] - rivals.max(axis=1)
    order = np.argsort(margins, kind="stable")
    return LabelErrors(candidates[order], likely[candidates][order], margins[order])


def copies(hashes: np.ndarray) -> list[np.ndarray]:
    """Group the images that occur more than once, by the hash of their content.

    Args:
        hashes: uint8 `[N, 32]`, as `content_hashes` returns them.

    Returns:
        The positions of the copies of each such image, in order.
    """
    _, group, counts = np.unique(hashes, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(group.ravel(), kind="stable")
    groups = np.split(order, np.cumsum(counts)[:-1])
    return sorted((each for each in groups if len(each) > 1), key=lambda each: int(each[0]))
