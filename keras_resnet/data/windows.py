"""Decode, resize and mirror only a window of an image."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from .decoding import decode_window, require_bounds, sides_of
from .exif import orientation_of, upright_sides


class Window(NamedTuple):
    """A square of the resized image, and the source pixels it is computed from."""

    begin: tf.Tensor
    """the top and left of the source pixels, int32 `[2]`"""
    end: tf.Tensor
    """the bottom and right of the source pixels, exclusive, int32 `[2]`"""
    step: tf.Tensor
    """the number of source pixels per resized pixel, float32 `[2]`"""
    offset: tf.Tensor
    """the top and left of the square in the resized image, float32 `[2]`"""
    mirror: tf.Tensor
    """whether to mirror the square, bool `[]`"""


def of_part(begin: tf.Tensor, sides: tf.Tensor, mirror: tf.Tensor, *, size: int) -> Window:
    """Return the window that resizes exactly one part of an image to a square.

    Args:
        begin: the top and left of the part, int32 `[2]`.
        sides: the height and width of the part, int32 `[2]`.
        mirror: whether to mirror the square, bool `[]`.
        size: the side of the square in pixels.
    """
    step = tf.cast(sides / size, tf.float32)
    return Window(begin, begin + sides, step, tf.cast(begin, tf.float32) / step, mirror)


def of_resized(
    sides: tf.Tensor,
    resized: tf.Tensor,
    offset: tf.Tensor,
    mirror: tf.Tensor,
    *,
    size: int,
    antialias: bool,
) -> Window:
    """Return the window of a square of the whole resized image.

    Args:
        sides: the height and width of the image, int32 `[2]`.
        resized: the height and width after the resize, int32 `[2]`.
        offset: the top and left of the square in the resized image, int32 `[2]`.
        mirror: whether to mirror the square, bool `[]`.
        size: the side of the square in pixels.
        antialias: whether the filter widens when the resize shrinks the image.
    """
    step = tf.cast(sides / resized, tf.float32)
    reach = tf.maximum(step, 1.0) if antialias else 1.0
    first = tf.cast(offset, tf.float32)
    begin = tf.cast(tf.floor(first * step - reach), tf.int32)
    end = tf.cast(tf.math.ceil(tf.cast(offset + size, tf.float32) * step + reach), tf.int32)
    return Window(tf.maximum(begin, 0), tf.minimum(end, sides), step, first, mirror)


def view(
    image: tf.Tensor,
    choose: Callable[[tf.Tensor], Window],
    *,
    size: int,
    antialias: bool,
    exif_orientation: bool = False,
) -> tf.Tensor:
    """Resize a window of one image with the bilinear filter, decoding only the window of a JPEG.

    Args:
        image: `[H, W, 3]` of any numeric dtype, or encoded, string `[]`.
        choose: a function from the height and width of the image, int32 `[2]`, to the window.
        size: the side of the square in pixels.
        antialias: whether the filter widens when the resize shrinks the image.
        exif_orientation: whether to apply the EXIF orientation of an encoded image.

    Returns:
        float32 `[size, size, 3]`.
    """

    if image.dtype == tf.string:
        sides = sides_of(image)
        with tf.control_dependencies([require_bounds(sides)]):
            orientation = orientation_of(image) if exif_orientation else None
            upright = sides if orientation is None else upright_sides(sides, orientation)
            window = choose(tf.identity(upright))
        pixels = decode_window(image, window.begin, window.end, orientation=orientation)
    else:
        window = choose(tf.shape(image)[:2])
        (top, left), (bottom, right) = tf.unstack(window.begin), tf.unstack(window.end)
        pixels = image[top:bottom, left:right]
    if not antialias:
        return _two_taps(pixels, window, size)
    # When the resize enlarges the image, the antialiased filter is two pixels wide too.
    return tf.cond(
        tf.reduce_any(window.step > 1),
        lambda: _antialiased(pixels, window, size),
        lambda: _two_taps(pixels, window, size),
    )


def _two_taps(pixels: tf.Tensor, window: Window, size: int) -> tf.Tensor:
    """Interpolate between the two nearest pixels of the window, `[H, W, 3]`, in each direction."""
    # The center of a resized pixel can lie up to half a pixel outside of the image, where the
    # operation would return black. `tf.pad` would take as long as the operation to repeat the
    # border; `concat` takes almost no time.
    pixels = tf.concat([pixels[:1], pixels, pixels[-1:]], axis=0)
    pixels = tf.concat([pixels[:, :1], pixels, pixels[:, -1:]], axis=1)
    center = window.offset + 0.5
    largest = tf.cast(tf.shape(pixels)[:2] - 1, tf.float32)
    corner = tf.cast(window.begin, tf.float32) - 0.5
    first, last = ((at * window.step - corner) / largest for at in (center, center + (size - 1)))
    # Reading from right to left mirrors the image at no cost.
    left, right = tf.unstack(tf.where(window.mirror, [last[1], first[1]], [first[1], last[1]]))
    box = tf.stack([first[0], left, last[0], right])
    return tf.image.crop_and_resize(pixels[tf.newaxis], box[tf.newaxis], [0], [size, size])[0]


def _antialiased(pixels: tf.Tensor, window: Window, size: int) -> tf.Tensor:
    """Interpolate with a filter that widens as the image shrinks."""
    step = window.step
    shift = tf.cast(window.begin, tf.float32) / step - window.offset
    # The operation is fast for contiguous memory. So resize the height of an image one pixel wide,
    # with a whole row as its channels, then transpose it and resize the width in the same way.
    for axis in range(2):
        height, width = tf.unstack(tf.shape(pixels)[:2])
        rows = tf.raw_ops.ScaleAndTranslate(
            images=tf.reshape(pixels, [1, height, 1, width * 3]),
            size=[size, 1],
            scale=tf.stack([1 / step[axis], 1.0]),
            translation=tf.stack([shift[axis], 0.0]),
            kernel_type="triangle",
            antialias=True,
        )
        pixels = tf.transpose(tf.reshape(rows, [size, width, 3]), [1, 0, 2])
    image = tf.ensure_shape(pixels, [size, size, 3])
    return tf.cond(window.mirror, lambda: tf.reverse(image, [1]), lambda: image)
