"""Decode the first frame of a GIF."""

import tensorflow as tf

from .encoded import MAX_SEGMENTS, part

_MOST_BLOCKS = 2**16
"""the largest number of blocks of 255 bytes in the frame"""


def decode(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decode the first frame of a GIF to uint8 `[H, W, 3]`.

    The frame is extracted first, because TensorFlow would decode all frames, whose number no header
    limits, and would make transparent pixels black.
    """
    data = tf.cast(tf.io.decode_raw(image_bytes, tf.uint8), tf.int32)

    def table(flags: tf.Tensor) -> tf.Tensor:
        """Return the size of a color table in bytes."""
        size = tf.bitwise.left_shift(6, tf.bitwise.bitwise_and(flags, 7))
        return tf.where(flags >= 128, size, 0)

    def after_blocks(place: tf.Tensor) -> tf.Tensor:
        """Return the offset after a list of blocks, each preceded by its length, and a final 0."""
        (place,) = tf.while_loop(
            lambda place: data[place] > 0,
            lambda place: (place + data[place] + 1,),
            (place,),
            maximum_iterations=_MOST_BLOCKS,
        )
        return place + 1

    header = 13 + table(data[10])
    (begin,) = tf.while_loop(
        lambda place: data[place] == 0x21,  # an extension
        lambda place: (after_blocks(place + 2),),
        (header,),
        maximum_iterations=MAX_SEGMENTS,
    )
    place = part(image_bytes, begin + 1, 8)
    fills = place == tf.strings.join([b"\0" * 4, part(image_bytes, 6, 4)])
    good = (data[begin] == 0x2C) & fills
    with tf.control_dependencies([tf.debugging.Assert(good, ["a GIF without a whole frame"])]):
        end = after_blocks(begin + 11 + table(data[begin + 9]))
    with tf.control_dependencies([tf.debugging.Assert(data[end - 1] == 0, ["a GIF in pieces"])]):
        pieces = (part(image_bytes, 0, header), part(image_bytes, begin, end - begin))
    frame = tf.strings.join([*pieces, b";"])
    return tf.io.decode_gif(frame)[0]
