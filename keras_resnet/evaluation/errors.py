"""Errors of a classifier, counted from the scores and the labels of images."""

import numpy as np

from ..runs.interval import wilson_interval


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax along the last axis, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def top_k_wrong(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return which images have a label that is not among the `k` most probable classes.

    A class that ties with the label counts as more probable: a network that gives all classes the
    same probability has every image wrong.

    Args:
        probabilities: `[N, classes]`.
        labels: `[N]`.
        k: number of classes that count.

    Returns:
        bool `[N]`.
    """
    own = probabilities[np.arange(len(labels)), labels][:, np.newaxis]
    # Written so that NaN counts as more probable, too.
    before = (~(probabilities < own)).sum(axis=1) - 1
    return before >= k


def top_k_error(probabilities: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the percentage of images that are wrong by `top_k_wrong`.

    Args:
        probabilities: `[N, classes]`.
        labels: `[N]`.
        k: number of classes that count.
    """
    return 100.0 * float(np.mean(top_k_wrong(probabilities, labels, k)))


def predicted_classes(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the most probable class of each image.

    A class that ties with the label counts as more probable, as in `top_k_error`, so that the two
    agree.

    Args:
        probabilities: `[N, classes]`.
        labels: `[N]`.

    Returns:
        int `[N]`.
    """
    rows = np.arange(len(labels))
    rivals = probabilities.copy()
    rivals[rows, labels] = -np.inf
    rival = rivals.argmax(axis=1)
    won = probabilities[rows, rival] < probabilities[rows, labels]  # not where either is NaN
    return np.where(won, labels, rival)


def confusion_matrix(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count images by true class (rows) and class of `predicted_classes` (columns).

    Args:
        probabilities: `[N, classes]`.
        labels: `[N]`.

    Returns:
        int `[classes, classes]`.
    """
    from sklearn import metrics

    predicted = predicted_classes(probabilities, labels)
    return metrics.confusion_matrix(labels, predicted, labels=np.arange(probabilities.shape[1]))


def class_errors(confusion: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Return the percentage of each class's images that were taken for another class.

    Args:
        confusion: as `confusion_matrix` returns it.
        names: class names; those without images are left out.
    """
    return {name: 100.0 * wrong / images for name, wrong, images in _counts(confusion, names)}


def class_intervals(confusion: np.ndarray, names: tuple[str, ...]) -> dict[str, list[float]]:
    """Return the 95 % Wilson interval of each class's error, in percent.

    Args:
        confusion: as `confusion_matrix` returns it.
        names: class names; those without images are left out.
    """
    return {
        name: wilson_interval(100.0 * wrong / images, images)
        for name, wrong, images in _counts(confusion, names)
    }


def _counts(confusion: np.ndarray, names: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """Return the name, the wrong images and all images of each class that has any."""
    images = confusion.sum(axis=1)
    wrong = images - confusion.diagonal()
    return [(name, int(w), int(n)) for name, w, n in zip(names, wrong, images, strict=True) if n]
