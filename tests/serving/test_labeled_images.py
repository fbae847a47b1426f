"""Test the choice of images that calibrate and measure an export."""

import numpy as np
import pytest

from keras_resnet.data.dataset import Shard
from keras_resnet.data.own_data import as_split
from keras_resnet.data.preprocessing import Preprocessing
from keras_resnet.serving.labeled_images import Images


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("count", [1, 7, 64, 100, 1000])
def test_some_images_are_spread_to_the_end(index, count):
    """Of images sorted by class, no class is left out, and none prevails."""
    labels = np.repeat(np.arange(10), 100)  # sorted by class
    pixels = np.arange(1000)[:, None, None, None] % 256 * np.ones((1, 2, 2, 3))
    split = as_split((pixels.astype(np.uint8), labels))
    images = Images(split=split, part=Shard(index, 2), name="some", classes=10)
    some = images.at_most(count)
    found = [y for _, y in some.batches(Preprocessing(resize=2, crop=2), 3)]
    found = np.concatenate(found)
    assert len(found) == len(some) <= count
    if count >= 10:
        of_classes = np.bincount(found, minlength=10)
        assert of_classes.min() > 0 and of_classes.max() - of_classes.min() <= 1
