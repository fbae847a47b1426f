"""Temperature scaling, and the measures of probabilities that it improves (Guo et al. 2017).

*On Calibration of Modern Neural Networks*, arXiv:1706.04599.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from .errors import top_k_wrong

BINS = 15
"""the number of bins in the tables of Guo et al."""


@dataclass(frozen=True)
class Reliability:
    """Images in bins of equal width by their confidence, `[bins]` each."""

    images: np.ndarray
    """the number of images"""
    right: np.ndarray
    """the number of right images"""
    confidence: np.ndarray
    """the sum of their confidences"""


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """Count right images and sum confidences per bin, as a reliability diagram shows them.

    Section 2 of Guo et al.: images are put into `bins` bins of equal width by their confidence,
    the largest probability; bin m of M takes ((m - 1) / M, m / M]. Ties and NaN are wrong, as in
    `top_k_error`, and the confidence of NaN is 1.

    Args:
        probabilities: `[N, classes]`.
        labels: `[N]`.
        bins: the number of bins.
    """
    right = ~top_k_wrong(probabilities, labels, 1)
    confidence = np.nan_to_num(probabilities.max(axis=1), nan=1.0)
    bin_of = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], confidence)
    return Reliability(
        *(np.bincount(bin_of, weights, bins) for weights in (None, right, confidence))
    )


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error of the most probable classes, in percent.

    Equation 3 of Guo et al.: the mean over all images of `|share of right images - mean
    confidence|` of their bin.

    Args:
        probabilities: `[N, classes]`.
        labels: `[N]`.
        bins: the number of bins, which are those of `reliability`.
    """
    found = reliability(probabilities, labels, bins)
    return 100.0 * float(np.abs(found.right - found.confidence).sum()) / len(labels)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-likelihood of the labels, in nats per image.

    Args:
        logits: `[N, classes]`.
        labels: `[N]`.
    """
    return float(special.logsumexp(_above_label(logits, labels), axis=1).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature that minimizes the negative log-likelihood of `logits / temperature`.

    Section 4.2 of Guo et al. The likelihood is a concave function of the inverse temperature, so
    that there is one best temperature at most.

    Args:
        logits: `[N, classes]`.
        labels: `[N]`.

    Raises:
        ValueError: no temperature is the best: no image is wrong, or the labels are no more
            probable than by chance, or logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise ValueError("a temperature cannot be fitted: logits are not finite")
    above = _above_label(logits, labels)
    # The slopes of the negative log-likelihood at inverse temperatures of infinity and of 0.
    if not above.max(axis=1).mean() > 0:
        raise ValueError(
            f"a temperature cannot be fitted: all {len(labels):,} images are right, and any lower"
            " temperature makes them more probable; hold images out of training for it"
        )
    if not above.mean() < 0:
        raise ValueError(
            f"a temperature cannot be fitted: the labels of the {len(labels):,} images are no more"
            " probable than other classes"
        )
    found = optimize.minimize_scalar(
        lambda log: negative_log_likelihood(logits / np.exp(log), labels),
        bracket=(-0.5, 0.5),
        tol=1e-9,
    )
    return float(np.exp(found.x))


def _above_label(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return by how much each logit exceeds that of the label, float64 `[N, classes]`."""
    wide = logits.astype(np.float64)
    return wide - wide[np.arange(len(labels)), labels][:, np.newaxis]
