"""Compare the operations on images with PIL's, which the papers used."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from keras_resnet.data import operations

FACTORS = (0.01, 0.1, 0.5, 0.9, 1.0, 1.05, 1.3, 1.99)
SHIFTS = (-32, -5, -0.4, 0, 3, 7.6, 32)
SHEARS = (-0.99, -0.3, -0.033, 0, 0.1, 0.66)


def transformed(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


# Amounts, and the same operation in PIL as torchvision and timm call it.
BY_PIL = {
    "identity": ((0,), lambda image, a: image),
    "brightness": (FACTORS, lambda image, a: ImageEnhance.Brightness(image).enhance(a)),
    "color": (FACTORS, lambda image, a: ImageEnhance.Color(image).enhance(a)),
    "contrast": (FACTORS, lambda image, a: ImageEnhance.Contrast(image).enhance(a)),
    "sharpness": (FACTORS, lambda image, a: ImageEnhance.Sharpness(image).enhance(a)),
    "posterize": (range(1, 9), lambda image, a: ImageOps.posterize(image, int(a))),
    "solarize": ((0, 1, 8.5, 127.5, 128, 255, 256), ImageOps.solarize),
    "solarize_add": (
        (0, 3, 77, 110),
        lambda image, a: image.point([min(255, i + a) if i < 128 else i for i in range(256)] * 3),
    ),
    "invert": ((0,), lambda image, a: ImageOps.invert(image)),
    "autocontrast": ((0,), lambda image, a: ImageOps.autocontrast(image)),
    "equalize": ((0,), lambda image, a: ImageOps.equalize(image)),
    "shear_x": (SHEARS, lambda image, a: transformed(image, 1, a, 0, 0, 1, 0)),
    "shear_y": (SHEARS, lambda image, a: transformed(image, 1, 0, 0, a, 1, 0)),
    "translate_x": (SHIFTS, lambda image, a: transformed(image, 1, 0, -a, 0, 1, 0)),
    "translate_y": (SHIFTS, lambda image, a: transformed(image, 1, 0, 0, 0, 1, -a)),
}


def photographs(height, width):
    """Return two photographs, noise, and images of few values, near-white values and one value."""
    random = np.random.default_rng(height)
    shape = (height, width, 3)
    photos = [Image.fromarray(i).resize((width, height)) for i in load_sample_images().images]
    return np.stack(
        [
            *map(np.asarray, photos),
            random.integers(0, 256, shape, np.uint8),
            random.integers(40, 90, shape, np.uint8),
            np.clip(random.normal(245, 8, shape), 0, 255).astype(np.uint8),
            np.full(shape, 77, np.uint8),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_PIL)
@pytest.mark.parametrize("sides", [(96, 128), (32, 32), (1, 1), (2, 7)])
def test_pixels_equal_pils(name, sides):
    """Each image has a different amount."""
    amounts, by_pil = BY_PIL[name]
    images = photographs(*sides)
    pairs = [(image, amount) for image in images for amount in amounts]
    wanted = [np.asarray(by_pil(Image.fromarray(image), amount)) for image, amount in pairs]
    batch = tf.constant(np.stack([image for image, _ in pairs]))
    numbers = tf.constant([amount for _, amount in pairs], tf.float32)
    found = operations.apply(name, batch, numbers)
    np.testing.assert_array_equal(found, np.stack(wanted))
    assert operations.apply(name, batch[:0], numbers[:0]).shape == (0, *sides, 3)
    # A graph may reorder arithmetic.
    traced = tf.function(operations.apply)(name, batch, numbers)
    np.testing.assert_array_equal(traced, found)


def test_every_operation_is_compared():
    assert {*BY_PIL, "rotate"} == {*operations.COLOR, *operations.AFFINE}


def test_no_bits_are_black():
    """PIL refuses 0 bits, which timm's strongest posterization has."""
    images = tf.constant(photographs(8, 8))
    assert not operations.apply("posterize", images, tf.zeros([len(images)])).numpy().any()


@pytest.mark.parametrize("angle", [-135, -90, -45, -4.5, 0, 7, 13.3, 90, 121.5, 135])
def test_rotation_equals_pils_except_for_ties(angle):
    """Only pixels whose source is at least 1/200 of a pixel from a border are compared.

    PIL computes in steps of 1/65536, whose error accumulates over a row, and at 45 degrees many
    sources are exactly on a border.
    """
    images = photographs(96, 128)
    found = operations.apply("rotate", tf.constant(images), tf.fill([len(images)], float(angle)))
    wanted = np.stack([np.asarray(Image.fromarray(image).rotate(angle)) for image in images])
    y, x = np.mgrid[:96, :128] + 0.5
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    origins = (
        64 + cos * (x - 64) - sin * (y - 48),
        48 + sin * (x - 64) + cos * (y - 48),
    )
    clear = np.all([np.abs(origin - np.round(origin)) > 1 / 200 for origin in origins], axis=0)
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(found.numpy()[:, clear], wanted[:, clear])


def test_pixels_from_outside_have_the_fill_color():
    images = tf.constant(photographs(16, 24))
    shifts = tf.fill([len(images)], 5.0)
    moved = operations.apply("translate_x", images, shifts, fill=(1, 200, 30)).numpy()
    assert (moved[:, :, :5] == (1, 200, 30)).all()
    np.testing.assert_array_equal(moved[:, :, 5:], images[:, :, :-5])
