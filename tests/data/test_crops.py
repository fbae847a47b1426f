"""Compare the test views with slow versions in NumPy and with numbers computed by hand."""

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet.data import crops as test_views
from keras_resnet.data.crops import VIEWS
from keras_resnet.data.dataset import Arrays, Files
from keras_resnet.data.pipeline import Augmentation, train_batches, view_batches
from keras_resnet.data.preprocessing import Preprocessing

RGB = Preprocessing(resize=40, crop=32, mean=(120.0, 110.0, 100.0), scale=(50.0, 60.0, 70.0))
BGR = Preprocessing(
    resize=40, crop=32, channels="BGR", mean=(100.0, 110.0, 120.0), scale=(70.0, 60.0, 50.0)
)
PLAIN = Preprocessing(resize=40, crop=32)
# TensorFlow computes positions in float32, up to a hundred-thousandth of 200 px. This is a few
# thousandths of a gray value.
CLOSE = 0.01 / 50
SHAPES = [(40, 40), (40, 61), (75, 40), (97, 53), (33, 200), (20, 31)]
CORNERS = {
    (40, 40): (8, 8),
    (40, 61): (8, 29),
    (75, 40): (43, 8),
}  # the top and left of the crop at the bottom right


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def triangle(old, new):
    """Return the weights `[new, old]` of an antialiased bilinear resize of one side.

    The centers of pixels are at halves.
    """
    step = old / new
    distances = np.arange(old) + 0.5 - (np.arange(new)[:, np.newaxis] + 0.5) * step
    weights = np.maximum(0.0, 1 - np.abs(distances) / max(1.0, step))
    return weights / weights.sum(axis=1, keepdims=True)


