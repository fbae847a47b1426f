"""The test views against slow ones in numpy, picture by picture, and against numbers written by hand."""

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import data
from keras_resnet.data import test_views
from keras_resnet.data.dataset import Arrays, Files

RGB = data.Preprocessing(resize=40, crop=32, mean=(120.0, 110.0, 100.0), scale=(50.0, 60.0, 70.0))
BGR = data.Preprocessing(resize=40, crop=32, channels="BGR", mean=(100.0, 110.0, 120.0), scale=(70.0, 60.0, 50.0))
PLAIN = data.Preprocessing(resize=40, crop=32, mean=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0))
# TensorFlow computes positions in float32: to a hundred-thousandth of 200 px, so a few thousandths of a grey value.
CLOSE = 0.01 / 50
SHAPES = [(40, 40), (40, 61), (75, 40), (97, 53), (33, 200), (20, 31)]
CORNERS = {(40, 40): (8, 8), (40, 61): (8, 29), (75, 40): (43, 8)}  # top and left of the crop at the bottom right


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def triangle(old, new):
    """`[new, old]`: the weights of an antialiased bilinear resize of one side, centres of pixels at halves."""
    step = old / new
    radius = max(1.0, step)
    weights = np.zeros((new, old))
    for i in range(new):
        for j in range(old):
            weights[i, j] = max(0.0, 1 - abs((j + 0.5) - (i + 0.5) * step) / radius)
    return weights / weights.sum(axis=1, keepdims=True)


