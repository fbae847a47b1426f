"""The augmentations against slow ones that are told what was drawn, and the statistics of what is drawn."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.datasets import load_sample_images

from keras_resnet.data import views


def run_in_pipeline(function, *arguments):
    """The same operation inside tf.data, where shapes are traced and seeds are tensors."""
    return next(iter(tf.data.Dataset.from_tensors(arguments).map(function)))


@pytest.mark.parametrize("flip", [False, True])
def test_pad_crop_against_a_slow_one(flip):
    """Every result is one of the 9 x 9 crops of the padded picture or its mirror image; each is equally likely."""
    padding, count = 4, 8100
    picture = np.arange(1.0, 12 * 10 + 1, dtype=np.float32).reshape(12, 10, 1)
    images = np.repeat(picture[np.newaxis], count, axis=0)
    draws = tf.random.stateless_uniform([count, 3], [5, 6])
    eager = views.pad_crop(tf.constant(images), padding, flip, draws).numpy()
    traced = run_in_pipeline(
        lambda images, draws: views.pad_crop(images, padding, flip, draws), images, draws
    ).numpy()
    assert (eager == traced).all()

    padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)))
    crops = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + 12, left : left + 10]
            crops[crop.tobytes()] = (top, left, False)
            if flip:
                crops[crop[:, ::-1].tobytes()] = (top, left, True)
    assert len(crops) == (162 if flip else 81)
    seen = Counter(crops[result.tobytes()] for result in eager)
    # Chi-squared with 161 and 80 degrees of freedom: 0.9999 of it lies below.
    expected = count / len(crops)
    assert sum((seen[crop] - expected) ** 2 / expected for crop in crops.values()) < (237 if flip else 133)


@pytest.fixture(scope="module")
def photographs():
    """Real photographs as files: of ImageNet's size, on end, almost square, smaller than any shorter side."""
    files = []
    for image in load_sample_images().images:
        for height, width in ((375, 500), (500, 333), (601, 600), (150, 200)):
            pixels = tf.image.resize(image, (height, width), antialias=True)
            files.append(tf.io.encode_jpeg(tf.saturate_cast(tf.round(pixels), tf.uint8), quality=92))
    return files


