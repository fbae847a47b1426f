"""Compare decoded pixels with Pillow's."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from keras_resnet.data import decoding
from keras_resnet.data.augmentation import resized_crop_flip, scale_crop_flip
from keras_resnet.data.decoding import decode, decode_window, refusal, sides_of
from keras_resnet.data.encoded import FORMATS
from keras_resnet.data.exif import orientation_of, upright_sides

PHOTOGRAPHS = [Image.fromarray(image) for image in load_sample_images().images]


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_pillow(image_bytes):
    """Decode an image with Pillow to uint8 `[H, W, 3]`."""
    return np.asarray(Image.open(io.BytesIO(image_bytes)).convert("RGB"))


# Color subsampling: 4:4:4, 4:2:2, 4:2:0.
JPEGS = [
    {"subsampling": 0},
    {"subsampling": 1},
    {"subsampling": 2},
    {"subsampling": 2, "progressive": True},
    {"subsampling": 2, "quality": 20},
    {"subsampling": 2, "restart_marker_rows": 1},
]


@pytest.mark.parametrize("options", JPEGS, ids=str)
@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_a_jpeg_decodes_as_in_pillow(photograph, options):
    for size in ((640, 427), (131, 97), (33, 50), (7, 1)):
        jpeg = encoded(photograph.resize(size), "JPEG", **options)
        np.testing.assert_array_equal(decode(jpeg), by_pillow(jpeg))
    gray = encoded(photograph.convert("L"), "JPEG")
    np.testing.assert_array_equal(decode(gray), by_pillow(gray))


@pytest.mark.slow
@pytest.mark.parametrize("options", JPEGS, ids=str)
def test_a_window_of_a_jpeg_has_the_pixels_of_the_whole_image(options):
    """Up to its border, at any offset from the blocks of 8 and 16 pixels."""
    jpeg = encoded(PHOTOGRAPHS[0].resize((131, 97)), "JPEG", **options)
    whole, random = by_pillow(jpeg), np.random.default_rng(0)
    corners = [((0, 0), (1, 1)), ((96, 130), (97, 131)), ((0, 0), (97, 131)), ((16, 15), (17, 33))]
    for _ in range(60):
        begin = random.integers(0, whole.shape[:2])
        corners.append((begin, random.integers(begin + 1, np.array(whole.shape[:2]) + 1)))
    for begin, end in corners:
        (top, left), (bottom, right) = begin, end
        window = decode_window(jpeg, *(tf.constant(corner, tf.int32) for corner in (begin, end)))
        np.testing.assert_array_equal(window, whole[top:bottom, left:right])


def bmp(width, height, bits, *, os2=False, downwards=False, compression=0, colors=None):
    """Return a BMP of random pixels, in variants that neither Pillow nor TensorFlow writes."""
    random = np.random.default_rng(0)
    row = (width * bits + 31) // 32 * 4
    entries = (colors or 2**bits) if bits <= 8 else 0
    tall = -height if downwards else height
    if os2:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        header = struct.pack("<IiiHH", 40, width, tall, 1, bits)
        header += struct.pack("<IIiiII", compression, row * height, 0, 0, colors or 0, 0)
    if compression == 3:
        header += struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    palette = random.integers(0, 256, (entries, 3 if os2 else 4), np.uint8).tobytes()
    # Only valid indices of the palette.
    top = colors or 256
    assert top == 256 or bits == 8
    pixels = random.integers(0, top, row * height).astype(np.uint8).tobytes()
    place = 14 + len(header) + len(palette)
    return (
        struct.pack("<2sIHHI", b"BM", place + len(pixels), 0, 0, place) + header + palette + pixels
    )


def kinds_of_images():
    for size in ((37, 22), (64, 64), (1, 3)):
        image = PHOTOGRAPHS[0].resize(size)
        alpha = image.convert("RGBA")
        alpha.putalpha(image.convert("L"))
        few, many = image.quantize(16), image.quantize(200)
        yield "cmyk jpeg", encoded(image.convert("CMYK"), "JPEG")
        yield "png", encoded(image, "PNG")
        yield "png of 1 bit", encoded(image.convert("1"), "PNG")
        yield "png of 4 bits", encoded(few, "PNG", bits=4)
        yield "png of a palette", encoded(many, "PNG", transparency=3)
        yield "png with alpha", encoded(alpha, "PNG")
        yield "gray png with alpha", encoded(alpha.convert("LA"), "PNG")
        yield "gif", encoded(many, "GIF")
        yield "gray gif", encoded(image.convert("L"), "GIF")
        yield "interlaced gif", encoded(many, "GIF", interlace=1)
        yield "transparent gif", encoded(many, "GIF", transparency=3)
        frames = [many.rotate(180), few]
        yield (
            "animated gif",
            encoded(many, "GIF", save_all=True, append_images=frames, comment=b"x"),
        )
        yield "bmp", encoded(image, "BMP")
        yield "bmp of 32 bits", encoded(alpha, "BMP")
        yield "bmp of a palette", encoded(many, "BMP")
        yield "gray bmp", encoded(image.convert("L"), "BMP")
        yield "black and white bmp", encoded(image.convert("1"), "BMP")
    for bits in (1, 4, 8, 24, 32):
        for width in (1, 7, 8, 21):
            yield f"bmp of {bits} bits", bmp(width, 5, bits)
            yield f"bmp of {bits} bits, downwards", bmp(width, 5, bits, downwards=True)
            if bits != 32:
                yield f"bmp of OS/2, {bits} bits", bmp(width, 5, bits, os2=True)
    yield "bmp with masks", bmp(9, 5, 32, compression=3)
    yield "bmp of 100 colors", bmp(9, 5, 8, colors=100)


@pytest.mark.parametrize(("kind", "image_bytes"), list(kinds_of_images()))
def test_all_kinds_decode_as_in_pillow(kind, image_bytes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of transparency in a palette
        wanted = by_pillow(image_bytes)
    np.testing.assert_array_equal(decode(image_bytes), wanted)
    assert tuple(sides_of(image_bytes)) == wanted.shape[:2]
    begin, end = (np.array(wanted.shape[:2]) * share // 4 for share in (1, 4))
    window = decode_window(image_bytes, *(tf.constant(c, tf.int32) for c in (begin, end)))
    np.testing.assert_array_equal(window, wanted[begin[0] :, begin[1] :])


def gif_of_frames(width, height, count):
    """Return a GIF with an empty frame and `count` frames that declare 65,535 x 65,535 pixels."""
    one = encoded(Image.new("P", (width, height)), "GIF")
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x08\x01\x00\x00"
    return one[:-1] + count * frame + b";"


def test_the_other_frames_of_a_gif_are_not_decoded():
    """Each would take 4 GB or more."""
    assert decode(gif_of_frames(5, 4, 100)).shape == (4, 5, 3)


def small_first_frame():
    gif = bytearray(encoded(Image.new("P", (9, 9)), "GIF"))
    place = gif.index(b",") + 5
    gif[place : place + 2] = struct.pack("<H", 8)
    return bytes(gif)


PNG = encoded(PHOTOGRAPHS[0].resize((60, 40)), "PNG")
JPEG = encoded(PHOTOGRAPHS[0].resize((60, 40)), "JPEG")
REFUSED = {
    "empty": (b"", "empty"),
    "text": (b"no image at all", "no JPEG, PNG, GIF or BMP"),
    "webp": (encoded(PHOTOGRAPHS[0], "WEBP"), "WebP; give JPEG, PNG, GIF or BMP"),
    "tiff": (encoded(PHOTOGRAPHS[0].resize((9, 9)), "TIFF"), "TIFF; give"),
    "jpeg 2000": (encoded(PHOTOGRAPHS[0].resize((9, 9)), "JPEG2000"), "JPEG 2000; give"),
    "avif": (b"\0\0\0\x20ftypavif" + bytes(99), "AVIF; give"),
    "heic": (b"\0\0\0\x20ftypheic" + bytes(99), "HEIC; give"),
    "bmp of 16 bits": (bmp(9, 5, 16), "a damaged BMP, or one that is compressed or of 16 bits"),
    "compressed bmp": (bmp(9, 5, 8, compression=1), "compressed or of 16 bits"),
    "half a bmp": (bmp(9, 5, 24)[:-9], "a damaged BMP"),
    "gif with a small first frame": (small_first_frame(), "whose first frame does not fill it"),
    "half a gif": (encoded(PHOTOGRAPHS[0].quantize(), "GIF")[:999], "a damaged GIF"),
    "half a png": (PNG[:999], "a damaged PNG, or one that is cut off"),
    "half a jpeg": (JPEG[:999], "a damaged JPEG, or one that is cut off"),
    "a jpeg's first bytes": (JPEG[:20], "a damaged JPEG"),
    "long png": (encoded(Image.new("1", (66, 2)), "PNG"), "66 pixels long and 2 wide"),
    "flat bmp": (bmp(66, 2, 8), "66 pixels long and 2 wide"),
}


@pytest.mark.parametrize(("image_bytes", "reason"), REFUSED.values(), ids=REFUSED)
def test_refusals_are_named_and_equal_in_all_views(image_bytes, reason):
    """In the test view, and in training views, which read windows."""
    with pytest.raises(tf.errors.OpError):
        decode(image_bytes)
    with pytest.raises(tf.errors.OpError):
        scale_crop_flip(tf.constant(image_bytes), seed=0, step=0, size=8)
    assert reason in refusal(image_bytes)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_first_bytes_of_a_file_are_refused(kind):
    """A message that quoted the bytes would raise a `UnicodeDecodeError` instead."""
    image = encoded(PHOTOGRAPHS[0].resize((60, 40)), kind)
    for length in range(len(FORMATS[kind]), 60):
        for exif_orientation in (False, True):
            with pytest.raises(tf.errors.OpError):
                decode(image[:length], exif_orientation=exif_orientation)
        assert "a damaged" in refusal(image[:length])


@pytest.mark.parametrize("kind", FORMATS)
def test_large_images_are_refused_before_they_are_decoded(kind, monkeypatch):
    def must_not_be_called(*_, **__):
        raise AssertionError("decoded")

    image = encoded(Image.new("L", (300, 300)), kind)
    monkeypatch.setattr(decoding, "_decode", decoding._decode.python_function)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 300 * 300)
    decode(image)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 300 * 300 - 1)
    for reader in ("_jpeg", "_png", "gif.decode", "bmp.decode"):
        monkeypatch.setattr(f"keras_resnet.data.decoding.{reader}", must_not_be_called)
    with pytest.raises(tf.errors.InvalidArgumentError, match="may have 89999 pixels"):
        decode(image)
    assert refusal(image) == "90,000 pixels; 89,999 at most"


def test_a_png_of_484_megapixels_takes_no_memory():
    """A file of a few bytes declares this size: only its header can be read."""

    def chunk(name, body):
        crc = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + crc

    header = struct.pack(">IIBBBBB", 22_000, 22_000, 8, 2, 0, 0, 0)
    png = FORMATS["PNG"] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="67108864 pixels"):
        decode(png)
    assert refusal(png) == "484,000,000 pixels; 67,108,864 at most"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_a_jpeg_without_its_end_marker_is_decoded(options):
    """A JPEG that lacks more is refused, even if other bytes follow."""
    image = PHOTOGRAPHS[1].resize((131, 97))
    jpeg = encoded(image, "JPEG", quality=90, **options)
    whole = by_pillow(jpeg)
    window = tf.constant([20, 30]), tf.constant([61, 90])
    for same in (jpeg[:-1], jpeg[:-2], jpeg + b"trailer"):
        np.testing.assert_array_equal(decode(same), whole)
        np.testing.assert_array_equal(decode_window(same, *window), whole[20:61, 30:90])
    for cut in (8, 20, 100, len(jpeg) // 2):
        for after in (b"", b"\xff"):
            with pytest.raises(tf.errors.OpError):
                decode(jpeg[:-cut] + after)
            with pytest.raises(tf.errors.OpError):
                decode_window(jpeg[:-cut] + after, *window)


# EXIF 2.3, 4.6.4 A: the sides of the upright image where the first row and first column are.
ORIENTATIONS = range(1, 9)


def exif(orientation, *, order="<", kind=3, number=1, before=0, place=8):
    """Return EXIF without `Exif\\0\\0`, with `number` orientations in an entry after others."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {3: "HH", 4: "I"}[kind], orientation, *([0] if kind == 3 else []))
    entries = [
        struct.pack(order + "HHI", 0xC000 + other, 3, 1) + bytes(4) for other in range(before)
    ]
    entries.append(struct.pack(order + "HHI", 0x0112, kind, number) + value)
    count = struct.pack(order + "H", len(entries))
    return mark + struct.pack(order + "I", place) + bytes(place - 8) + count + b"".join(entries)


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_exif(image_bytes, tiff, *, before=b"", prefix=b""):
    """Insert EXIF into a JPEG or PNG, after other segments."""
    if image_bytes.startswith(FORMATS["PNG"]):
        first = 8 + 25  # after IHDR
        inserted = before + chunk(b"eXIf", prefix + tiff)
    else:
        first = 2
        inserted = before + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    return image_bytes[:first] + inserted + image_bytes[first:]