def slow_resize(image, shorter):
    height, width = image.shape[:2]
    rows, columns = (triangle(side, side * shorter // min(height, width)) for side in (height, width))
    return np.einsum("ph,qw,hwc->pqc", rows, columns, image.astype(np.float64))


def slow_normalize(preprocessing, image):
    image = image if preprocessing.channels == "RGB" else image[..., ::-1]
    return (image - np.array(preprocessing.mean)) / np.array(preprocessing.scale)


def slow_ten_crop(preprocessing, image):
    image = slow_resize(image, preprocessing.resize)
    crop = preprocessing.crop
    height, width = image.shape[:2]
    bottom, right = height - crop, width - crop
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), ((height - crop) // 2, (width - crop) // 2)]
    crops = [slow_normalize(preprocessing, image[t : t + crop, l : l + crop]) for t, l in corners]
    return crops + [crop[:, ::-1] for crop in crops]


def test_the_corners_by_hand():
    """A picture whose red says its row, its green its column, and whose shorter side has the size already."""
    for (height, width), (bottom, right) in CORNERS.items():
        rows, columns = np.mgrid[:height, :width]
        image = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
        found = test_views.ten_crop(PLAIN, image[np.newaxis])
        ends = [(view[0, 0, 0, :2].numpy().tolist(), view[0, -1, -1, :2].numpy().tolist()) for view in found]
        tops = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
        assert ends[:5] == [([t, l], [t + 31, l + 31]) for t, l in tops]
        assert ends[5:] == [([t, l + 31], [t + 31, l]) for t, l in tops], "mirrored left to right"


@pytest.mark.parametrize("preprocessing", [RGB, BGR], ids=["RGB", "BGR"])
@pytest.mark.parametrize("shape", SHAPES)
def test_ten_crops_against_slow_ones(shape, preprocessing):
    image = picture(*shape)
    found = test_views.ten_crop(preprocessing, image[np.newaxis])
    wanted = slow_ten_crop(preprocessing, image)
    assert len(found) == len(wanted) == 10
    for ours, slow in zip(found, wanted, strict=True):
        assert ours.shape == (1, 32, 32, 3) and ours.dtype == tf.float32
        np.testing.assert_allclose(ours[0], slow, atol=CLOSE)
    assert (found[4].numpy() == test_views.single(preprocessing, image[np.newaxis])[0].numpy()).all()


def test_ten_crops_where_there_is_no_room():
    """Zeros around the normalised picture, an eighth of its side: two pixels at 16 px."""
    mean = np.random.default_rng(1).uniform(0, 255, (16, 16, 3))
    preprocessing = data.Preprocessing(
        resize=16, crop=16, mean=tuple(tuple(map(tuple, row)) for row in mean.tolist()), scale=(255.0,) * 3
    )
    image = picture(16, 16)
    padded = np.pad((image - mean) / 255, ((2, 2), (2, 2), (0, 0)))
    corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    wanted = [padded[t : t + 16, l : l + 16] for t, l in corners]
    found = test_views.ten_crop(preprocessing, image[np.newaxis])
    for ours, slow in zip(found, wanted + [crop[:, ::-1] for crop in wanted], strict=True):
        np.testing.assert_allclose(ours[0], slow, atol=1e-6)


def test_ten_crops_are_extremes_of_the_training_crops():
    """All 25 crops of the padded picture turn up in training, and the five of the test are among them."""
    preprocessing = data.Preprocessing(resize=16, crop=16, mean=(0.0,) * 3, scale=(1.0,) * 3)
    split = Arrays(np.repeat(picture(16, 16)[np.newaxis], 600, axis=0), np.zeros(600, np.int32))
    pipeline = data.train_batches(split, preprocessing, batch_size=600, augmentation="pad-crop-flip")
    trained = {image.tobytes() for image in next(iter(pipeline))[0].numpy()}
    assert len(trained) == 50
    tested = {view.numpy()[0].tobytes() for view in test_views.ten_crop(preprocessing, split.images[:1])}
    assert len(tested) == 10 and tested <= trained


def test_the_scales_by_hand():
    """The paper's at 224 px; at 32 px a seventh: 256 / 7 = 36.6, 384 / 7 = 54.9, 480 / 7 = 68.6, 640 / 7 = 91.4."""
    for crop, sides in [(224, [224, 256, 384, 480, 640]), (32, [32, 37, 55, 69, 91]), (8, [8, 9, 14, 17, 23])]:
        preprocessing = data.Preprocessing(resize=crop, crop=crop, mean=(0.0,) * 3, scale=(1.0,) * 3)
        found = test_views.multi_scale(preprocessing, picture(30, 60)[np.newaxis])
        assert [view.shape for view in found] == [(1, side, 2 * side, 3) for side in sides]


@pytest.mark.parametrize("preprocessing", [RGB, BGR], ids=["RGB", "BGR"])
@pytest.mark.parametrize("shape", SHAPES)
def test_scales_against_slow_ones(shape, preprocessing):
    image = picture(*shape)
    found = test_views.multi_scale(preprocessing, image[np.newaxis])
    for ours, side in zip(found, [32, 37, 55, 69, 91], strict=True):
        np.testing.assert_allclose(ours[0], slow_normalize(preprocessing, slow_resize(image, side)), atol=CLOSE)


def test_scales_under_a_mean_picture():
    """Cropped and normalised at the size of the mean picture first, resized then: squares whatever the picture."""
    mean = np.random.default_rng(1).uniform(0, 255, (16, 16, 3))
    preprocessing = data.Preprocessing(
        resize=20, crop=16, mean=tuple(tuple(map(tuple, row)) for row in mean.tolist()), scale=(255.0,) * 3
    )
    image = picture(20, 31)
    centre = (image[2:18, 7:23] - mean) / 255
    found = test_views.multi_scale(preprocessing, image[np.newaxis])
    for ours, side in zip(found, [16, 18, 27, 34, 46], strict=True):
        assert ours.shape == (1, side, side, 3)
        np.testing.assert_allclose(ours[0], slow_resize(centre, side), atol=1e-5)


def files(folder, shapes):
    paths = [folder / f"{number}.png" for number in range(len(shapes))]
    for number, (path, shape) in enumerate(zip(paths, shapes, strict=True)):
        tf.io.write_file(str(path), tf.io.encode_png(picture(*shape, seed=number)))
    return Files(np.array(list(map(str, paths))), np.arange(len(shapes), dtype=np.int32))


@pytest.mark.parametrize("kind", ["arrays", "files of one size", "files of any size"])
@pytest.mark.parametrize("batch_size", [1, 7, 256])
@pytest.mark.parametrize("views", data.VIEWS)
def test_every_picture_comes_once_in_order(views, batch_size, kind, tmp_path):
    shapes = [(48, 64)] * 6 if kind != "files of any size" else SHAPES
    if kind == "arrays":
        split = Arrays(np.stack([picture(*s, seed=n) for n, s in enumerate(shapes)]), np.arange(6, dtype=np.int32))
    else:
        split = files(tmp_path, shapes)
    labels = []
    for batch, numbers in data.view_batches(split, RGB, views, batch_size):
        assert {len(view) for view in batch} == {len(numbers)}
        assert len(numbers) <= max(1, batch_size // len(batch))
        for place, number in enumerate(numbers.numpy()):
            wanted = data.VIEWS[views](RGB, picture(*shapes[number], seed=number)[np.newaxis])
            for ours, alone in zip(batch, wanted, strict=True):
                np.testing.assert_allclose(ours[place], alone[0], atol=1e-5)
        labels += numbers.numpy().tolist()
    assert labels == list(range(6))


def test_pictures_go_through_together_where_they_can(tmp_path):
    """Batches hold as many views as asked for, or one picture where pictures differ in size."""
    images = np.zeros((12, 48, 64, 3), np.uint8)
    arrays = Arrays(images, np.zeros(12, np.int32))
    together = {views: [len(n) for _, n in data.view_batches(arrays, RGB, views, 25)] for views in data.VIEWS}
    assert together == {"single": [12], "ten-crop": [2] * 6, "multi-scale": [5, 5, 2]}
    different = files(tmp_path, SHAPES)
    together = {views: [len(n) for _, n in data.view_batches(different, RGB, views, 25)] for views in data.VIEWS}
    assert together == {"single": [6], "ten-crop": [2] * 3, "multi-scale": [1] * 6}
