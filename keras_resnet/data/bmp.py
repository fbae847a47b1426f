"""Decode a BMP that is not compressed, of any number of colors."""

from typing import NamedTuple

import tensorflow as tf

from .encoded import among, number, part

_BGRX = b"\0\0\xff\0\0\xff\0\0\xff\0\0\0"
"""the masks of red, green and blue"""


class Header(NamedTuple):
    """The fields of the header of a BMP, int32."""

    size: tf.Tensor
    """the size of the second part of the header in bytes"""
    sides: tf.Tensor
    """the height and width, `[2]`; the height is negative if the first row is the top one"""
    bits: tf.Tensor
    """the number of bits per pixel"""
    compression: tf.Tensor
    """0: none; 3: none, with masks of the channels"""
    colors: tf.Tensor
    """the number of colors in the palette; 0: the largest for `bits`"""


def read_header(image_bytes: tf.Tensor) -> Header:
    """Read the header of a BMP in the form of Windows or OS/2."""

    def at(place: int, kind: tf.DType = tf.int32) -> tf.Tensor:
        return number(image_bytes, place, kind)

    def of_os2() -> list[tf.Tensor]:
        return [at(20, tf.uint16), at(18, tf.uint16), at(24, tf.uint16), *zeros]

    def of_windows() -> list[tf.Tensor]:
        return [at(22), at(18), at(28, tf.uint16), at(30), at(46)]

    zeros = [tf.constant(0), tf.constant(0)]
    size = at(14)
    height, width, *others = tf.cond(size == 12, of_os2, of_windows)
    return Header(size, tf.stack([height, width]), *others)


def decode(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decode a BMP to uint8 `[H, W, 3]`.

    TensorFlow's operation is not used: it reads palette indices as gray values.
    """
    header = read_header(image_bytes)
    size, bits = header.size, header.bits
    height, width = tf.unstack(tf.abs(header.sides))
    masks = tf.cond(
        header.compression == 3,
        lambda: part(image_bytes, 54, 12) == _BGRX,
        lambda: tf.constant(False),
    )
    plain = (header.compression == 0) | ((bits == 32) & masks)
    good = plain & among(bits, (1, 4, 8, 24, 32)) & among(size, (12, 40, 52, 56, 64, 108, 124))
    message = "a BMP of another kind: bytes of header, bits, compression"
    known = tf.debugging.Assert(good, [message, size, bits, header.compression])
    with tf.control_dependencies([known]):
        row = (width * bits + 31) // 32 * 4
    place = number(image_bytes, 10, tf.int32)
    rows = tf.io.decode_raw(part(image_bytes, place, row * height), tf.uint8)
    rows = tf.reshape(rows, [height, row])
    rows = tf.cond(header.sides[0] > 0, lambda: tf.reverse(rows, [0]), lambda: rows)

    def of_palette() -> tf.Tensor:
        entry = tf.where(size == 12, 3, 4)
        colors = tf.where(header.colors > 0, header.colors, tf.bitwise.left_shift(1, bits))
        palette = part(image_bytes, 14 + size, entry * colors)
        palette = tf.reshape(tf.io.decode_raw(palette, tf.uint8), [colors, entry])
        first = tf.range(width) * bits
        indices = tf.cast(tf.gather(rows, first // 8, axis=1), tf.int32)
        indices = tf.bitwise.right_shift(indices, 8 - bits - first % 8)
        indices = tf.bitwise.bitwise_and(indices, tf.bitwise.left_shift(1, bits) - 1)
        return tf.gather(palette[:, 2::-1], indices)

    def of_channels() -> tf.Tensor:
        channels = bits // 8
        return tf.reshape(rows[:, : width * channels], [height, width, channels])[:, :, 2::-1]

    return tf.cond(bits <= 8, of_palette, of_channels)
