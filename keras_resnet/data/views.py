"""Every augmentation of the training pictures, as pure functions of the pictures and their random numbers.

The pictures of a batch take their random numbers from one draw, row by row: what happens to a picture
is decided by the seed and its place in the global batch, and by nothing else.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from .preprocessing import decode

DRAWS = 4
"""uniform numbers in [0, 1) that `scale_crop_flip` takes for each picture: shorter side, top, left, mirror"""

# The principal components of ImageNet's colours, RGB in 0 to 1: fb.resnet.torch, datasets/imagenet.lua.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32)
EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)
"""one component a column"""


def pad_crop(images: tf.Tensor, padding: int, flip: bool, draws: tf.Tensor) -> tf.Tensor:
    """Section 4.2: pad with zeros on each side, take a random crop of the old size; with `flip`, mirror half of them.

    `images`: `[N, H, W, C]`, already centred so that zero is the mean; `draws`: uniform numbers in [0, 1) for each,
    top, left and mirror, float32 `[N, 3]`. Returns the same shape.
    """
    height, width = tf.unstack(tf.shape(images)[1:3])
    top, left, mirror = tf.split(draws, 3, axis=1)
    positions = 2 * padding + 1
    rows = tf.range(height) + tf.cast(top * positions, tf.int32)
    columns = tf.range(width)
    if flip:
        columns = tf.where(mirror < 0.5, columns, columns[::-1])
    columns += tf.cast(left * positions, tf.int32)
    padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    # Two gathers over the whole batch are several times faster than a crop a picture.
    cropped = tf.gather(tf.gather(padded, rows, batch_dims=1), columns, axis=2, batch_dims=1)
    return tf.ensure_shape(cropped, images.shape)


class Crop(NamedTuple):
    """A square out of a resized picture."""

    resized: tf.Tensor
    """int32 `[2]`, height and width of the whole picture after the resize"""
    offset: tf.Tensor
    """int32 `[2]`, top and left of the square in it"""
    mirror: tf.Tensor
    """bool `[]`"""


def random_crop(sides: tf.Tensor, draw: tf.Tensor, *, size: int, shorter: tuple[int, int]) -> Crop:
    """The square that the uniform numbers `draw`, float32 `[DRAWS]`, choose in a picture of `sides`, int32 `[2]`.

    The shorter side after the resize, top and left are each uniform over all whole numbers that they can be;
    both ends of `shorter` are among them.
    """
    low, high = shorter
    target = low + tf.cast(draw[0] * (high - low + 1), tf.int32)
    # Integer arithmetic, as in the test view: a float factor can round a side down by one pixel.
    resized = sides * target // tf.reduce_min(sides)
    positions = tf.cast(resized - size + 1, tf.float32)
    return Crop(resized, tf.cast(draw[1:3] * positions, tf.int32), draw[3] < 0.5)


def scale_crop_flip(
    image: tf.Tensor,
    draw: tf.Tensor,
    *,
    size: int = 224,
    shorter: tuple[int, int] | None = None,
    antialias: bool = True,
) -> tf.Tensor:
    """Section 3.4: resize to a random shorter side, take a random square of `size` pixels or its mirror image.

    `image`: one encoded picture (its EXIF orientation is ignored), or the pixels themselves, `[H, W, 3]`;
    `draw`: its uniform numbers, float32 `[DRAWS]`; `shorter`: the least and the greatest shorter side, by default
    8/7 and 15/7 of `size` (the paper's 256 and 480 for 224). The resize is bilinear; where it shrinks, the filter
    widens with it unless `antialias` is False. Returns RGB in 0 to 255, float32 `[size, size, 3]`.
    Raises `ValueError` where the square can be larger than the resized picture.
    """
    low, high = shorter or (round(size * 8 / 7), round(size * 15 / 7))
    if not 0 < size <= low <= high:
        raise ValueError(f"size is {size} and shorter is {(low, high)}; give 0 < size <= shorter[0] <= shorter[1]")

    def window(sides: tf.Tensor) -> tuple[Crop, tf.Tensor, tf.Tensor, tf.Tensor]:
        """The crop, old pixels a new pixel, and where the old pixels that the crop is made of begin and end."""
        crop = random_crop(sides, draw, size=size, shorter=(low, high))
        step = tf.cast(sides / crop.resized, tf.float32)
        reach = tf.maximum(step, 1.0) if antialias else 1.0
        begin = tf.cast(tf.floor(tf.cast(crop.offset, tf.float32) * step - reach), tf.int32)
        end = tf.cast(tf.math.ceil(tf.cast(crop.offset + size, tf.float32) * step + reach), tf.int32)
        return crop, step, tf.maximum(begin, 0), tf.minimum(end, sides)

    def part_of_jpeg() -> tuple[tf.Tensor, ...]:
        crop, step, begin, end = window(tf.io.extract_jpeg_shape(image)[:2])
        # The default DCT and chroma filter, as for the test view.
        pixels = tf.io.decode_and_crop_jpeg(image, tf.concat([begin, end - begin], axis=0), channels=3)
        return pixels, crop, step, begin

    def part_of_whole() -> tuple[tf.Tensor, ...]:
        whole = decode(image) if image.dtype == tf.string else image
        crop, step, begin, end = window(tf.shape(whole)[:2])
        return whole[begin[0] : end[0], begin[1] : end[1]], crop, step, begin

    if image.dtype == tf.string:
        pixels, crop, step, begin = tf.cond(tf.io.is_jpeg(image), part_of_jpeg, part_of_whole)
    else:
        pixels, crop, step, begin = part_of_whole()
    if not antialias:
        return _two_taps(pixels, crop, step, begin, size)
    # Enlarging, the filter is two pixels wide with antialiasing too.
    return tf.cond(
        tf.reduce_any(step > 1),
        lambda: _antialiased(pixels, crop, step, begin, size),
        lambda: _two_taps(pixels, crop, step, begin, size),
    )


def _two_taps(pixels: tf.Tensor, crop: Crop, step: tf.Tensor, begin: tf.Tensor, size: int) -> tf.Tensor:
    """The crop out of `pixels`, `[H, W, 3]`, whose corner is at `begin`: between the two nearest old pixels."""
    # A centre can lie up to half a pixel outside of the picture, where the operation would give black.
    # `tf.pad` takes as long as the operation itself to repeat the border, `concat` next to nothing.
    pixels = tf.concat([pixels[:1], pixels, pixels[-1:]], axis=0)
    pixels = tf.concat([pixels[:, :1], pixels, pixels[:, -1:]], axis=1)
    centre = tf.cast(crop.offset, tf.float32) + 0.5
    furthest = tf.cast(tf.shape(pixels)[:2] - 1, tf.float32)
    corner = tf.cast(begin, tf.float32) - 0.5
    first, last = ((at * step - corner) / furthest for at in (centre, centre + (size - 1)))
    # From right to left is the mirror image, and free.
    left, right = tf.unstack(tf.where(crop.mirror, [last[1], first[1]], [first[1], last[1]]))
    box = tf.stack([first[0], left, last[0], right])
    return tf.image.crop_and_resize(pixels[tf.newaxis], box[tf.newaxis], [0], [size, size])[0]


def _antialiased(pixels: tf.Tensor, crop: Crop, step: tf.Tensor, begin: tf.Tensor, size: int) -> tf.Tensor:
    """As `_two_taps`, with a filter that widens as the picture shrinks."""
    shift = tf.cast(begin, tf.float32) / step - tf.cast(crop.offset, tf.float32)
    # The operation is fast along rows of memory and slow across them. So resize the height of a picture one pixel
    # wide, whose channels are the whole row, then turn it and do the same for the width.
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
    picture = tf.ensure_shape(pixels, [size, size, 3])
    return tf.cond(crop.mirror, lambda: tf.reverse(picture, [1]), lambda: picture)


def lighting(images: tf.Tensor, deviation: float, draws: tf.Tensor) -> tf.Tensor:
    """AlexNet's colour shift: to all pixels of a picture, add a random step along each principal component.

    The step is normal, `deviation` (AlexNet: 0.1) times the eigenvalue. `images`: RGB in 0 to 255, float32
    `[N, H, W, 3]`; `draws`: standard normal numbers for each picture, one a component, float32 `[N, 3]`. Returns the
    same shape; values can leave 0 to 255.
    """
    steps = 255 * deviation * draws * EIGENVALUES
    # Not by `matmul`, which rounds a row otherwise with fewer rows beside it.
    return images + tf.reduce_sum(steps[:, tf.newaxis] * EIGENVECTORS, axis=-1)[:, tf.newaxis, tf.newaxis]
