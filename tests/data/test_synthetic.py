"""Test the synthetic images."""

import numpy as np

from keras_resnet import data


def test_synthetic_images_are_separable_and_never_change():
    dataset = data.load("synthetic", image_size=20)
    assert dataset.train.images.shape == (1024, 20, 20, 3)
    assert (dataset.test.images == data.load("synthetic", image_size=20).test.images).all()
    means = np.stack(
        [dataset.train.images[dataset.train.labels == c].mean(axis=0) for c in range(10)]
    )
    distances = ((dataset.test.images[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == dataset.test.labels).mean() > 0.9
