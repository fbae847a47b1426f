"""Test the signatures of an export in the C++ loader."""

import io
import struct
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_resnet import data
from keras_resnet.data.preprocessing import (
    Preprocessing,
    normalize,
    resize_and_crop,
)
from keras_resnet.evaluation.evaluate import predictions as evaluated
from keras_resnet.serving.cpp_loader import Call, strings
from keras_resnet.serving.sidecars import BATCH_SIZES, WARM_UP, example, read_batching, read_warm_up

SIGNATURES = {"serving_default", "image_tensor", "features", "tensor", "classify"}


def photograph(height=60, width=90):
    """Return a smooth image, uint8 `[H, W, 3]`, which lossy formats hardly change."""
    colors = np.random.default_rng(0).uniform(0, 255, (5, 5, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_that_declares(width, height):
    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def gif_that_declares(width, height):
    whole = bytearray(encoded(Image.fromarray(photograph()), "GIF"))
    whole[6:10] = struct.pack("<HH", width, height)
    return bytes(whole)


def bmp_that_declares(width, height):
    whole = bytearray(encoded(Image.fromarray(photograph()), "BMP"))
    whole[18:26] = struct.pack("<ii", width, height)
    return bytes(whole)


def jpeg_that_declares(width, height):
    whole = bytearray(encoded(Image.fromarray(photograph()), "JPEG"))
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(whole)


def request(*images):
    return Call(signature="serving_default", inputs={"image_bytes": strings(images)})


def answer(call):
    assert not call.error
    return call.outputs


@pytest.fixture(scope="module")
def network(digits_run):
    """Return a function from images to probabilities, with the run's model and preprocessing."""
    model = keras.models.load_model(digits_run.model_file)
    preprocessing = Preprocessing.read(digits_run.preprocessing_file)

    def network(*images):
        views = tf.concat(
            [resize_and_crop(preprocessing, image[np.newaxis]) for image in images], axis=0
        )
        return tf.nn.softmax(model.predict(normalize(preprocessing, views), verbose=0)).numpy()

    return network


@pytest.mark.slow
def test_served_probabilities_equal_those_of_evaluate(digits_run, exported, ask):
    images = data.load("digits").test.images
    photos = [tf.io.encode_png(image).numpy() for image in images]
    calls = ask(
        exported,
        request(*photos),
        Call(signature="image_tensor", inputs={"images": images}),
        Call(signature="classify", inputs={"inputs": strings(map(example, photos))}),
    )
    wanted, _ = evaluated(digits_run)
    best = np.argsort(-wanted, axis=1, kind="stable")[:, :5]
    for call in calls:
        outputs = answer(call)
        np.testing.assert_allclose(
            outputs["scores"], np.take_along_axis(wanted, best, axis=1), atol=1e-5
        )
        assert (outputs["classes"][:, 0].astype(int) == best[:, 0]).all()
        if call.signature != "classify":
            np.testing.assert_allclose(outputs["probabilities"], wanted, atol=1e-5)
    assert calls[2].outputs.keys() == {"classes", "scores"}


@pytest.mark.slow
def test_tensor_and_features(digits_run, exported, ask):
    model = keras.models.load_model(digits_run.model_file)
    preprocessing = Preprocessing.read(digits_run.preprocessing_file)
    images = data.load("digits").test.images[:20]
    inputs = normalize(preprocessing, images).numpy()
    tensor, features = ask(
        exported,
        Call(signature="tensor", inputs={"inputs": inputs}),
        Call(signature="features", inputs={"images": images}),
    )
    logits = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(answer(tensor)["logits"], logits, atol=1e-5 * np.abs(logits).max())
    classifier = model.get_layer("predictions")
    again = answer(features)["features"] @ classifier.get_weights()[0] + classifier.get_weights()[1]
    np.testing.assert_allclose(again, logits, atol=1e-4)


@pytest.mark.slow
def test_images_of_all_formats_and_sizes_in_one_request(exported, network, ask):
    pixels = photograph()
    image = Image.fromarray(pixels)
    gray = np.asarray(image.convert("L"))
    cmyk = image.convert("CMYK")
    alpha = image.convert("RGBA")
    alpha.putalpha(128)
    wanted = {
        "jpeg": (encoded(image, "JPEG", quality=95), pixels),
        "progressive jpeg": (encoded(image, "JPEG", quality=95, progressive=True), pixels),
        "gray jpeg": (
            encoded(image.convert("L"), "JPEG", quality=95),
            np.stack([gray] * 3, axis=-1),
        ),
        "cmyk jpeg": (encoded(cmyk, "JPEG", quality=95), np.asarray(cmyk.convert("RGB"))),
        "png": (encoded(image, "PNG"), pixels),
        "large png": (
            encoded(image.resize((1800, 1200)), "PNG"),
            np.asarray(image.resize((1800, 1200))),
        ),
        "png of a palette": (
            encoded(image.quantize(256), "PNG"),
            np.asarray(image.quantize(256).convert("RGB")),
        ),
        "png with alpha": (encoded(alpha, "PNG"), pixels),
        "gray png": (encoded(image.convert("L"), "PNG"), np.stack([gray] * 3, axis=-1)),
        "gif": (
            encoded(image.quantize(256), "GIF", save_all=True, append_images=[image.rotate(180)]),
            np.asarray(image.quantize(256).convert("RGB")),
        ),
        "bmp": (encoded(image, "BMP"), pixels),
        "bmp of a palette": (
            encoded(image.quantize(256), "BMP"),
            np.asarray(image.quantize(256).convert("RGB")),
        ),
        "png of 16 bit": (tf.io.encode_png(pixels.astype(np.uint16) * 257).numpy(), pixels),
    }
    (call,) = ask(exported, request(*(photo for photo, _ in wanted.values())))
    probabilities = answer(call)["probabilities"]
    for row, (kind, (_, decoded)) in zip(probabilities, wanted.items(), strict=True):
        # JPEG is lossy, and decoders round differently.
        np.testing.assert_allclose(
            row, network(decoded)[0], atol=0.02 if "jpeg" in kind else 1e-5, err_msg=kind
        )


@pytest.mark.slow
def test_bytes_that_are_not_an_image_do_not_affect_others(exported, network, ask):
    good = photograph()
    png = encoded(Image.fromarray(good), "PNG")
    bad = {
        "nothing": b"",
        "text": b"no image",
        "half a png": png[: len(png) // 2],
        "a png's first bytes": png[:8],
        "a jpeg's first bytes": b"\xff\xd8\xff",
        "wrong magic": b"\0" + png[1:],
        "a png with a flipped bit": png[:-30] + bytes([png[-30] ^ 1]) + png[-29:],
        "giant png": png_that_declares(60_000, 60_000),
        "negative png": png_that_declares(2**31 + 1, 10),
        "giant jpeg": jpeg_that_declares(65_000, 65_000),
        "flat png": png_that_declares(100_000, 1),
        "half a gif": encoded(Image.fromarray(good), "GIF")[:-500],
        "half a bmp": encoded(Image.fromarray(good), "BMP")[:-500],
        "half a jpeg": encoded(Image.fromarray(good), "JPEG")[:-500],
        "webp": encoded(Image.fromarray(good), "WEBP"),
        "giant gif": gif_that_declares(60_000, 60_000),
        "giant bmp": bmp_that_declares(60_000, 60_000),
    }
    mixed = [image for one in bad.values() for image in (one, png)]
    calls = ask(
        exported,
        request(*mixed),
        request(*bad.values()),
        Call(
            signature="classify",
            inputs={"inputs": strings([example(png), b"no example", example(b""), b""])},
        ),
    )
    wanted = network(good)[0]
    with_good_images = answer(calls[0])
    np.testing.assert_allclose(
        with_good_images["probabilities"][1::2], np.tile(wanted, (len(bad), 1)), atol=1e-5
    )
    for outputs in (
        {name: value[::2] for name, value in with_good_images.items()},
        answer(calls[1]),
        {name: value[1:] for name, value in answer(calls[2]).items()},
    ):
        assert all(
            (value == (b"" if name == "classes" else 0)).all() for name, value in outputs.items()
        )
    np.testing.assert_allclose(calls[2].outputs["scores"][0], np.sort(wanted)[::-1][:5], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_of_all_orientations_are_classified_upright(exported, network, ask, kind):
    exif, stored = Image.Exif(), []
    for exif[0x0112] in range(1, 9):
        stored.append(encoded(Image.fromarray(photograph(40, 61)), kind, exif=exif))
    upright = [ImageOps.exif_transpose(Image.open(io.BytesIO(one))) for one in stored]
    assert upright[0].size == (61, 40) and upright[5].size == (40, 61)
    (call,) = ask(exported, request(*stored))
    wanted = network(*map(np.asarray, upright))
    np.testing.assert_allclose(answer(call)["probabilities"], wanted, atol=1e-5)
    assert np.ptp(wanted, axis=0).max() > 0.01, "the orientation matters"


@pytest.mark.slow
def test_a_jpeg_may_lack_only_its_end_marker(exported, ask):
    jpeg = encoded(Image.fromarray(photograph(160, 160)), "JPEG", quality=95)
    cuts = (0, 1, 2, 10, 100, len(jpeg) // 2, len(jpeg) - 300)
    (call,) = ask(exported, request(*(jpeg[: len(jpeg) - cut] for cut in cuts)))
    probabilities = answer(call)["probabilities"]
    assert (probabilities[:3] == probabilities[0]).all() and probabilities[0].any()
    assert (probabilities[3:] == 0).all()


def test_pixels_beyond_the_bounds_are_refused(exported, ask):
    (call,) = ask(
        exported,
        Call(signature="image_tensor", inputs={"images": np.zeros((1, 1, 100, 3), np.uint8)}),
    )
    assert "a side 32 times the other" in call.error


def test_bytes_and_floats_are_resized_to_equal_pixels():
    """Thus a large image need not be converted to float32 first."""
    preprocessing = Preprocessing(resize=40, crop=32, mean=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0))
    image = photograph(333, 500)[np.newaxis]
    bytes_, floats = (
        resize_and_crop(preprocessing, image),
        resize_and_crop(preprocessing, image.astype(np.float32)),
    )
    np.testing.assert_array_equal(bytes_, floats)


@pytest.mark.slow
def test_damaged_files_do_not_affect_others(exported, network, ask):
    """scripts/experiments/mutate.py does the same with a thousand files."""
    random = np.random.default_rng(0)
    good = photograph()
    whole = [encoded(Image.fromarray(good), "JPEG"), encoded(Image.fromarray(good), "PNG")]
    broken = []
    for number in range(60):
        one = bytearray(whole[number % 2])
        for place in random.integers(0, len(one), 1 + number % 5):
            one[place] ^= 1 << random.integers(8)
        broken.append(bytes(one))
    png = whole[1]
    (call,) = ask(exported, request(*(image for one in broken for image in (one, png))))
    outputs = answer(call)
    np.testing.assert_allclose(
        outputs["probabilities"][1::2], np.tile(network(good)[0], (60, 1)), atol=1e-5
    )
    sums = outputs["probabilities"][::2].sum(axis=1)
    assert ((abs(sums - 1) < 1e-5) | (sums == 0)).all()


def test_warm_up_covers_every_signature_and_batch_size(exported):
    seen = [
        (signature, len(next(iter(inputs.values()))))
        for signature, inputs in read_warm_up(exported)
    ]
    assert sorted(seen) == sorted(
        (signature, size) for signature in SIGNATURES for size in BATCH_SIZES
    )
    assert read_batching(exported) == list(BATCH_SIZES)
    # One number is repeated for all pixels; otherwise an image of 224 px would take 600 kB.
    assert (exported / WARM_UP).stat().st_size < 50_000


@pytest.mark.parametrize("size", [1, 11, 12, 40])
def test_a_warm_up_without_a_record_is_damaged(tmp_path, size):
    (tmp_path / WARM_UP).parent.mkdir()
    (tmp_path / WARM_UP).write_bytes(b"\xa5" * size)
    with pytest.raises(ValueError, match=f"{WARM_UP} is damaged"):
        next(read_warm_up(tmp_path))
    (tmp_path / WARM_UP).write_bytes(b"")  # asks for nothing
    assert list(read_warm_up(tmp_path)) == []
