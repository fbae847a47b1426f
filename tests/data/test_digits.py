"""Test scikit-learn's digits."""

import hashlib
from collections import Counter

import numpy as np

from keras_resnet import data

DIGITS = data.load("digits")


def test_every_digit_occurs_once_and_splits_are_stratified():
    """1,797 images in 10 classes of 174 to 183: sklearn.datasets.load_digits."""
    from sklearn.datasets import load_digits

    assert (len(DIGITS.train), len(DIGITS.test)) == (1437, 360)
    everything = np.concatenate([DIGITS.train.images, DIGITS.test.images])[..., 0]
    ours = Counter(image.tobytes() for image in everything)
    theirs = Counter(
        np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images
    )
    assert ours == theirs
    assert all(35 <= count <= 37 for count in Counter(DIGITS.test.labels.tolist()).values())


def test_the_split_of_the_digits_never_changes():
    """Results of different versions are comparable only on the same test images."""
    assert hashlib.sha256(DIGITS.test.images.tobytes()).hexdigest()[:16] == "8cde8721d1e8329f"