def upright_by_pillow(image_bytes):
    image = Image.open(io.BytesIO(image_bytes))
    return np.asarray(ImageOps.exif_transpose(image.convert("RGB")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_orientation_is_applied_as_in_pillow(kind, orientation):
    """To whole images and to windows, which are read from the stored image."""
    stored = encoded(PHOTOGRAPHS[0].resize((61, 40)), kind)
    image_bytes = with_exif(stored, exif(orientation))
    wanted = upright_by_pillow(image_bytes)
    assert orientation_of(image_bytes) == orientation
    np.testing.assert_array_equal(decode(image_bytes, exif_orientation=True), wanted)
    np.testing.assert_array_equal(decode(image_bytes), decode(stored))
    number = tf.constant(orientation)
    assert tuple(upright_sides(sides_of(image_bytes), number)) == wanted.shape[:2]
    random = np.random.default_rng(orientation)
    for _ in range(10):
        begin = random.integers(0, wanted.shape[:2])
        end = random.integers(begin + 1, np.array(wanted.shape[:2]) + 1)
        corners = (tf.constant(corner, tf.int32) for corner in (begin, end))
        window = decode_window(image_bytes, *corners, orientation=number)
        np.testing.assert_array_equal(window, wanted[begin[0] : end[0], begin[1] : end[1]])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_training_views_equal_those_of_the_upright_image(kind, orientation):
    image_bytes = with_exif(encoded(PHOTOGRAPHS[0].resize((61, 40)), kind), exif(orientation))
    upright = tf.constant(upright_by_pillow(image_bytes))
    for view in (scale_crop_flip, resized_crop_flip):
        for step in range(3):
            options = {"seed": 0, "step": step, "size": 16}
            np.testing.assert_array_equal(
                view(tf.constant(image_bytes), exif_orientation=True, **options),
                view(upright, **options),
            )


XMP = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='3'/> Exif\0\0" + exif(3)
SEGMENTS = {
    "JPEG": b"\xff\xfe\0\x09comment" + b"\xff\xe1" + struct.pack(">H", len(XMP) + 2) + XMP,
    "PNG": chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"tEXt", b"Comment\0eXIf IDAT"),
}


@pytest.mark.parametrize("kind", SEGMENTS)
@pytest.mark.parametrize(
    "options",
    [{"order": ">"}, {"order": ">", "kind": 4}, {"kind": 4}, {"before": 30}, {"place": 5000}],
    ids=str,
)
def test_exif_is_found_at_all_allowed_positions(kind, options):
    stored = encoded(PHOTOGRAPHS[0].resize((9, 9)), kind)
    image_bytes = with_exif(stored, exif(6, **options), before=SEGMENTS[kind])
    assert orientation_of(image_bytes) == 6
    np.testing.assert_array_equal(
        decode(image_bytes, exif_orientation=True), upright_by_pillow(image_bytes)
    )
    if kind == "PNG":
        assert orientation_of(with_exif(stored, exif(6, **options), prefix=b"Exif\0\0")) == 6


SILENT = {
    "empty": b"",
    "two bytes": b"II",
    "only a header": exif(6)[:8],
    "no whole entry": exif(6)[:12],
    "an entry without its last byte": exif(6)[:-1],
    "a long entry cut in its value": exif(6, kind=4)[:-2],
    "orientation 0": exif(0),
    "orientation 9": exif(9),
    "no orientations": exif(6, number=0),
    "two orientations": exif(6, number=2),
    "orientation of another type": exif(6, kind=4).replace(b"\4\0\1", b"\2\0\1"),
    "no entries": exif(6)[:8] + bytes(2) + exif(6)[10:],
    "an empty entry": exif(6)[:10] + bytes(12),
    "65,535 entries, of which none is there": exif(6)[:8] + b"\xff" * 2,
    "directory just beyond the end": exif(6)[:4] + struct.pack("<I", 22) + exif(6)[8:],
    "directory beyond the end": exif(6)[:4] + struct.pack("<I", 0xFFFF) + exif(6)[8:],
    "directory beyond 4 GB": exif(6)[:4] + b"\xff" * 4 + exif(6)[8:],
    "directory beyond 64 kB": exif(6)[:4] + struct.pack("<I", 0x10008) + exif(6)[8:],
    "no byte order": b"IIII" + exif(6)[4:],
    "the wrong byte order": b"MM\0*" + exif(6)[4:],
    "half of each byte order": b"IM*\0" + exif(6)[4:],
    "another number than 42": b"II+\0" + exif(6)[4:],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SEGMENTS)
@pytest.mark.parametrize("tiff", SILENT.values(), ids=SILENT)
def test_exif_without_a_valid_orientation_is_upright(kind, tiff):
    stored = encoded(PHOTOGRAPHS[0].resize((9, 5)), kind)
    image_bytes, wanted = with_exif(stored, tiff), by_pillow(stored)
    assert orientation_of(image_bytes) == 1
    np.testing.assert_array_equal(decode(image_bytes, exif_orientation=True), wanted)
    options = {"seed": 0, "step": 0, "size": 8, "exif_orientation": True}
    np.testing.assert_array_equal(
        scale_crop_flip(tf.constant(image_bytes), **options),
        scale_crop_flip(tf.constant(stored), **options),
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_without_exif_an_image_is_upright(kind):
    """XMP, and EXIF after the image, are ignored."""
    stored = encoded(PHOTOGRAPHS[0].resize((9, 5)), kind)
    assert orientation_of(stored) == 1
    others = with_exif(stored, b"", before=SEGMENTS[kind]) if kind in SEGMENTS else stored
    for image_bytes in (others, stored + b"\xff\xe1\0\x28Exif\0\0" + exif(6)):
        assert orientation_of(image_bytes) == 1
        np.testing.assert_array_equal(decode(image_bytes, exif_orientation=True), decode(stored))


@pytest.mark.parametrize("length", [0, 2, 7, 8])
def test_a_segment_that_is_too_short_for_its_exif(length):
    """The bytes after it look like EXIF, but are not."""
    jpeg = encoded(PHOTOGRAPHS[0].resize((9, 5)), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", length) + b"Exif\0\0" + exif(6)
    image_bytes = jpeg[:2] + segment + jpeg[2:]
    assert orientation_of(image_bytes) == 1
    np.testing.assert_array_equal(decode(image_bytes, exif_orientation=True), decode(jpeg))
