"""The uncertainty of an error measured on a sample of images."""

from collections.abc import Sequence


def wilson_interval(error: float, images: int) -> list[float]:
    """Return the 95 % score interval of an error, `[low, high]` in percent (Wilson 1927).

    It covers the sampling of test images, not the spread over trainings with other seeds.

    Args:
        error: percentage of misclassified images.
        images: number of tested images, at least one.
    """
    from scipy.stats import binomtest  # imported late, because `list` and `show` need no SciPy

    wrong = min(round(error / 100 * images), images)
    interval = binomtest(wrong, images).proportion_ci(confidence_level=0.95, method="wilson")
    return [100 * float(interval.low), 100 * float(interval.high)]


def with_interval(error: float, interval: Sequence[float]) -> str:
    """Format an error and its interval, such as `2.22 % (1.13 to 4.32)`.

    Args:
        error: the error in percent.
        interval: its lower and upper end in percent.
    """
    low, high = interval
    return f"{error:.2f} % ({low:.2f} to {high:.2f})"
