"""1,797 real handwritten digits, 8x8 pixels, that scikit-learn ships: the data set that is always there.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998 (the part that scikit-learn's `load_digits` holds).
"""

import numpy as np

from .dataset import Dataset, Arrays


def load() -> Dataset:
    """1,437 digits to train and 360 to test, stratified, always the same; grey values repeated in R, G and B."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # ink from 0 to 16
    images = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    return Dataset(
        name="digits",
        labels=tuple(map(str, digits.target_names)),
        train=Arrays(images[train], labels[train]),
        test=Arrays(images[test], labels[test]),
    )
