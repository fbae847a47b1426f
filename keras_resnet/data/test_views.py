"""The views of a picture that a trained network is tested on, as pure functions: one crop, ten crops, many scales."""

from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf

from .preprocessing import Preprocessing, normalize, resized, test_view

SCALES = (224, 256, 384, 480, 640)
"""shorter sides of section 3.4 in pixels, for networks that were trained on crops of 224"""

Views = Callable[[Preprocessing, tf.Tensor], tuple[tf.Tensor, ...]]


def single(preprocessing: Preprocessing, images: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The centre crop. Pictures `[N, H, W, 3]`, 0 to 255, to one view, normalised: float32 `[N, crop, crop, 3]`."""
    return (normalize(preprocessing, test_view(preprocessing, images)),)


def ten_crop(preprocessing: Preprocessing, images: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Section 3.4's standard 10-crop testing: the four corners and the centre, and their mirror images.

    Pictures `[N, H, W, 3]`, 0 to 255, to ten views, normalised: float32 `[N, crop, crop, 3]` each; top left, top right,
    bottom left, bottom right, centre (which is the single view), then the mirror images in the same order.

    The corners are those of the whole picture, its shorter side resized. Where that leaves no room (resize equals crop,
    as on CIFAR and the digits), the normalised single view is padded with zeros by an eighth of its side, as in
    training (section 4.2): the corners are the extremes of the training crops.
    """
    crop = preprocessing.crop
    if preprocessing.resize > crop:
        images = resized(images, preprocessing.resize)
        finish = partial(normalize, preprocessing)
    else:
        around = [crop // 8, crop // 8]
        images = tf.pad(*single(preprocessing, images), [[0, 0], around, around, [0, 0]])
        finish = tf.identity
    bottom, right = tf.unstack(tf.shape(images)[1:3] - crop)
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2))
    crops = [finish(images[:, top : top + crop, left : left + crop]) for top, left in corners]
    crops = [tf.ensure_shape(view, [None, crop, crop, 3]) for view in crops]
    # Mirrored after the mean is subtracted, as training does it: a mean picture is not its own mirror image.
    return (*crops, *(tf.reverse(view, axis=[2]) for view in crops))


def multi_scale(preprocessing: Preprocessing, images: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The whole picture at section 3.4's five scales (Table 4), for a network that runs fully convolutional.

    Pictures `[N, H, W, 3]`, 0 to 255, to five views, normalised: float32 `[N, h, w, 3]`, nothing cropped and nothing
    mirrored, the shorter side `SCALES / 224` of the crop: for 32 px 32, 37, 55, 69 and 91.

    A mean picture fits one size only. Where the preprocessing has one, the single view is normalised and then resized,
    to squares.
    """
    sides = [round(preprocessing.crop * scale / 224) for scale in SCALES]
    if np.ndim(preprocessing.mean) > 1:
        (view,) = single(preprocessing, images)
        return tuple(tf.ensure_shape(resized(view, side), [None, side, side, 3]) for side in sides)
    return tuple(normalize(preprocessing, resized(images, side)) for side in sides)


VIEWS: dict[str, Views] = {"single": single, "ten-crop": ten_crop, "multi-scale": multi_scale}
