"""Draw random views of training images, by pure functions for any `tf.data` pipeline.

Each function takes one image `[H, W, C]` or a batch `[N, H, W, C]`. An image's view is a function
of the seed, the step, and the position of the image in the global batch. It is the same if the
image is processed alone, in a batch, or in another host's share of the batch.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from ..choices import require
from . import windows
from .random_numbers import ERASING, normal, uniform
from .rectangles import TRIES, inside, random_sides

DRAWS = 4
"""the number of uniform numbers per image in `scale_crop_flip`: shorter side, top, left, mirror"""
ASPECT = (3 / 4, 4 / 3)
"""the range of width / height in `resized_crop_flip`"""

# The principal components of ImageNet's colors, RGB in 0 to 1: fb.resnet.torch,
# datasets/imagenet.lua.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)
"""one component per column"""


def pad_crop(
    images: tf.Tensor,
    *,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int | tf.Tensor = 0,
    padding: int = 4,
    flip: bool = True,
) -> tf.Tensor:
    """Pad with zeros, crop at random to the original size, and mirror half of the images.

    Section 4.2 of the paper.

    Args:
        images: `[H, W, C]` or `[N, H, W, C]` of any dtype, with the mean subtracted, so that the
            padding is the mean.
        seed: the seed of the training.
        step: the step of the training. Each step gives new views.
        position: the position of the (first) image in the global batch.
        padding: the padding on each side in pixels; the paper has 4 for 32 x 32.
        flip: whether to mirror half of the images left to right.

    Returns:
        The same shape and dtype.
    """
    images = tf.convert_to_tensor(images)
    if images.shape.rank == 3:
        alone = images[tf.newaxis]
        return pad_crop(alone, seed=seed, step=step, position=position, padding=padding, flip=flip)[
            0
        ]
    count, height, width = tf.unstack(tf.shape(images)[:3])
    top, left, mirror = tf.split(uniform(count, 3, seed, step, position), 3, axis=1)
    offsets = 2 * padding + 1
    rows = tf.range(height) + tf.cast(top * offsets, tf.int32)
    columns = tf.range(width)
    if flip:
        columns = tf.where(mirror < 0.5, columns, columns[::-1])
    columns += tf.cast(left * offsets, tf.int32)
    padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    # Two gathers over the whole batch are several times faster than one crop per image.
    cropped = tf.gather(tf.gather(padded, rows, batch_dims=1), columns, axis=2, batch_dims=1)
    return tf.ensure_shape(cropped, images.shape)


def lighting(
    images: tf.Tensor,
    *,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int | tf.Tensor = 0,
    deviation: float = 0.1,
) -> tf.Tensor:
    """Shift the color of each image at random along the principal components.

    AlexNet's color augmentation: one shift for all pixels of an image. Along each component the
    shift is normal, with a standard deviation of `deviation` times the eigenvalue.

    Args:
        images: RGB in 0 to 255, `[H, W, 3]` or `[N, H, W, 3]` of any numeric dtype.
        seed: the seed of the training.
        step: the step of the training. Each step gives new shifts.
        position: the position of the (first) image in the global batch.
        deviation: the standard deviation in eigenvalues; AlexNet has 0.1.

    Returns:
        float32 of the same shape. Values can exceed 0 to 255.
    """
    images = tf.cast(images, tf.float32)
    if images.shape.rank == 3:
        alone = images[tf.newaxis]
        return lighting(alone, seed=seed, step=step, position=position, deviation=deviation)[0]
    # A graph cannot reorder a single product, so rounding is equal inside and outside of tf.data.
    scale = np.float32(255 * deviation) * EIGENVALUES
    shifts = normal(tf.shape(images)[0], 3, seed, step, position) * scale
    # The rounding of a row in `matmul` depends on the number of rows.
    shifts = tf.reduce_sum(shifts[:, tf.newaxis] * EIGENVECTORS, axis=-1)
    return images + shifts[:, tf.newaxis, tf.newaxis]


def scale_crop_flip(
    images: tf.Tensor,
    *,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int | tf.Tensor = 0,
    size: int = 224,
    shorter: tuple[int, int] | None = None,
    aspect: Literal["keep", "stretch"] = "keep",
    antialias: bool = True,
    exif_orientation: bool = False,
) -> tf.Tensor:
    """Resize to a random shorter side, crop a random square, and mirror half of the images.

    Section 3.4 of the paper. Of a JPEG only the window that the square needs is decoded.

    Args:
        images: RGB in 0 to 255, `[H, W, 3]` or `[N, H, W, 3]` of any numeric dtype; or encoded
            images, string `[]` or `[N]`.
        seed: the seed of the training.
        step: the step of the training. Each step gives new views.
        position: the position of the (first) image in the global batch.
        size: the side of the square in pixels.
        shorter: the smallest and largest shorter side, inclusive; by default 8/7 and 15/7 of
            `size`, the paper's 256 and 480 for 224.
        aspect: "keep", or "stretch" to resize both sides to the drawn number of pixels, as in
            `Preprocessing.aspect`.
        antialias: whether the bilinear filter widens when the resize shrinks the image.
        exif_orientation: whether to apply the EXIF orientation of encoded images.

    Returns:
        RGB in 0 to 255, float32 `[size, size, 3]` or `[N, size, size, 3]`.

    Raises:
        ValueError: `shorter` allows a resized image smaller than the square.
    """
    require("aspect", aspect, ("keep", "stretch"))
    shorter = shorter or (round(size * 8 / 7), round(size * 15 / 7))
    if not 0 < size <= shorter[0] <= shorter[1]:
        raise ValueError(
            f"size is {size} and shorter is {shorter}; give 0 < size <= shorter[0] <= shorter[1]"
        )

    def choose(sides: tf.Tensor, draw: tf.Tensor) -> windows.Window:
        crop = random_crop(sides, draw, size=size, shorter=shorter, aspect=aspect)
        return windows.of_resized(sides, *crop, size=size, antialias=antialias)

    place = seed, step, position
    return _views(
        images,
        choose,
        DRAWS,
        place,
        size=size,
        antialias=antialias,
        exif_orientation=exif_orientation,
    )


def resized_crop_flip(
    images: tf.Tensor,
    *,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int | tf.Tensor = 0,
    size: int = 224,
    area: float = 0.08,
    aspect: Literal["keep", "stretch"] = "keep",
    antialias: bool = True,
    exif_orientation: bool = False,
) -> tf.Tensor:
    """Resize a random part of each image to a square, and mirror half of the images.

    Szegedy et al. 2015, section 6, as in torchvision: the area of the part is uniform, and its
    aspect ratio log-uniform between 3/4 and 4/3. The first of ten such parts that fits into the
    image is used. If none fits, it is the largest central part with an aspect ratio in that range.
    Of a JPEG only the part is decoded.

    Args:
        images: RGB in 0 to 255, `[H, W, 3]` or `[N, H, W, 3]` of any numeric dtype; or encoded
            images, string `[]` or `[N]`.
        seed: the seed of the training.
        step: the step of the training. Each step gives new views.
        position: the position of the (first) image in the global batch.
        size: the side of the square in pixels.
        area: the smallest area of the part as a share of the image; 0.08 in the paper.
        aspect: "keep", or "stretch" if the aspect ratio is that of the part after the whole image
            is resized to a square, as in `Preprocessing.aspect`.
        antialias: whether the bilinear filter widens when the resize shrinks the image.
        exif_orientation: whether to apply the EXIF orientation of encoded images.

    Returns:
        RGB in 0 to 255, float32 `[size, size, 3]` or `[N, size, size, 3]`.

    Raises:
        ValueError: the area is not above 0 and at most 1.
    """
    require("aspect", aspect, ("keep", "stretch"))
    if not 0 < area <= 1:
        raise ValueError(f"area is {area}; give a number above 0, at most 1")

    def choose(sides: tf.Tensor, draw: tf.Tensor) -> windows.Window:
        begin, part = random_part(sides, draw, area=area, aspect=aspect)
        return windows.of_part(begin, part, draw[-1] < 0.5, size=size)

    place = seed, step, position
    return _views(
        images,
        choose,
        2 * TRIES + 3,
        place,
        size=size,
        antialias=antialias,
        exif_orientation=exif_orientation,
    )


def random_erasing(
    images: tf.Tensor,
    *,
    seed: int | tf.Tensor,
    step: int | tf.Tensor,
    position: int | tf.Tensor = 0,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 0.33),
) -> tf.Tensor:
    """Set a random rectangle in a share of the images to zero.

    Zhong et al. 2020, as in torchvision: the area is uniform, and the aspect ratio log-uniform
    between 0.3 and 3.3. If none of ten such rectangles fits, the image is unchanged.

    Args:
        images: `[H, W, C]` or `[N, H, W, C]` of any dtype, normalized, so that zero is the mean.
        seed: the seed of the training.
        step: the step of the training. Each step gives new rectangles.
        position: the position of the (first) image in the global batch.
        probability: the share of images that get a rectangle.
        area: the range of the area as a share of the image.

    Returns:
        The same shape and dtype.
    """
    images = tf.convert_to_tensor(images)
    if images.shape.rank == 3:
        return random_erasing(
            images[tf.newaxis],
            seed=seed,
            step=step,
            position=position,
            probability=probability,
            area=area,
        )[0]
    count, sides = tf.shape(images)[0], tf.shape(images)[1:3]
    draws = uniform(count, 2 * TRIES + 3, seed, step, position, ERASING)
    rectangle, fits = random_sides(draws[:, :-3], sides, area=area, aspect=(0.3, 3.3))
    begin = _random_offset(sides - rectangle, draws[:, -3:-1])
    chosen = fits & (draws[:, -1] < probability)
    # The other images get an empty rectangle.
    rectangle = tf.where(chosen[:, tf.newaxis], rectangle, 0)
    kept = ~inside(begin, begin + rectangle, tf.shape(images)[1:])
    # Multiplying is several times faster than `tf.where`.
    return images * tf.ensure_shape(tf.cast(kept, images.dtype), images.shape)


class Crop(NamedTuple):
    """A square of a resized image."""

    resized: tf.Tensor
    """the height and width of the whole image after the resize, int32 `[2]`"""
    offset: tf.Tensor
    """the top and left of the square in the resized image, int32 `[2]`"""
    mirror: tf.Tensor
    """whether to mirror the square, bool `[]`"""


def random_crop(
    sides: tf.Tensor,
    draw: tf.Tensor,
    *,
    size: int,
    shorter: tuple[int, int],
    aspect: Literal["keep", "stretch"] = "keep",
) -> Crop:
    """Compute the random square of an image from its uniform numbers.

    The resized shorter side, top and left are each uniform over all possible integers.

    Args:
        sides: the height and width of the image, int32 `[2]`.
        draw: the image's uniform numbers, float32 `[DRAWS]`.
        size: the side of the square in pixels.
        shorter: the smallest and largest shorter side, inclusive.
        aspect: "keep" or "stretch".
    """
    low, high = shorter
    target = low + tf.cast(draw[0] * (high - low + 1), tf.int32)
    # Integer arithmetic, as in the test view: a float factor can round a side down by one pixel.
    kept = sides * target // tf.reduce_min(sides)
    resized = kept if aspect == "keep" else tf.stack([target, target])
    return Crop(resized, _random_offset(resized - size, draw[1:3]), draw[3] < 0.5)


def random_part(
    sides: tf.Tensor,
    draw: tf.Tensor,
    *,
    area: float,
    aspect: Literal["keep", "stretch"] = "keep",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Compute the random part of an image for `resized_crop_flip` from its uniform numbers.

    Args:
        sides: the height and width of the image, int32 `[2]`.
        draw: the image's uniform numbers, float32 `[2 * TRIES + 3]`.
        area: the smallest area as a share of the image.
        aspect: "keep" or "stretch".

    Returns:
        The top and left, and the height and width of the part, int32 `[2]` each.
    """
    height, width = tf.unstack(tf.cast(sides, tf.float64))
    unit = width / height if aspect == "stretch" else 1.0
    low, high = (tf.cast(bound * unit, tf.float64) for bound in ASPECT)
    part, fits = random_sides(draw[:-3], sides, area=(area, 1.0), aspect=(low, high))
    nearest = tf.clip_by_value(width / height, low, high)
    central = tf.cast(tf.round(tf.stack([width / nearest, height * nearest])), tf.int32)
    central = tf.minimum(central, sides)
    begin = tf.where(fits, _random_offset(sides - part, draw[-3:-1]), (sides - central) // 2)
    return begin, tf.where(fits, part, central)


def _random_offset(largest: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Return offsets from 0 to `largest`, inclusive, from uniform numbers of the same shape."""
    return tf.cast(draws * tf.cast(largest + 1, tf.float32), tf.int32)


def _views(
    images: tf.Tensor,
    choose: Callable[[tf.Tensor, tf.Tensor], windows.Window],
    numbers: int,
    place: tuple[int | tf.Tensor, int | tf.Tensor, int | tf.Tensor],
    **options: Any,
) -> tf.Tensor:
    """Return the window of each image that `choose` computes from `numbers` uniform numbers."""
    images = tf.convert_to_tensor(images)

    def view(pair: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, draw = pair
        return windows.view(image, lambda sides: choose(sides, draw), **options)

    if images.shape.rank == (0 if images.dtype == tf.string else 3):
        return view((images, uniform(1, numbers, *place)[0]))
    draws = uniform(tf.shape(images)[0], numbers, *place)
    return tf.map_fn(view, (images, draws), fn_output_signature=tf.float32)
