"""Create colored noise with a faint pattern per class, for trials without data."""

import numpy as np

from .dataset import Arrays, Dataset

CLASSES, TRAIN, TEST = 10, 1024, 256


def load(size: int) -> Dataset:
    """Return 1,024 training images and 256 test images of ten classes, always the same.

    Args:
        size: the side of the images in pixels.
    """
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (CLASSES, 4, 4, 3)) * 64.0
    side = -(-size // 4)
    patterns = patterns.repeat(side, axis=1).repeat(side, axis=2)[:, :size, :size]

    def split(count: int) -> Arrays:
        labels = (np.arange(count) % CLASSES).astype(np.int32)
        images = patterns[labels] + rng.integers(0, 192, (count, size, size, 3))
        return Arrays(images.astype(np.uint8), labels)

    return Dataset(
        name="synthetic",
        class_names=tuple(map(str, range(CLASSES))),
        train=split(TRAIN),
        test=split(TEST),
    )