def slow_resize(image, shorter):
    height, width = image.shape[:2]
    rows, columns = (
        triangle(side, side * shorter // min(height, width)) for side in (height, width)
    )
    return np.einsum("ph,qw,hwc->pqc", rows, columns, image.astype(np.float64), optimize=True)


def slow_normalize(preprocessing, image):
    image = image if preprocessing.channels == "RGB" else image[..., ::-1]
    return (image - np.array(preprocessing.mean)) / np.array(preprocessing.scale)


def slow_ten_crop(preprocessing, image):
    image = slow_resize(image, preprocessing.resize)
    crop = preprocessing.crop
    height, width = image.shape[:2]
    bottom, right = height - crop, width - crop
    corners = [
        (0, 0),
        (0, right),
        (bottom, 0),
        (bottom, right),
        ((height - crop) // 2, (width - crop) // 2),
    ]
    crops = [slow_normalize(preprocessing, image[y : y + crop, x : x + crop]) for y, x in corners]
    return crops + [crop[:, ::-1] for crop in crops]


def test_the_corners_by_hand():
    """Red is the row and green the column of an image that need not be resized."""
    for (height, width), (bottom, right) in CORNERS.items():
        rows, columns = np.mgrid[:height, :width]
        image = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
        found = test_views.ten_crop(PLAIN, image[np.newaxis])
        ends = [
            (view[0, 0, 0, :2].numpy().tolist(), view[0, -1, -1, :2].numpy().tolist())
            for view in found
        ]
        tops = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
        assert ends[:5] == [([y, x], [y + 31, x + 31]) for y, x in tops]
        assert ends[5:] == [([y, x + 31], [y + 31, x]) for y, x in tops], "mirrored left to right"


@pytest.mark.parametrize("preprocessing", [RGB, BGR], ids=["RGB", "BGR"])
@pytest.mark.parametrize("shape", SHAPES)
def test_ten_crops_equal_a_slow_version(shape, preprocessing):
    image = photo(*shape)
    found = test_views.ten_crop(preprocessing, image[np.newaxis])
    wanted = slow_ten_crop(preprocessing, image)
    assert len(found) == len(wanted) == 10
    for ours, slow in zip(found, wanted, strict=True):
        assert ours.shape == (1, 32, 32, 3) and ours.dtype == tf.float32
        np.testing.assert_allclose(ours[0], slow, atol=CLOSE)
    assert (
        found[4].numpy() == test_views.single(preprocessing, image[np.newaxis])[0].numpy()
    ).all()


def test_ten_crops_without_margins_pad_with_zeros():
    """The padding is an eighth of the side: two pixels at 16 px."""
    mean = np.random.default_rng(1).uniform(0, 255, (16, 16, 3))
    preprocessing = Preprocessing(
        resize=16,
        crop=16,
        mean=tuple(tuple(map(tuple, row)) for row in mean.tolist()),
        scale=(255.0,) * 3,
    )
    image = photo(16, 16)
    padded = np.pad((image - mean) / 255, ((2, 2), (2, 2), (0, 0)))
    corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    wanted = [padded[y : y + 16, x : x + 16] for y, x in corners]
    found = test_views.ten_crop(preprocessing, image[np.newaxis])
    for ours, slow in zip(found, wanted + [crop[:, ::-1] for crop in wanted], strict=True):
        np.testing.assert_allclose(ours[0], slow, atol=1e-6)


def test_ten_crops_are_extremes_of_the_training_crops():
    """All 25 crops of the padded image occur in training; five of them are test crops."""
    preprocessing = Preprocessing(resize=16, crop=16, mean=(0.0,) * 3, scale=(1.0,) * 3)
    split = Arrays(np.repeat(photo(16, 16)[np.newaxis], 600, axis=0), np.zeros(600, np.int32))
    pipeline = train_batches(
        split, preprocessing, batch_size=600, augmentation=Augmentation("pad-crop-flip")
    )
    trained = {image.tobytes() for image in next(iter(pipeline))[0].numpy()}
    assert len(trained) == 50
    tested = {
        view.numpy()[0].tobytes() for view in test_views.ten_crop(preprocessing, split.images[:1])
    }
    assert len(tested) == 10 and tested <= trained


def test_the_scales_by_hand():
    """The paper's scales at 224 px, and a seventh of them at 32 px: 256 / 7 = 36.6,
    384 / 7 = 54.9, 480 / 7 = 68.6, 640 / 7 = 91.4."""
    for crop, sides in [
        (224, [224, 256, 384, 480, 640]),
        (32, [32, 37, 55, 69, 91]),
        (8, [8, 9, 14, 17, 23]),
    ]:
        preprocessing = Preprocessing(resize=crop, crop=crop, mean=(0.0,) * 3, scale=(1.0,) * 3)
        found = test_views.multi_scale(preprocessing, photo(30, 60)[np.newaxis])
        assert [view.shape for view in found] == [(1, side, 2 * side, 3) for side in sides]


@pytest.mark.slow
@pytest.mark.parametrize("preprocessing", [RGB, BGR], ids=["RGB", "BGR"])
@pytest.mark.parametrize("shape", SHAPES)
def test_scales_equal_a_slow_version(shape, preprocessing):
    image = photo(*shape)
    found = test_views.multi_scale(preprocessing, image[np.newaxis])
    for ours, side in zip(found, [32, 37, 55, 69, 91], strict=True):
        np.testing.assert_allclose(
            ours[0], slow_normalize(preprocessing, slow_resize(image, side)), atol=CLOSE
        )


def test_scales_with_a_mean_image():
    """Images are cropped and normalized at the size of the mean image, then resized to squares."""
    mean = np.random.default_rng(1).uniform(0, 255, (16, 16, 3))
    preprocessing = Preprocessing(
        resize=20,
        crop=16,
        mean=tuple(tuple(map(tuple, row)) for row in mean.tolist()),
        scale=(255.0,) * 3,
    )
    image = photo(20, 31)
    middle = (image[2:18, 7:23] - mean) / 255
    found = test_views.multi_scale(preprocessing, image[np.newaxis])
    for ours, side in zip(found, [16, 18, 27, 34, 46], strict=True):
        assert ours.shape == (1, side, side, 3)
        np.testing.assert_allclose(ours[0], slow_resize(middle, side), atol=1e-5)


def files(folder, shapes):
    paths = [folder / f"{number}.png" for number in range(len(shapes))]
    for number, (path, shape) in enumerate(zip(paths, shapes, strict=True)):
        tf.io.write_file(str(path), tf.io.encode_png(photo(*shape, seed=number)))
    return Files(np.array(list(map(str, paths))), np.arange(len(shapes), dtype=np.int32))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrays", "files of one size", "files of any size"])
@pytest.mark.parametrize("batch_size", [1, 7, 256])
@pytest.mark.parametrize("views", VIEWS)
def test_every_image_occurs_once_in_order(views, batch_size, kind, tmp_path):
    shapes = [(48, 64)] * 6 if kind != "files of any size" else SHAPES
    if kind == "arrays":
        split = Arrays(
            np.stack([photo(*s, seed=n) for n, s in enumerate(shapes)]),
            np.arange(6, dtype=np.int32),
        )
    else:
        split = files(tmp_path, shapes)
    labels = []
    for batch, numbers in view_batches(split, RGB, views, batch_size):
        assert {len(view) for view in batch} == {len(numbers)}
        assert len(numbers) <= max(1, batch_size // len(batch))
        for place, number in enumerate(numbers.numpy()):
            wanted = VIEWS[views](RGB, photo(*shapes[number], seed=number)[np.newaxis])
            for ours, alone in zip(batch, wanted, strict=True):
                np.testing.assert_allclose(ours[place], alone[0], atol=1e-5)
        labels += numbers.numpy().tolist()
    assert labels == list(range(6))


@pytest.mark.slow
def test_images_are_batched_if_their_views_have_one_size(tmp_path):
    """A batch has `batch_size` views, or one image if images differ in size."""
    images = np.zeros((12, 48, 64, 3), np.uint8)
    arrays = Arrays(images, np.zeros(12, np.int32))
    together = {views: [len(n) for _, n in view_batches(arrays, RGB, views, 25)] for views in VIEWS}
    assert together == {"single": [12], "ten-crop": [2] * 6, "multi-scale": [5, 5, 2]}
    different = files(tmp_path, SHAPES)
    together = {
        views: [len(n) for _, n in view_batches(different, RGB, views, 25)] for views in VIEWS
    }
    assert together == {"single": [6], "ten-crop": [2] * 3, "multi-scale": [1] * 6}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_stretched_views_equal_a_slow_version(shape):
    """Both sides are resized, so ten crops have no margins and pad the single view with zeros."""
    preprocessing = Preprocessing(
        resize=32, crop=32, mean=RGB.mean, scale=RGB.scale, aspect="stretch"
    )
    image = photo(*shape)

    def stretched(side):
        rows, columns = (triangle(old, side) for old in shape)
        resized = np.einsum(
            "ph,qw,hwc->pqc", rows, columns, image.astype(np.float64), optimize=True
        )
        return slow_normalize(preprocessing, resized)

    padded = np.pad(stretched(32), ((4, 4), (4, 4), (0, 0)))
    corners = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]
    wanted = [padded[y : y + 32, x : x + 32] for y, x in corners]
    found = test_views.ten_crop(preprocessing, image[np.newaxis])
    for ours, slow in zip(found, wanted + [crop[:, ::-1] for crop in wanted], strict=True):
        np.testing.assert_allclose(ours[0], slow, atol=CLOSE)
    found = test_views.multi_scale(preprocessing, image[np.newaxis])
    for ours, side in zip(found, [32, 37, 55, 69, 91], strict=True):
        assert ours.shape == (1, side, side, 3)
        np.testing.assert_allclose(ours[0], stretched(side), atol=CLOSE)
