"""Decode images in the graph, with one function for training, evaluation and serving.

The formats are those in `FORMATS`, recognized by their first bytes, not by the name of a file.
Refused images raise an error in the graph before they are decoded.
"""

import tensorflow as tf

from . import bmp, gif
from .encoded import FORMATS, is_format, part
from .exif import orientation_of, stored_window, upright

_LIST = "JPEG, PNG, GIF or BMP"
# Unsupported formats: name, offset and magic bytes. TensorFlow 2.21 reads WebP, but servers of
# earlier versions do not.
_OTHERS = (
    ("WebP", 8, b"WEBP"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("AVIF", 4, b"ftypavi"),
    ("HEIC", 4, b"ftyphei"),
    ("HEIC", 4, b"ftypmif1"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 4, b"JXL \r\n"),
    ("JPEG 2000", 4, b"jP  \r\n"),
    ("Photoshop", 0, b"8BPS"),
    ("SVG", 0, b"<svg"),
    ("PDF", 0, b"%PDF"),
)

# Larger images are refused: decoding several at once could exhaust memory.
MAX_PIXELS = 2**26
"""the largest number of pixels in a header: 67 million, 200 MB when decoded"""
MAX_ASPECT = 32
"""the largest ratio of the sides; resizing the shorter side of a narrower image could exhaust
memory"""

DCT = "INTEGER_ACCURATE"
"""the method of JPEG decoding, as in Pillow; TensorFlow's default differs by 1.2 of 255"""
NEIGHBORS = 2
"""pixels around a window of a JPEG that its pixels depend on, if color has half the resolution"""
_END = b"\xff\xd9"


def decode(image_bytes: tf.Tensor, *, exif_orientation: bool = False) -> tf.Tensor:
    """Decode one JPEG, PNG, GIF (its first frame) or BMP to uint8 `[H, W, 3]`.

    Images whose header exceeds `MAX_PIXELS` or `MAX_ASPECT`, other formats, compressed and 16-bit
    BMPs, and damaged or truncated files are refused. A JPEG may lack the two bytes of its end
    marker.

    Args:
        image_bytes: the encoded image, string `[]`.
        exif_orientation: whether to rotate and mirror the image by its EXIF orientation.
    """
    # For every Python value the function would be traced again.
    return _decode(tf.convert_to_tensor(image_bytes, tf.string), exif_orientation)


# Traced once per process, which takes half a second, and stored once in an export.
@tf.function(autograph=False)
def _decode(image_bytes: tf.Tensor, exif_orientation: bool) -> tf.Tensor:
    with tf.control_dependencies([require_bounds(sides_of(image_bytes))]):
        readers = (_jpeg, _png, gif.decode, bmp.decode)
        index = _index(is_format(image_bytes))
        image = tf.switch_case(index, [lambda read=read: read(image_bytes) for read in readers])
    if exif_orientation:
        image = upright(image, orientation_of(image_bytes))
    return tf.ensure_shape(image, [None, None, 3])


def decode_window(
    image_bytes: tf.Tensor,
    begin: tf.Tensor,
    end: tf.Tensor,
    *,
    orientation: tf.Tensor | None = None,
) -> tf.Tensor:
    """Decode a window of one image to uint8 `[h, w, 3]`, with the same pixels as `decode`.

    Of a JPEG only the window is decoded. The size of the image is not limited here: choose the
    window with `sides_of` and `require_bounds`.

    Args:
        image_bytes: the encoded image, string `[]`.
        begin: the top and left of the window, int32 `[2]`.
        end: the bottom and right of the window, within the image, int32 `[2]`.
        orientation: the EXIF orientation, int32 `[]`, for a window of the upright image; None for a
            window of the stored image.
    """
    if orientation is not None:
        stored = stored_window(begin, end, sides_of(image_bytes), orientation)
        return upright(decode_window(image_bytes, *stored), orientation)

    def part_of_jpeg() -> tf.Tensor:
        first = tf.maximum(begin - NEIGHBORS, 0)
        last = tf.minimum(end + NEIGHBORS, sides_of(image_bytes))
        pixels = tf.io.decode_and_crop_jpeg(
            image_bytes, tf.concat([first, last - first], axis=0), channels=3, dct_method=DCT
        )
        return _cut(pixels, begin - first, end - first)

    # Without an end marker, only decoding the whole JPEG shows whether it is truncated.
    complete = tf.io.is_jpeg(image_bytes) & _has_end_marker(image_bytes)
    return tf.cond(complete, part_of_jpeg, lambda: _cut(decode(image_bytes), begin, end))


def sides_of(image_bytes: tf.Tensor) -> tf.Tensor:
    """Return the height and width of one image from its header, int32 `[2]`.

    Args:
        image_bytes: the encoded image, string `[]`, in one of `FORMATS`.
    """

    def of_jpeg() -> tf.Tensor:
        return tf.io.extract_jpeg_shape(image_bytes)[:2]

    def of_png() -> tf.Tensor:
        sides = part(image_bytes, 16, 8)
        return tf.reverse(tf.io.decode_raw(sides, tf.int32, little_endian=False), [0])

    def of_gif() -> tf.Tensor:
        sides = tf.io.decode_raw(part(image_bytes, 6, 4), tf.uint16)
        return tf.reverse(tf.cast(sides, tf.int32), [0])

    def of_bmp() -> tf.Tensor:
        # The height is negative for top-down rows.
        return tf.abs(bmp.read_header(image_bytes).sides)

    known = is_format(image_bytes)
    message = f"no {', '.join(FORMATS)}"
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_any(known), [message])]):
        index = _index(known)
    return tf.ensure_shape(tf.switch_case(index, [of_jpeg, of_png, of_gif, of_bmp]), [2])


