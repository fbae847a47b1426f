"""Find test images by the hash of their content, and show where a network sees its answers."""

import math
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from PIL import Image

from ..data.dataset import Dataset, Split
from ..data.own_data import as_split, content_hash, content_hashes, examples
from ..data.pipeline import view_batches
from ..data.preprocessing import Preprocessing
from ..networks.class_activation import MAPS, activation_map, classifier_of, with_maps
from ..runs.classifier import Classifier

Content = bytes | np.ndarray
"""an encoded image, or uint8 `[H, W, 3]`"""

SEARCHED = 100_000
"""the largest training split in which copies of test images are looked for, because all of it is
read"""
_SMOOTH = 64
"""pixels that the longer side of a smaller image is enlarged to, so that a heat map is smooth"""


def contents_of(split: Split, hashes: Iterable[bytes]) -> dict[bytes, Content]:
    """Return the images with these hashes, by hash; those that the split lacks are left out.

    Args:
        split: is read up to the last of them.
        hashes: SHA-256, as `content_hashes` computes them.
    """
    wanted = set(hashes)
    found: dict[bytes, Content] = {}
    for image, _ in examples(split):
        if len(found) == len(wanted):
            break
        if (digest := content_hash(image)) in wanted:
            found[digest] = image
    return found


def training_copies(dataset: Dataset, hashes: np.ndarray) -> np.ndarray | None:
    """Return which images occur in the training split, too.

    Args:
        dataset: the data set; its training split is read completely.
        hashes: of the images, uint8 `[N, 32]`.

    Returns:
        bool `[N]`, or None if the training split has more than `SEARCHED` images.
    """
    if len(dataset.train) > SEARCHED:
        return None
    known = {row.tobytes() for row in content_hashes(dataset.train)}
    return np.array([row.tobytes() in known for row in hashes])


def views_of(contents: list[Content], preprocessing: Preprocessing) -> np.ndarray:
    """Return the network's inputs for images, the single test view of each.

    Args:
        contents: encoded images, or images of one size.
        preprocessing: the preprocessing of the network.

    Returns:
        float32 `[N, crop, crop, 3]`.
    """
    # Without `stack`, TensorFlow would take pixels for int32.
    images = contents if isinstance(contents[0], bytes) else np.stack(contents)
    labels = np.zeros(len(contents), np.int32)
    split = as_split(tf.data.Dataset.from_tensor_slices((images, labels)))
    batches = view_batches(split, preprocessing, "single", len(contents))
    return np.concatenate([inputs.numpy() for (inputs,), _ in batches])


def heat_maps(classifier: Classifier, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Compute the class activation map of one class per image (Zhou et al. 2016).

    Args:
        classifier: the network.
        inputs: preprocessed images, float32 `[N, crop, crop, 3]`.
        classes: the class of each map, int `[N]`.

    Returns:
        float32 `[N, h, w]`.

    Raises:
        ValueError: the network does not end in global average pooling and one dense layer.
    """
    network = with_maps(classifier.split.model)
    weights = tf.gather(tf.transpose(classifier_of(network).kernel), classes)
    maps = network.predict_on_batch(inputs)[MAPS]
    return activation_map(maps, tf.cast(weights, maps.dtype)).numpy()


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heat map over the gray values of an image.

    The colors are those of cividis, which color-blind people see as others do. Zero and all below
    are dark, the largest value is bright.

    Args:
        image: uint8 `[H, W, 3]`.
        heat: `[h, w]`.

    Returns:
        uint8 `[H, W, 3]`, enlarged to at least `_SMOOTH` pixels.
    """
    from matplotlib import colormaps

    height, width = image.shape[:2]
    scale = max(1, math.ceil(_SMOOTH / max(height, width)))
    size = (scale * width, scale * height)
    gray = Image.fromarray(image).convert("L").resize(size, Image.Resampling.NEAREST)
    positive = Image.fromarray(np.maximum(heat, 0).astype(np.float32))
    smooth = np.asarray(positive.resize(size, Image.Resampling.BILINEAR))
    colors = 255 * colormaps["cividis"](smooth / max(float(smooth.max()), 1e-12))[..., :3]
    mixed = 0.4 * np.asarray(gray)[..., np.newaxis] + 0.6 * colors
    return np.round(mixed).astype(np.uint8)
