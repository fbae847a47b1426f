"""Coloured noise with a faint pattern for each of ten classes: for trying things out where nothing else is at hand."""

import numpy as np

from .dataset import Dataset, Arrays

CLASSES, TRAIN, TEST = 10, 1024, 256


def load(size: int) -> Dataset:
    """1,024 pictures to train and 256 to test, `size` pixels square, always the same."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (CLASSES, 4, 4, 3)) * 64.0
    side = -(-size // 4)
    patterns = patterns.repeat(side, axis=1).repeat(side, axis=2)[:, :size, :size]

    def split(count: int) -> Arrays:
        labels = (np.arange(count) % CLASSES).astype(np.int32)
        images = patterns[labels] + rng.integers(0, 192, (count, size, size, 3))
        return Arrays(images.astype(np.uint8), labels)

    return Dataset(name="synthetic", labels=tuple(map(str, range(CLASSES))), train=split(TRAIN), test=split(TEST))
