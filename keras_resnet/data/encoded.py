"""Read the format, bytes and numbers of an encoded image in the graph."""

import tensorflow as tf

FORMATS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "GIF": b"GIF8", "BMP": b"BM"}
"""the first bytes of each supported format"""
# Keeps a small file from running the loops of a graph for minutes.
MAX_SEGMENTS = 200
"""the largest number of JPEG segments, PNG chunks and GIF extensions before the image"""


def is_format(image_bytes: tf.Tensor) -> tf.Tensor:
    """Return for each of `FORMATS` whether the bytes begin with its magic, bool `[4]`."""
    return tf.stack(
        [tf.strings.substr(image_bytes, 0, len(magic)) == magic for magic in FORMATS.values()]
    )


def part(image_bytes: tf.Tensor, place: int | tf.Tensor, length: int | tf.Tensor) -> tf.Tensor:
    """Return the bytes at a place, fewer at the end of the file, and none outside of it.

    Outside of it `tf.strings.substr` quotes the bytes, and Python raises a `UnicodeDecodeError`
    instead of TensorFlow's error.
    """
    end = tf.strings.length(image_bytes)
    inside = (place >= 0) & (place <= end)
    return tf.strings.substr(image_bytes, tf.where(inside, place, end), length)


def number(
    image_bytes: tf.Tensor,
    place: int | tf.Tensor,
    kind: tf.DType,
    *,
    little_endian: bool = True,
) -> tf.Tensor:
    """Return the number at an offset, int32 `[]`."""
    raw = tf.io.decode_raw(part(image_bytes, place, kind.size), kind, little_endian=little_endian)
    return tf.cast(raw[0], tf.int32)


def among(value: tf.Tensor, values: tuple[int, ...]) -> tf.Tensor:
    """Return whether a value is one of several, bool `[]`."""
    return tf.reduce_any(value == tf.constant(values))
