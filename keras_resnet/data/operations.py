"""Change the images of a batch by the operations of TrivialAugment and RandAugment.

Each operation takes images, uint8 `[N, H, W, 3]`, and an amount per image, float32 `[N]`. The
results equal those of PIL's ImageOps and ImageEnhance, with which both policies were published.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from .rectangles import inside


def apply(
    name: str, images: tf.Tensor, amounts: tf.Tensor, *, fill: Sequence[int] = (0, 0, 0)
) -> tf.Tensor:
    """Apply one operation to all images.

    Args:
        name: a key of `COLOR` or `AFFINE`.
        images: uint8 `[N, H, W, 3]`.
        amounts: one number per image, float32 `[N]`, whose meaning depends on the operation.
        fill: the color of pixels from outside of the image.

    Returns:
        uint8 `[N, H, W, 3]`.
    """
    if name in COLOR:
        return COLOR[name](images, amounts)
    transforms = AFFINE[name](amounts, tf.shape(images)[1:3])
    return affine(images, transforms, fill=fill)


def identity(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Return the images unchanged. Amounts are ignored."""
    return images


def brightness(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Multiply the pixels by the amount."""
    return _blend(tf.constant(0.0), images, amounts)


def color(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Multiply each pixel's difference from its gray value by the amount."""
    return _blend(_gray(images), images, amounts)


def contrast(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Multiply each pixel's difference from the image's mean gray value by the amount."""
    pixels = tf.reduce_prod(tf.shape(images)[1:3])
    total = tf.reduce_sum(tf.cast(_gray(images), tf.int32), axis=(1, 2, 3), keepdims=True)
    # Rounded to an integer as in PIL. A sum of integers does not depend on the order.
    mean = (2 * total + pixels) // (2 * pixels)
    return _blend(tf.cast(mean, tf.float32), images, amounts)


def sharpness(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Multiply each pixel's difference from the smoothed image by the amount.

    The filter is 3 x 3, with weight 5 in the center and 1 around it. The border is unchanged.
    """
    values, shape = tf.cast(images, tf.float32), tf.shape(images)[1:]
    padded = tf.pad(values, [[0, 0], [1, 1], [1, 1], [0, 0]])
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * values
    smooth = tf.floor(total * np.float32(1 / 13) + 0.5)
    middle = inside(tf.constant([[1, 1]]), shape[tf.newaxis, :2] - 1, shape)
    # Here and below arithmetic is several times faster than `tf.where`.
    return _blend(values + tf.cast(middle, tf.float32) * (smooth - values), images, amounts)


def posterize(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Keep only the highest bits of each value; the amount is their number, 0 to 8."""
    masks = tf.constant([256 - 2 ** (8 - bits) for bits in range(9)], tf.uint8)
    return tf.bitwise.bitwise_and(images, _each(tf.gather(masks, tf.cast(amounts, tf.int32))))


def solarize(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Invert the values that are at least the amount."""
    inverted = tf.cast(tf.cast(images, tf.float32) >= _each(amounts), tf.uint8)
    return tf.bitwise.bitwise_xor(images, 255 * inverted)


def solarize_add(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Add the amount to the values below 128."""
    values = tf.cast(images, tf.int32)
    added = tf.cast(values < 128, tf.int32) * _each(tf.cast(amounts, tf.int32))
    return tf.cast(tf.minimum(values + added, 255), tf.uint8)


def invert(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Invert all values. Amounts are ignored."""
    return 255 - images


def autocontrast(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to 0 to 255. Amounts are ignored."""
    # In float64 as in PIL, because rounding decides whether the largest value becomes 255 or 254.
    values = tf.cast(images, tf.float64)
    lowest = tf.reduce_min(values, axis=(1, 2), keepdims=True)
    highest = tf.reduce_max(values, axis=(1, 2), keepdims=True)
    flat = highest == lowest
    scale = tf.where(flat, tf.ones_like(lowest), 255 / tf.maximum(highest - lowest, 1))
    lowest = tf.where(flat, tf.zeros_like(lowest), lowest)
    return tf.cast(tf.clip_by_value(values * scale - lowest * scale, 0, 255), tf.uint8)


def equalize(images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Flatten the histogram of each channel. Amounts are ignored."""
    count = tf.shape(images)[0]
    channels = tf.reshape(256 * tf.range(3 * count), [count, 1, 1, 3])
    bins = channels + tf.cast(images, tf.int32)
    histogram = tf.math.bincount(
        tf.reshape(bins, [-1]), minlength=768 * count, maxlength=768 * count, dtype=tf.int32
    )
    histogram = tf.reshape(histogram, [-1, 256])
    below = tf.cumsum(histogram, axis=1, exclusive=True)
    # The number of pixels below the largest value of the channel.
    last = tf.reduce_max(tf.where(histogram > 0, below, 0), axis=1, keepdims=True)
    step = last // 255
    flat = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, flat, tf.range(256))
    return tf.gather(tf.reshape(tf.cast(table, tf.uint8), [-1]), bins)


COLOR: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "identity": identity,
    "brightness": brightness,
    "color": color,
    "contrast": contrast,
    "sharpness": sharpness,
    "posterize": posterize,
    "solarize": solarize,
    "solarize_add": solarize_add,
    "invert": invert,
    "autocontrast": autocontrast,
    "equalize": equalize,
}
"""the operations on the values of pixels: functions of images and amounts"""


def shear_x(amounts: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
    """Shift each row by its distance from the top times the amount."""
    one, zero = tf.ones_like(amounts), tf.zeros_like(amounts)
    return tf.stack([one, amounts, zero, zero, one, zero], axis=1)


def shear_y(amounts: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
    """Shift each column by its distance from the left times the amount."""
    one, zero = tf.ones_like(amounts), tf.zeros_like(amounts)
    return tf.stack([one, zero, zero, amounts, one, zero], axis=1)


def translate_x(amounts: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
    """Shift the image to the right by the amount in pixels."""
    one, zero = tf.ones_like(amounts), tf.zeros_like(amounts)
    return tf.stack([one, zero, -amounts, zero, one, zero], axis=1)


def translate_y(amounts: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
    """Shift the image down by the amount in pixels."""
    one, zero = tf.ones_like(amounts), tf.zeros_like(amounts)
    return tf.stack([one, zero, zero, zero, one, -amounts], axis=1)


def rotate(amounts: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
    """Rotate the image about its center by the amount in degrees, counterclockwise."""
    # In float64, because the last bits of sine and cosine depend on the processor's vectors and
    # thus on the batch size. Rounding to float32 removes them.
    angles = tf.cast(amounts, tf.float64) * (np.pi / 180)
    cos, sin = tf.cos(angles), tf.sin(angles)
    y, x = tf.unstack(tf.cast(sides, tf.float64) * 0.5)
    rows = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y]
    return tf.cast(tf.stack(rows, axis=1), tf.float32)


AFFINE: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
    "rotate": rotate,
}
"""the operations on the positions of pixels: functions of amounts and image sides `[2]`, which
return the `transforms` of `affine`"""


def affine(images: tf.Tensor, transforms: tf.Tensor, *, fill: Sequence[int]) -> tf.Tensor:
    """Apply an affine transformation to each image, with the nearest source pixel.

    Args:
        images: uint8 `[N, H, W, 3]`.
        transforms: `(a, b, c, d, e, f)` per image, float32 `[N, 6]`: the pixel at (x, y) comes from
            (ax + by + c, dx + ey + f). The corner of the image is at (0, 0), and the center of the
            first pixel at (0.5, 0.5).
        fill: the color of pixels from outside of the image.

    Returns:
        uint8 `[N, H, W, 3]`.
    """
    a, b, c, d, e, f = tf.unstack(transforms[:, :, tf.newaxis, tf.newaxis], axis=1)
    count, height, width = tf.unstack(tf.shape(images)[:3])
    y = tf.cast(tf.range(height), tf.float32)[:, tf.newaxis] + 0.5
    x = tf.cast(tf.range(width), tf.float32) + 0.5
    column, row = tf.floor(a * x + b * y + c), tf.floor(d * x + e * y + f)
    bottom, right = tf.cast(height - 1, tf.float32), tf.cast(width - 1, tf.float32)
    inner = (column == tf.clip_by_value(column, 0, right)) & (
        row == tf.clip_by_value(row, 0, bottom)
    )
    # A gather of pixels is several times faster than ImageProjectiveTransform. Pixel 0 is the fill
    # color.
    first = (1 + height * width * tf.range(count))[:, tf.newaxis, tf.newaxis]
    indices = first + tf.cast(row, tf.int32) * width + tf.cast(column, tf.int32)
    color = tf.constant([list(fill)], tf.uint8)
    pixels = tf.concat([color, tf.reshape(images, [-1, 3])], axis=0)
    return tf.gather(pixels, indices * tf.cast(inner, tf.int32))


def _each(amounts: tf.Tensor) -> tf.Tensor:
    return amounts[:, tf.newaxis, tf.newaxis, tf.newaxis]


def _gray(images: tf.Tensor) -> tf.Tensor:
    """Return the luma of ITU-R 601-2, rounded to integers, float32 `[N, H, W, 1]`."""
    red, green, blue = tf.split(tf.cast(images, tf.float32), 3, axis=-1)
    # The sums are below 2**24, so float32 is exact.
    return tf.floor((red * 19595 + green * 38470 + blue * 7471 + 32768) * 2.0**-16)


def _blend(base: tf.Tensor, images: tf.Tensor, amounts: tf.Tensor) -> tf.Tensor:
    """Interpolate from `base` (amount 0) to the images (amount 1), or extrapolate."""
    values = base + _each(amounts) * (tf.cast(images, tf.float32) - base)
    # Truncated, as in PIL.
    return tf.cast(tf.clip_by_value(values, 0, 255), tf.uint8)
