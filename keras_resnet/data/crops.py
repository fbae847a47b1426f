"""Compute the views of images for evaluation, by pure functions.

`VIEWS` lists them: one crop, ten crops, several scales. Each function takes a preprocessing and
images `[N, H, W, 3]` in 0 to 255, and returns a tuple of normalized batches, one per view.
`pipeline.view_batches` does this for a whole split.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf

from .preprocessing import Preprocessing, center, normalize, resize_and_crop, resized

SCALES = (224, 256, 384, 480, 640)
"""the shorter sides of section 3.4 in pixels, for networks trained on crops of 224"""

Views = Callable[[Preprocessing, tf.Tensor], tuple[tf.Tensor, ...]]


def single(preprocessing: Preprocessing, images: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Return the center crop.

    Args:
        preprocessing: the preprocessing of the network.
        images: `[N, H, W, 3]` in 0 to 255.

    Returns:
        One view, float32 `[N, crop, crop, 3]`.
    """
    return (normalize(preprocessing, resize_and_crop(preprocessing, images)),)


def ten_crop(preprocessing: Preprocessing, images: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Return crops of the four corners and the center, and their mirror images.

    The standard 10-crop testing of section 3.4. The corners are those of the whole resized image.
    If `resize` equals `crop` (on CIFAR, on the digits, and with `aspect` "stretch"), the normalized
    single view is padded with zeros by an eighth of its side, as in training (section 4.2): the
    corners are then the most extreme training crops.

    Args:
        preprocessing: the preprocessing of the network.
        images: `[N, H, W, 3]` in 0 to 255.

    Returns:
        Ten views, float32 `[N, crop, crop, 3]` each: top left, top right, bottom left, bottom
        right, center (the single view), then their mirror images in the same order.
    """
    crop = preprocessing.crop
    if preprocessing.resize > crop:
        images = resized(preprocessing, images, preprocessing.resize)
        finish = partial(normalize, preprocessing)
    else:
        around = [crop // 8, crop // 8]
        images = tf.pad(*single(preprocessing, images), [[0, 0], around, around, [0, 0]])
        finish = tf.identity
    bottom, right = tf.unstack(tf.shape(images)[1:3] - crop)
    middle = tf.unstack(center(preprocessing, tf.shape(images)[1:3]))
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), middle)
    crops = [finish(images[:, top : top + crop, left : left + crop]) for top, left in corners]
    crops = [tf.ensure_shape(view, [None, crop, crop, 3]) for view in crops]
    # Mirrored after the mean is subtracted, as in training, because a mean image is not symmetric.
    return (*crops, *(tf.reverse(view, axis=[2]) for view in crops))


def multi_scale(preprocessing: Preprocessing, images: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Return the whole image at the five scales of section 3.4 (Table 4).

    The network must run as a fully convolutional one. The shorter side is `SCALES / 224` of the
    crop: 32, 37, 55, 69 and 91 for 32 px. With `aspect` "stretch" both sides are. A mean image fits
    one size only: if the preprocessing has one, the single view is normalized first, then resized
    to these squares.

    Args:
        preprocessing: the preprocessing of the network.
        images: `[N, H, W, 3]` in 0 to 255.

    Returns:
        Five views, float32 `[N, h, w, 3]` each.
    """
    sides = [round(preprocessing.crop * scale / 224) for scale in SCALES]
    if np.ndim(preprocessing.mean) > 1:
        (view,) = single(preprocessing, images)
        return tuple(
            tf.ensure_shape(resized(preprocessing, view, side), [None, side, side, 3])
            for side in sides
        )
    return tuple(normalize(preprocessing, resized(preprocessing, images, side)) for side in sides)


VIEWS: dict[str, Views] = {"single": single, "ten-crop": ten_crop, "multi-scale": multi_scale}
