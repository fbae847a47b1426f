"""Load 1,797 real handwritten digits of 8 x 8 pixels, which come with scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998 (the part in scikit-learn's `load_digits`).
"""

import numpy as np

from .dataset import Arrays, Dataset


def load() -> Dataset:
    """Return 1,437 training digits and 360 test digits, in a fixed stratified split.

    Gray values are repeated in R, G and B.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    gray = np.round(digits.images * (255 / 16)).astype(np.uint8)  # from 0 to 16
    images = np.repeat(gray[..., np.newaxis], 3, axis=-1)
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=0
    )
    return Dataset(
        name="digits",
        class_names=tuple(map(str, digits.target_names)),
        train=Arrays(images[train], labels[train]),
        test=Arrays(images[test], labels[test]),
    )