def require_bounds(sides: tf.Tensor) -> tf.Operation:
    """Raise an error in the graph if an image exceeds `MAX_PIXELS` or `MAX_ASPECT`.

    Args:
        sides: the height and width in pixels, `[2]`.
    """
    sides = tf.cast(sides, tf.int64)
    shorter, longer = tf.reduce_min(sides), tf.reduce_max(sides)
    good = (shorter > 0) & (longer <= MAX_ASPECT * shorter) & (shorter * longer <= MAX_PIXELS)
    message = (
        f"an image may have {MAX_PIXELS} pixels, and a side {MAX_ASPECT} times the other, but has"
        " sides"
    )
    return tf.debugging.Assert(good, [message, sides])


def refusal(image_bytes: bytes) -> str:
    """Describe for a message why `decode` refuses bytes.

    Args:
        image_bytes: the refused bytes, or the beginning of them.
    """
    for name, place, magic in _OTHERS:
        if image_bytes[place:].startswith(magic):
            return f"{name}; give {_LIST}"
    found = [name for name, magic in FORMATS.items() if image_bytes.startswith(magic)]
    if not found:
        return f"no {_LIST}" if image_bytes else "empty"
    try:
        shorter, longer = sorted(sides_of(tf.constant(image_bytes)).numpy().tolist())
    except tf.errors.OpError:
        return f"a damaged {found[0]}"
    if longer > MAX_ASPECT * shorter:
        return f"{longer} pixels long and {shorter} wide"
    if shorter * longer > MAX_PIXELS:
        return f"{shorter * longer:,} pixels; {MAX_PIXELS:,} at most"
    return {
        "GIF": "a damaged GIF, or one whose first frame does not fill it",
        "BMP": "a damaged BMP, or one that is compressed or of 16 bits",
    }.get(found[0], f"a damaged {found[0]}, or one that is cut off")


def _index(known: tf.Tensor) -> tf.Tensor:
    return tf.argmax(tf.cast(known, tf.int32), output_type=tf.int32)


def _cut(pixels: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    (top, left), (bottom, right) = tf.unstack(begin), tf.unstack(end)
    return pixels[top:bottom, left:right]


def _has_end_marker(jpeg: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(jpeg, -2, 2) == _END


def _jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    def read(jpeg: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_jpeg(jpeg, channels=3, dct_method=DCT)

    def without_end() -> tf.Tensor:
        # The first byte of the marker may be present.
        length = tf.strings.length(image_bytes)
        half = tf.cast(tf.strings.substr(image_bytes, -1, 1) == _END[:1], tf.int32)
        data = tf.strings.substr(image_bytes, 0, length - half)
        # The decoder reads missing bytes as zeros, and appended bytes as pixels. It ignores bytes
        # after the last pixel. So a complete image decodes equally with and without them.
        image, other = (read(tf.strings.join([data, more, _END])) for more in (b"", b"\x55" * 64))
        # The last scan of a progressive JPEG must have begun, include all frequencies to their last
        # bit, and not be followed by a table for another scan.
        scan = tf.strings.split(data, b"\xff\xda")[-1]
        parts = tf.cast(tf.io.decode_raw(scan, tf.uint8), tf.int32)
        header = 256 * parts[0] + parts[1]
        begun = tf.size(parts) > header
        last = (parts[header - 2] == 63) & (parts[header - 1] % 16 == 0)
        table = tf.size(tf.strings.split(scan, b"\xff\xc4")) > 1
        whole = tf.reduce_all(image == other) & begun & last & ~table
        with tf.control_dependencies([tf.debugging.Assert(whole, ["a JPEG that is cut off"])]):
            return tf.identity(image)

    return tf.cond(_has_end_marker(image_bytes), lambda: read(image_bytes), without_end)


def _png(image_bytes: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_png(image_bytes, channels=3)
