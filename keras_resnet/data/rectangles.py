"""Draw random rectangles in images, for crops, erasing and CutMix."""

import tensorflow as tf

TRIES = 10
"""the number of random rectangles; the first that fits into the image is used, as in torchvision"""


def random_sides(
    draws: tf.Tensor,
    sides: tf.Tensor,
    *,
    area: tuple[float, float],
    aspect: tuple[float | tf.Tensor, float | tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draw the sides of a rectangle by area and aspect ratio.

    The area is uniform, and the aspect ratio log-uniform. The first of `TRIES` rectangles that fits
    into the image is used.

    Args:
        draws: uniform numbers, float32 `[..., TRIES * 2]`.
        sides: the height and width of the image, int32 `[2]`.
        area: the range of the area as a share of the image.
        aspect: the range of width / height.

    Returns:
        `(sides int32 [..., 2], fits bool [...])`: the height and width, and whether any rectangle
        fits. If none fits, the sides are those of the last one.
    """
    draws = tf.reshape(draws, tf.concat([tf.shape(draws)[:-1], [TRIES, 2]], axis=0))
    # In float64, because the last bits of the exponential depend on the processor's vectors and
    # thus on the batch size. Rounding to pixels removes them.
    draws = tf.cast(draws, tf.float64)
    low, high = (tf.math.log(tf.cast(bound, tf.float64)) for bound in aspect)
    ratios = tf.exp(low + draws[..., 1] * (high - low))
    shares = area[0] + draws[..., 0] * (area[1] - area[0])
    pixels = shares * tf.cast(tf.reduce_prod(sides), tf.float64)
    tried = tf.cast(
        tf.round(tf.sqrt(tf.stack([pixels / ratios, pixels * ratios], axis=-1))), tf.int32
    )
    fitting = tf.reduce_all((tried > 0) & (tried <= sides), axis=-1)
    # `argmax` does not guarantee to return the first of equal values.
    first = tf.reduce_min(tf.where(fitting, tf.range(TRIES), TRIES - 1), axis=-1)
    chosen = tf.gather(tried, first, axis=-2, batch_dims=first.shape.rank)
    return chosen, tf.reduce_any(fitting, axis=-1)


def inside(begin: tf.Tensor, end: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Return a mask of the values inside each image's rectangle.

    Args:
        begin: the top and left, int32 `[N, 2]`.
        end: the bottom and right, exclusive, int32 `[N, 2]`.
        shape: the height H, width W and channels C of the images, int32 `[3]`.

    Returns:
        bool `[N, H, W, C]`.
    """
    height, width, channels = tf.unstack(shape)
    rows, columns = (
        (indices >= begin[:, axis, tf.newaxis]) & (indices < end[:, axis, tf.newaxis])
        for axis, indices in enumerate((tf.range(height), tf.repeat(tf.range(width), channels)))
    )
    # A mask per channel is several times faster than broadcasting one per pixel, here and where the
    # mask is used.
    return tf.reshape(rows[:, :, tf.newaxis] & columns[:, tf.newaxis], [-1, *tf.unstack(shape)])
