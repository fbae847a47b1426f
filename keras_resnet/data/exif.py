"""Read the EXIF orientation of an encoded image, and rotate and mirror images by it."""

import tensorflow as tf

from .encoded import MAX_SEGMENTS, among, is_format, number, part

_EXIF = b"Exif\0\0"
_MOST_EXIF = 2**16
"""the largest size in bytes, as of a JPEG segment"""


def orientation_of(image_bytes: tf.Tensor) -> tf.Tensor:
    """Return the EXIF orientation (EXIF 2.3, 4.6.4 A), int32 `[]`, 1 to 8.

    EXIF is read before the first table of a JPEG, and before the pixels of a PNG. If it is missing
    or damaged, the orientation is 1: upright.

    Args:
        image_bytes: the encoded image, string `[]`, in one of `FORMATS`.
    """

    def nothing() -> tf.Tensor:
        return tf.constant(b"")

    def at(place: tf.Tensor, length: int | tf.Tensor) -> tf.Tensor:
        return part(image_bytes, place, length)

    def jpeg() -> tf.Tensor:
        def is_exif(place: tf.Tensor) -> tf.Tensor:
            return (at(place, 2) == b"\xff\xe1") & (at(place + 4, 6) == _EXIF)

        def is_another(place: tf.Tensor) -> tf.Tensor:
            first, second = tf.unstack(tf.io.decode_raw(at(place, 2), tf.uint8), 2)
            return (first == 0xFF) & ((second // 16 == 0xE) | (second == 0xFE)) & ~is_exif(place)

        def length(place: tf.Tensor) -> tf.Tensor:
            return number(image_bytes, place + 2, tf.uint16, little_endian=False)

        (place,) = tf.while_loop(
            is_another,
            lambda place: (place + 2 + length(place),),
            (tf.constant(2),),
            maximum_iterations=MAX_SEGMENTS,
        )
        # A negative length would return the rest of the file.
        return tf.cond(
            is_exif(place), lambda: at(place + 10, tf.maximum(length(place) - 8, 0)), nothing
        )

    def png() -> tf.Tensor:
        def is_another(place: tf.Tensor) -> tf.Tensor:
            return ~tf.reduce_any(at(place + 4, 4) == tf.constant([b"eXIf", b"IDAT", b"IEND"]))

        def length(place: tf.Tensor) -> tf.Tensor:
            return tf.maximum(number(image_bytes, place, tf.int32, little_endian=False), 0)

        (place,) = tf.while_loop(
            is_another,
            lambda place: (place + 12 + length(place),),
            (tf.constant(8),),
            maximum_iterations=MAX_SEGMENTS,
        )
        found = at(place + 4, 4) == b"eXIf"
        exif = tf.cond(found, lambda: at(place + 8, length(place)), nothing)
        # Some programs write the prefix of a JPEG.
        prefix = tf.where(tf.strings.substr(exif, 0, 6) == _EXIF, 6, 0)
        return tf.strings.substr(exif, prefix, _MOST_EXIF)

    known = is_format(image_bytes)
    exif = tf.cond(known[0], jpeg, lambda: tf.cond(known[1], png, nothing))
    return tf.cond(exif == b"", lambda: tf.constant(1), lambda: _orientation(exif))


def upright_sides(sides: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Return the height and width of the upright image, int32 `[2]`.

    Args:
        sides: the height and width of the stored image, int32 `[2]`.
        orientation: the EXIF orientation, int32 `[]`.
    """
    return tf.where(orientation >= 5, tf.reverse(sides, [0]), sides)


def stored_window(
    begin: tf.Tensor, end: tf.Tensor, sides: tf.Tensor, orientation: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Map a window of the upright image to the stored image.

    Args:
        begin: the top and left of the window, int32 `[2]`.
        end: the bottom and right of the window, int32 `[2]`.
        sides: the height and width of the stored image, int32 `[2]`.
        orientation: the EXIF orientation, int32 `[]`.
    """
    sides, mirrored = upright_sides(sides, orientation), tf.stack(_mirrored(orientation))
    first, last = tf.where(mirrored, sides - end, begin), tf.where(mirrored, sides - begin, end)
    return upright_sides(first, orientation), upright_sides(last, orientation)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotate and mirror a stored image `[H, W, C]` by its EXIF orientation, int32 `[]`."""

    def turned() -> tf.Tensor:
        exchanged = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        dims = tf.stack([*_mirrored(orientation), tf.constant(False)])
        return tf.raw_ops.Reverse(tensor=exchanged, dims=dims)

    return tf.cond(orientation > 1, turned, lambda: image)


def _mirrored(orientation: tf.Tensor) -> list[tf.Tensor]:
    """Return whether rows and columns are mirrored, after transposing if orientation >= 5."""
    return [among(orientation, (3, 4, 7, 8)), among(orientation, (2, 3, 6, 7))]


def _orientation(exif: tf.Tensor) -> tf.Tensor:
    """Return the orientation in the first directory of a TIFF structure, or 1."""
    # Padded with zeros, so that the header can be read for any length.
    length = tf.strings.length(exif)
    data = tf.io.decode_raw(tf.strings.join([exif, b"\0" * 12]), tf.uint8)
    data = tf.cast(data, tf.int32)
    little = tf.strings.substr(exif, 0, 4) == b"II*\0"
    good = little | (tf.strings.substr(exif, 0, 4) == b"MM\0*")
    low, high = tf.where(little, 0, 1), tf.where(little, 1, 0)
    # Of 32-bit numbers the lower half is read. The upper half of the offset must be 0.
    lower, upper = tf.where(little, 0, 2), tf.where(little, 2, 0)

    def value(row: tf.Tensor, place: int | tf.Tensor) -> tf.Tensor:
        return tf.gather(row, place + low, axis=-1) + 256 * tf.gather(row, place + high, axis=-1)

    begin = value(data, 4 + lower)
    begin = tf.where(good & (value(data, 4 + upper) == 0), begin, tf.size(data))
    begin = tf.minimum(begin, tf.size(data) - 2)
    entries = tf.minimum(value(data, begin), tf.maximum(length - begin - 2, 0) // 12)
    rows = tf.reshape(data[begin + 2 : begin + 2 + 12 * entries], [-1, 12])
    kind = value(rows, 2)
    short, long = kind == 3, kind == 4
    values = tf.where(short, value(rows, 8), value(rows, 8 + lower))
    found = (value(rows, 0) == 0x0112) & (short | long) & (value(rows, 4 + lower) == 1)
    found &= (values > 0) & (values <= 8)
    return tf.concat([[1], tf.boolean_mask(values, found)], axis=0)[-1]