def resize_then_crop(file, draw, size, shorter, antialias):
    """Section 3.4 word by word: the whole picture is decoded and resized, then cropped, then mirrored."""
    whole = tf.io.decode_image(file, channels=3, expand_animations=False).numpy()
    low, high = shorter
    target = low + int(draw[0] * (high - low + 1))
    height, width = (side * target // min(whole.shape[:2]) for side in whole.shape[:2])
    resized = tf.image.resize(whole, (height, width), method="bilinear", antialias=antialias).numpy()
    top, left = int(draw[1] * (height - size + 1)), int(draw[2] * (width - size + 1))
    crop = resized[top : top + size, left : left + size]
    return crop[:, ::-1] if draw[3] < 0.5 else crop


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("traced", [False, True])
def test_the_window_is_the_crop_of_the_resized_photograph(photographs, antialias, traced):
    """On the same draws; the corners of the unit cube are among them. Of 255, a picture's mean difference."""
    corners = np.array([[a, b, c, a] for a in (0, 1) for b in (0, 1) for c in (0, 1)], np.float32) * (1 - 2**-24)
    draws = np.concatenate([corners, np.random.default_rng(0).random((24, views.DRAWS), np.float32)])
    files = [photographs[i % len(photographs)] for i in range(len(draws))]

    def view(file, draw):
        return views.scale_crop_flip(file, draw, antialias=antialias)

    if traced:
        ours = tf.data.Dataset.from_tensor_slices((tf.stack(files), draws)).map(view).as_numpy_iterator()
    else:
        ours = (view(file, tf.constant(draw)).numpy() for file, draw in zip(files, draws, strict=True))
    pictures = list(ours)
    slow = [resize_then_crop(f, draw, 224, (256, 480), antialias) for f, draw in zip(files, draws, strict=True)]
    for picture, wanted in zip(pictures, slow, strict=True):
        assert picture.shape == (224, 224, 3)
        assert np.abs(picture - wanted).mean() < 0.05
        # A window that is one pixel off would be seen: it differs by far more.
        assert np.abs(np.roll(picture, 1, axis=1) - wanted).mean() > 0.5
    assert len({picture.tobytes() for picture in pictures}) == len(draws)


@pytest.mark.parametrize("encode", [tf.io.encode_png, tf.identity], ids=["png", "pixels"])
def test_pictures_that_are_no_jpeg_have_the_same_view(photographs, encode):
    draw = np.array([0.3, 0.9, 0.1, 0.2], np.float32)
    pixels = tf.io.decode_jpeg(photographs[0])
    (picture,) = [views.scale_crop_flip(encode(pixels), tf.constant(draw))]
    wanted = resize_then_crop(tf.io.encode_png(pixels), draw, 224, (256, 480), True)
    np.testing.assert_allclose(picture, wanted, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("traced", [False, True])
def test_every_shorter_side_every_offset_and_both_mirror_images_are_equally_likely(traced):
    """Read off pictures whose red is x and whose green is y: slope and intercept tell how they were cut."""
    count, side, size, shorter = 2000, 48, 8, (10, 15)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    picture = tf.constant(np.stack([x, y, x], axis=2))
    draws = tf.random.stateless_uniform([count, views.DRAWS], [1, 2])

    def view(draw):
        return views.scale_crop_flip(picture, draw, size=size, shorter=shorter, antialias=False)

    if traced:
        cut = np.stack(list(tf.data.Dataset.from_tensor_slices(draws).map(view).as_numpy_iterator()))
    else:
        cut = np.stack([view(draw) for draw in draws])
    mirrored = cut[:, 0, -1, 0] < cut[:, 0, 0, 0]
    cut[mirrored] = cut[mirrored, :, ::-1]
    steps = (cut[:, 5, 0, 1] - cut[:, 2, 0, 1]) / 3
    targets = side / steps
    tops = (cut[:, 2, 0, 1] + 0.5) / steps - 2.5
    lefts = (cut[:, 0, 2, 0] + 0.5) / steps - 2.5
    for values in (targets, tops, lefts):
        np.testing.assert_allclose(values, np.round(values), atol=1e-3)
    targets, tops, lefts = (np.round(values).astype(int) for values in (targets, tops, lefts))

    def equally_likely(values, outcomes):
        counts = Counter(values.tolist())
        assert set(counts) <= set(outcomes)
        return stats.chisquare([counts[outcome] for outcome in outcomes]).pvalue > 1e-3

    assert equally_likely(mirrored, (False, True))
    assert equally_likely(targets, range(10, 16))
    for target in range(10, 16):
        positions = range(target - size + 1)
        assert equally_likely(tops[targets == target], positions)
        assert equally_likely(lefts[targets == target], positions)
    # And none of them says anything of another.
    positions = targets - size + 1
    relative = np.stack([targets, (tops + 0.5) / positions, (lefts + 0.5) / positions, mirrored])
    assert np.abs(np.corrcoef(relative) - np.eye(4)).max() < 4 / np.sqrt(count)


def test_a_square_larger_than_the_picture_is_refused():
    with pytest.raises(ValueError, match=r"size is 300 and shorter is \(256, 480\)"):
        views.scale_crop_flip(tf.zeros([500, 500, 3]), tf.zeros([4]), size=300, shorter=(256, 480))


@pytest.mark.parametrize("traced", [False, True])
def test_lighting_has_the_covariance_of_the_colours(traced):
    """Krizhevsky et al. 2012, section 4.1: along each principal component, normal with 0.1 times its eigenvalue.

    Components as in fb.resnet.torch, datasets/imagenet.lua, written out again here.
    """
    count, deviation = 20_000, 0.1
    images = np.random.default_rng(0).uniform(0, 255, (count, 2, 3, 3)).astype(np.float32)
    draws = tf.random.stateless_normal([count, 3], [3, 4])
    view = lambda images, draws: views.lighting(images, deviation, draws)  # noqa: E731
    lit = (run_in_pipeline(view, images, draws) if traced else view(tf.constant(images), draws)).numpy()
    shifts = lit - images
    assert np.ptp(shifts, axis=(1, 2)).max() < 1e-3, "one step for all pixels of a picture"
    steps = shifts[:, 0, 0].astype(np.float64) / 255

    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    wanted = vectors @ np.diag((deviation * values) ** 2) @ vectors.T
    found = np.cov(steps.T)
    # The standard error of a covariance of normal numbers; five of them.
    error = np.sqrt((wanted**2 + np.outer(np.diag(wanted), np.diag(wanted))) / count)
    assert (np.abs(found - wanted) < 5 * error).all()
    assert (np.abs(steps.mean(axis=0)) < 5 * np.sqrt(np.diag(wanted) / count)).all()
    for component in (steps @ vectors).T:
        assert stats.kstest(component / component.std(), "norm").pvalue > 1e-3
