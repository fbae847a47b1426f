"""The signatures of an export, asked through the C++ loader."""

import io
import struct
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet import data
from keras_resnet.cpp_loader import Call, strings
from keras_resnet.evaluate import test_probabilities as evaluated_probabilities
from keras_resnet.serving_files import BATCH_SIZES, WARM_UP, example, read_batching, read_warm_up

SIGNATURES = {"serving_default", "image_tensor", "features", "tensor", "classify"}


def photograph(height=60, width=90):
    """Smooth, so that lossy kinds hardly change it: uint8 `[H, W, 3]`."""
    colours = np.random.default_rng(0).uniform(0, 255, (5, 5, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_that_declares(width, height):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_that_declares(width, height):
    whole = bytearray(encoded(Image.fromarray(photograph()), "JPEG"))
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(whole)


def request(*pictures):
    return Call(signature="serving_default", inputs={"image_bytes": strings(pictures)})


def answer(call):
    assert not call.error
    return call.outputs


@pytest.fixture(scope="module")
def network(digits_run):
    """Pictures to probabilities by the run's own network and `data`'s functions, which `evaluate` calls."""
    model = keras.models.load_model(digits_run.model_file)
    preprocessing = data.Preprocessing.read(digits_run.preprocessing_file)

    def network(*pictures):
        views = tf.concat([data.test_view(preprocessing, picture[np.newaxis]) for picture in pictures], axis=0)
        return tf.nn.softmax(model.predict(data.normalize(preprocessing, views), verbose=0)).numpy()

    return network


def test_a_server_answers_with_the_probabilities_that_evaluate_saw(digits_run, exported, ask):
    images = data.load("digits").test.images
    pictures = [tf.io.encode_png(image).numpy() for image in images]
    calls = ask(
        exported,
        request(*pictures),
        Call(signature="image_tensor", inputs={"images": images}),
        Call(signature="classify", inputs={"inputs": strings(map(example, pictures))}),
    )
    wanted, _ = evaluated_probabilities(digits_run)
    best = np.argsort(-wanted, axis=1, kind="stable")[:, :5]
    for call in calls:
        outputs = answer(call)
        np.testing.assert_allclose(outputs["scores"], np.take_along_axis(wanted, best, axis=1), atol=1e-5)
        assert (outputs["classes"][:, 0].astype(int) == best[:, 0]).all()
        if call.signature != "classify":
            np.testing.assert_allclose(outputs["probabilities"], wanted, atol=1e-5)
    assert calls[2].outputs.keys() == {"classes", "scores"}


def test_tensor_and_features(digits_run, exported, ask):
    model = keras.models.load_model(digits_run.model_file)
    preprocessing = data.Preprocessing.read(digits_run.preprocessing_file)
    images = data.load("digits").test.images[:20]
    inputs = data.normalize(preprocessing, images).numpy()
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


def test_pictures_of_all_kinds_and_sizes_in_one_request(exported, network, ask):
    pixels = photograph()
    image = Image.fromarray(pixels)
    grey = np.asarray(image.convert("L"))
    cmyk = image.convert("CMYK")
    alpha = image.convert("RGBA")
    alpha.putalpha(128)
    wanted = {
        "jpeg": (encoded(image, "JPEG", quality=95), pixels),
        "progressive jpeg": (encoded(image, "JPEG", quality=95, progressive=True), pixels),
        "grey jpeg": (encoded(image.convert("L"), "JPEG", quality=95), np.stack([grey] * 3, axis=-1)),
        "cmyk jpeg": (encoded(cmyk, "JPEG", quality=95), np.asarray(cmyk.convert("RGB"))),
        "png": (encoded(image, "PNG"), pixels),
        "large png": (encoded(image.resize((1800, 1200)), "PNG"), np.asarray(image.resize((1800, 1200)))),
        "png of a palette": (encoded(image.quantize(256), "PNG"), np.asarray(image.quantize(256).convert("RGB"))),
        "png with alpha": (encoded(alpha, "PNG"), pixels),
        "grey png": (encoded(image.convert("L"), "PNG"), np.stack([grey] * 3, axis=-1)),
        "png of 16 bit": (tf.io.encode_png(pixels.astype(np.uint16) * 257).numpy(), pixels),
    }
    (call,) = ask(exported, request(*(picture for picture, _ in wanted.values())))
    probabilities = answer(call)["probabilities"]
    for row, (kind, (_, decoded)) in zip(probabilities, wanted.items(), strict=True):
        # JPEG is lossy, and its decoders round in different ways.
        np.testing.assert_allclose(row, network(decoded)[0], atol=0.02 if "jpeg" in kind else 1e-5, err_msg=kind)


def test_what_is_no_picture_leaves_the_others_alone(exported, network, ask):
    good = photograph()
    png = encoded(Image.fromarray(good), "PNG")
    bad = {
        "nothing": b"",
        "text": b"no picture",
        "half a png": png[: len(png) // 2],
        "a png's first bytes": png[:8],
        "a jpeg's first bytes": b"\xff\xd8\xff",
        "wrong magic": b"\0" + png[1:],
        "a png with a flipped bit": png[:-30] + bytes([png[-30] ^ 1]) + png[-29:],
        "giant png": png_that_declares(60_000, 60_000),
        "negative png": png_that_declares(2**31 + 1, 10),
        "giant jpeg": jpeg_that_declares(65_000, 65_000),
        "flat png": png_that_declares(100_000, 1),
        "gif": encoded(Image.fromarray(good), "GIF"),
        "bmp": encoded(Image.fromarray(good), "BMP"),
    }
    mixed = [picture for one in bad.values() for picture in (one, png)]
    calls = ask(
        exported,
        request(*mixed),
        request(*bad.values()),
        Call(signature="classify", inputs={"inputs": strings([example(png), b"no example", example(b""), b""])}),
    )
    wanted = network(good)[0]
    both = answer(calls[0])
    np.testing.assert_allclose(both["probabilities"][1::2], np.tile(wanted, (len(bad), 1)), atol=1e-5)
    for outputs in (
        {name: value[::2] for name, value in both.items()},
        answer(calls[1]),
        {name: value[1:] for name, value in answer(calls[2]).items()},
    ):
        assert all((value == (b"" if name == "classes" else 0)).all() for name, value in outputs.items())
    np.testing.assert_allclose(calls[2].outputs["scores"][0], np.sort(wanted)[::-1][:5], atol=1e-5)


def test_a_jpeg_that_is_cut_off_is_read_as_far_as_it_goes(exported, network, ask):
    pixels = photograph(160, 160)
    jpeg = encoded(Image.fromarray(pixels), "JPEG", quality=95)
    (call,) = ask(exported, request(jpeg[: len(jpeg) // 2], jpeg[:300]))
    probabilities = answer(call)["probabilities"]
    half = tf.io.decode_jpeg(jpeg[: len(jpeg) // 2], channels=3, try_recover_truncated=True).numpy()
    # The rows that are there are the picture's; the second is cut off before the first of them.
    np.testing.assert_allclose(half[:60].astype(int), pixels[:60], atol=12)
    assert (half[-40:] == 128).all()
    np.testing.assert_allclose(probabilities[0], network(half)[0], atol=1e-5)
    assert (probabilities[1] == 0).all()


def test_pixels_beyond_the_bounds_are_refused(exported, ask):
    (call,) = ask(exported, Call(signature="image_tensor", inputs={"images": np.zeros((1, 1, 100, 3), np.uint8)}))
    assert "a side 32 times the other" in call.error


@pytest.mark.parametrize("image_size", [1000, 31])
def test_decoding_of_what_is_trusted_and_what_is_not_is_the_same(image_size):
    image = Image.fromarray(photograph(image_size, image_size + 3))
    for picture in (encoded(image, "JPEG"), encoded(image, "PNG"), encoded(image.convert("L"), "JPEG")):
        np.testing.assert_array_equal(data.decode_untrusted(tf.constant(picture)), data.decode(tf.constant(picture)))


def test_bytes_and_floats_are_resized_alike():
    """So a large picture need not become four times as large first."""
    preprocessing = data.Preprocessing(resize=40, crop=32, mean=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0))
    image = photograph(333, 500)[np.newaxis]
    bytes_, floats = data.test_view(preprocessing, image), data.test_view(preprocessing, image.astype(np.float32))
    np.testing.assert_array_equal(bytes_, floats)


def test_many_damaged_files_crash_nothing(exported, network, ask):
    """scripts/mutate.py does the same with a thousand."""
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
    (call,) = ask(exported, request(*(picture for one in broken for picture in (one, png))))
    outputs = answer(call)
    np.testing.assert_allclose(outputs["probabilities"][1::2], np.tile(network(good)[0], (60, 1)), atol=1e-5)
    sums = outputs["probabilities"][::2].sum(axis=1)
    assert ((abs(sums - 1) < 1e-5) | (sums == 0)).all()


def test_warm_up_covers_every_signature_and_batch_size(exported):
    seen = [(signature, len(next(iter(inputs.values())))) for signature, inputs in read_warm_up(exported)]
    assert sorted(seen) == sorted((signature, size) for signature in SIGNATURES for size in BATCH_SIZES)
    assert read_batching(exported) == list(BATCH_SIZES)
    # One number stands for all: a picture of 224 px would else be 600 kB a row.
    assert (exported / WARM_UP).stat().st_size < 50_000
