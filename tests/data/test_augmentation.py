"""Compare augmentations with slow versions on the same random numbers, and test statistics."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from sklearn.datasets import load_sample_images

from keras_resnet.data import augmentation as views
from keras_resnet.data import policies
from keras_resnet.data.decoding import decode


def in_pipeline(function, images, step):
    """Run a function inside tf.data, where shapes are traced and the step is a tensor."""
    dataset = tf.data.Dataset.from_tensors((images, step))
    return next(iter(dataset.map(lambda images, step: function(images, step=step))))


@pytest.mark.parametrize("flip", [False, True])
def test_pad_crop_equals_a_slow_version(flip):
    """Results are the 9 x 9 crops of the padded image and its mirror image, equally likely."""
    padding, count = 4, 8100
    image = np.arange(1.0, 12 * 10 + 1, dtype=np.float32).reshape(12, 10, 1)
    images = np.repeat(image[np.newaxis], count, axis=0)
    view = partial(views.pad_crop, seed=5, padding=padding, flip=flip)
    eager = view(images, step=6).numpy()
    traced = in_pipeline(view, images, 6).numpy()
    assert (eager == traced).all()

    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    crops = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + 12, left : left + 10]
            crops[crop.tobytes()] = (top, left, False)
            if flip:
                crops[crop[:, ::-1].tobytes()] = (top, left, True)
    assert len(crops) == (162 if flip else 81)
    seen = Counter(crops[result.tobytes()] for result in eager)
    # The 0.9999 quantiles of chi-squared with 161 and 80 degrees of freedom.
    expected = count / len(crops)
    assert sum((seen[crop] - expected) ** 2 / expected for crop in crops.values()) < (
        237 if flip else 133
    )


@pytest.fixture(scope="module")
def photographs():
    """Return encoded photographs: of ImageNet's size, upright, almost square, and small."""
    files = []
    for image in load_sample_images().images:
        for height, width in ((375, 500), (500, 333), (601, 600), (150, 200)):
            pixels = tf.image.resize(image, (height, width), antialias=True)
            files.append(
                tf.io.encode_jpeg(tf.saturate_cast(tf.round(pixels), tf.uint8), quality=92)
            )
    return files


def resize_then_crop(file, draw, size, shorter, antialias, aspect="keep"):
    """Decode and resize the whole image, crop it and mirror it, as in section 3.4."""
    whole = decode(file).numpy()
    low, high = shorter
    target = low + int(draw[0] * (high - low + 1))
    height, width = (side * target // min(whole.shape[:2]) for side in whole.shape[:2])
    if aspect == "stretch":
        height = width = target
    resized = tf.image.resize(
        whole, (height, width), method="bilinear", antialias=antialias
    ).numpy()
    top, left = int(draw[1] * (height - size + 1)), int(draw[2] * (width - size + 1))
    crop = resized[top : top + size, left : left + size]
    return crop[:, ::-1] if draw[3] < 0.5 else crop


@pytest.mark.slow
@pytest.mark.parametrize(
    ("antialias", "aspect"), [(True, "keep"), (False, "keep"), (True, "stretch")]
)
@pytest.mark.parametrize("traced", [False, True])
def test_the_window_is_the_crop_of_the_resized_photograph(
    photographs, antialias, aspect, traced, monkeypatch
):
    """On the same draws, including the corners of the unit cube. Mean differences are of 255."""
    corners = np.array(
        [[a, b, c, a] for a in (0, 1) for b in (0, 1) for c in (0, 1)], np.float32
    ) * (1 - 2**-24)
    draws = np.concatenate(
        [corners, np.random.default_rng(0).random((24, views.DRAWS), np.float32)]
    )
    files = [photographs[i % len(photographs)] for i in range(len(draws))]

    def view(file, draw):
        monkeypatch.setattr(views, "uniform", lambda *_: draw[tf.newaxis])
        return views.scale_crop_flip(file, seed=0, step=0, antialias=antialias, aspect=aspect)

    if traced:
        ours = (
            tf.data.Dataset.from_tensor_slices((tf.stack(files), draws))
            .map(view)
            .as_numpy_iterator()
        )
    else:
        ours = (
            view(file, tf.constant(draw)).numpy() for file, draw in zip(files, draws, strict=True)
        )
    images = list(ours)
    slow = [
        resize_then_crop(f, draw, 224, (256, 480), antialias, aspect)
        for f, draw in zip(files, draws, strict=True)
    ]
    for image, wanted in zip(images, slow, strict=True):
        assert image.shape == (224, 224, 3)
        assert np.abs(image - wanted).mean() < 0.01
        # A window that is off by one pixel differs by far more.
        assert np.abs(np.roll(image, 1, axis=1) - wanted).mean() > 0.5
    assert len({image.tobytes() for image in images}) == len(draws)


@pytest.mark.parametrize("encode", [tf.io.encode_png, tf.identity], ids=["png", "pixels"])
def test_png_images_and_pixels_have_the_same_view(photographs, encode, monkeypatch):
    draw = np.array([0.3, 0.9, 0.1, 0.2], np.float32)
    pixels = tf.io.decode_jpeg(photographs[0])
    monkeypatch.setattr(views, "uniform", lambda *_: tf.constant([draw]))
    image = views.scale_crop_flip(encode(pixels), seed=0, step=0)
    wanted = resize_then_crop(tf.io.encode_png(pixels), draw, 224, (256, 480), True)
    np.testing.assert_allclose(image, wanted, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("traced", [False, True])
def test_every_shorter_side_every_offset_and_both_mirror_images_are_equally_likely(traced):
    """Compute the crop from slope and intercept of an image whose red is x and whose green is y."""
    count, side, size, shorter = 2000, 48, 8, (10, 15)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    image = tf.constant(np.stack([x, y, x], axis=2))
    steps = np.arange(count)

    def view(step):
        return views.scale_crop_flip(
            image, seed=1, step=step, size=size, shorter=shorter, antialias=False
        )

    if traced:
        cut = np.stack(
            list(tf.data.Dataset.from_tensor_slices(steps).map(view).as_numpy_iterator())
        )
    else:
        cut = np.stack([view(step) for step in steps])
    mirrored = cut[:, 0, -1, 0] < cut[:, 0, 0, 0]
    cut[mirrored] = cut[mirrored, :, ::-1]
    slopes = (cut[:, 5, 0, 1] - cut[:, 2, 0, 1]) / 3
    targets = side / slopes
    tops = (cut[:, 2, 0, 1] + 0.5) / slopes - 2.5
    lefts = (cut[:, 0, 2, 0] + 0.5) / slopes - 2.5
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
    # All of them are independent.
    positions = targets - size + 1
    relative = np.stack([targets, (tops + 0.5) / positions, (lefts + 0.5) / positions, mirrored])
    assert np.abs(np.corrcoef(relative) - np.eye(4)).max() < 4 / np.sqrt(count)


def test_a_square_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match=r"size is 300 and shorter is \(256, 480\)"):
        views.scale_crop_flip(tf.zeros([500, 500, 3]), seed=0, step=0, size=300, shorter=(256, 480))
    with pytest.raises(ValueError, match="aspect is 'squeeze'; choose one of 'keep', 'stretch'"):
        views.scale_crop_flip(tf.zeros([500, 500, 3]), seed=0, step=0, aspect="squeeze")


@pytest.mark.parametrize("traced", [False, True])
def test_lighting_has_the_covariance_of_the_colors(traced):
    """Krizhevsky et al. 2012, section 4.1: normal along each principal component, with 0.1 times
    the eigenvalue as standard deviation.

    The components are copied from fb.resnet.torch, datasets/imagenet.lua.
    """
    count, deviation = 20_000, 0.1
    images = np.random.default_rng(0).uniform(0, 255, (count, 2, 3, 3)).astype(np.float32)
    view = partial(views.lighting, seed=3, deviation=deviation)
    lit = (in_pipeline(view, images, 4) if traced else view(images, step=4)).numpy()
    shifts = lit - images
    assert np.ptp(shifts, axis=(1, 2)).max() < 1e-3, "one step for all pixels of an image"
    steps = shifts[:, 0, 0].astype(np.float64) / 255

    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    wanted = vectors @ np.diag((deviation * values) ** 2) @ vectors.T
    found = np.cov(steps.T)
    # Five standard errors of a covariance of normal numbers.
    error = np.sqrt((wanted**2 + np.outer(np.diag(wanted), np.diag(wanted))) / count)
    assert (np.abs(found - wanted) < 5 * error).all()
    assert (np.abs(steps.mean(axis=0)) < 5 * np.sqrt(np.diag(wanted) / count)).all()
    for component in (steps @ vectors).T:
        assert stats.kstest(component / component.std(), "norm").pvalue > 1e-3


def torchvision_rectangles(count, height, width, areas, aspects, central):
    """Return the top, left, height and width of random rectangles as torchvision draws them.

    RandomResizedCrop.get_params and RandomErasing.get_params make up to ten tries, and then return
    the central crop or nothing.
    """
    random, found = np.random.default_rng(0), []
    for _ in range(count):
        for _ in range(10):
            area = height * width * random.uniform(*areas)
            aspect = np.exp(random.uniform(*np.log(aspects)))
            w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top, left = (random.integers(0, room + 1) for room in (height - h, width - w))
                found.append((top, left, h, w))
                break
        else:
            if central:
                ratio = np.clip(width / height, *aspects)
                w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
                found.append(((height - h) // 2, (width - w) // 2, h, w))
    return np.array(found)


def assert_same_distribution(ours, theirs):
    """Compare the distributions of sides, offsets and margins, and of their products."""
    for a, b in zip(ours.T, theirs.T, strict=True):
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    for numbers in ((2, 3), (0, 2), (1, 3), (0, 1)):
        a, b = (values[:, numbers].prod(axis=1) for values in (ours, theirs))
        assert stats.ks_2samp(a, b).pvalue > 1e-3


@tf.function
def random_parts(sides, draws, area, aspect):
    def part(draw):
        return tf.concat(views.random_part(sides, draw, area=area, aspect=aspect), axis=0)

    return tf.map_fn(part, draws, fn_output_signature=tf.int32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sides", "area", "fallback"),
    [((90, 120), 0.08, 0.0), ((64, 64), 0.35, 0.0), ((40, 300), 0.08, 0.05), ((20, 100), 0.9, 1.0)],
)
def test_random_parts_have_torchvisions_distribution(sides, area, fallback):
    """Long images are included, for which often none of ten tries fits."""
    count = 4000
    draws = views.uniform(count, 2 * views.TRIES + 3, 3, 4, 0)
    ours = random_parts(tf.constant(sides), draws, area, "keep").numpy()
    theirs = torchvision_rectangles(count, *sides, (area, 1), (3 / 4, 4 / 3), central=True)
    assert_same_distribution(ours, theirs)
    assert (
        (ours[:, :2] + ours[:, 2:] <= sides).all() and (ours >= 0).all() and (ours[:, 2:] > 0).all()
    )
    whole_height = (ours[:, 2] == sides[0]).mean()
    assert whole_height >= fallback * 0.9


def test_random_parts_of_a_stretched_image_equal_those_of_a_square():
    """The aspect ratio is measured after stretching."""
    draws = views.uniform(4000, 2 * views.TRIES + 3, 5, 6, 0)
    wide = random_parts(tf.constant([300, 900]), draws, 0.2, "stretch").numpy()
    square = random_parts(tf.constant([900, 900]), draws, 0.2, "keep").numpy()
    # A pixel of the shorter side is three of the square's. If a side is almost the whole side,
    # rounding also decides which of the tries fits.
    near = (np.abs(wide * [3, 1, 3, 1] - square) <= 4).all(axis=1)
    assert near.mean() > 0.995


@pytest.mark.slow
@pytest.mark.parametrize(("antialias", "aspect"), [(True, "keep"), (False, "stretch")])
@pytest.mark.parametrize("kind", ["jpeg", "png", "pixels"])
def test_resized_crops_equal_resized_parts(photographs, antialias, aspect, kind, monkeypatch):
    """Compare with the whole image decoded, cropped, resized by TensorFlow and mirrored.

    Mean differences are of 255.
    """
    draws = np.random.default_rng(1).random((16, 2 * views.TRIES + 3), np.float32)
    mirrors = []
    for number, draw in enumerate(draws):
        file = photographs[number % len(photographs)]
        whole = decode(file)
        image = {"jpeg": file, "png": tf.io.encode_png(whole), "pixels": whole}[kind]
        monkeypatch.setattr(views, "uniform", lambda *_, draw=draw: tf.constant([draw]))
        options = {"aspect": aspect, "antialias": antialias}
        found = views.resized_crop_flip(image, seed=0, step=0, size=96, area=0.35, **options)
        begin, sides = views.random_part(tf.shape(whole)[:2], draw, area=0.35, aspect=aspect)
        (top, left), (height, width) = begin.numpy(), sides.numpy()
        wanted = tf.image.resize(
            whole[top : top + height, left : left + width], (96, 96), antialias=antialias
        ).numpy()
        wanted = wanted[:, ::-1] if draw[-1] < 0.5 else wanted
        assert np.abs(found - wanted).mean() < 0.001
        mirrors.append(draw[-1] < 0.5)
    assert 0 < sum(mirrors) < len(mirrors)


def test_half_of_the_resized_crops_are_mirrored():
    image = np.broadcast_to(np.arange(32.0)[:, np.newaxis], (400, 32, 32, 3))
    view = partial(views.resized_crop_flip, seed=1, size=8)
    cut = in_pipeline(view, image.astype(np.float32), 2).numpy()
    mirrored = cut[:, 0, 0, 0] > cut[:, 0, -1, 0]
    assert stats.binomtest(int(mirrored.sum()), 400).pvalue > 1e-3


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_erased_rectangles_have_torchvisions_distribution(probability):
    """Nothing outside of the rectangle changes."""
    count, height, width = 4000, 60, 80
    images = np.full((count, height, width, 1), 7, np.uint8)
    options = {"seed": 1, "step": 2, "probability": probability}
    erased = views.random_erasing(images, **options).numpy()[..., 0] == 0
    rows, columns = erased.any(axis=2), erased.any(axis=1)
    assert (erased == rows[:, :, np.newaxis] & columns[:, np.newaxis]).all()
    changed = rows.any(axis=1)
    if probability in (0, 1):
        # The probability that none of ten tries fits is below 1e-9.
        assert (changed == bool(probability)).all()
    else:
        assert stats.binomtest(int(changed.sum()), count, probability).pvalue > 1e-3
    if not probability:
        return
    rows, columns = rows[changed], columns[changed]
    sides = np.stack([rows.sum(axis=1), columns.sum(axis=1)], axis=1)
    begin = np.stack([rows.argmax(axis=1), columns.argmax(axis=1)], axis=1)
    last = [side[:, ::-1].argmax(axis=1) for side in (rows, columns)]
    assert (begin + sides + np.stack(last, axis=1) == (height, width)).all(), "no gaps"
    theirs = torchvision_rectangles(4000, height, width, (0.02, 0.33), (0.3, 3.3), central=False)
    assert_same_distribution(np.concatenate([begin, sides], axis=1), theirs)


def test_invalid_areas_are_refused():
    for area in (0, 1.5):
        with pytest.raises(ValueError, match=f"area is {area}; give a number above 0, at most 1"):
            views.resized_crop_flip(tf.zeros([9, 9, 3]), seed=0, step=0, area=area)
    with pytest.raises(ValueError, match="aspect is 'squeeze'; choose one of 'keep', 'stretch'"):
        views.resized_crop_flip(tf.zeros([9, 9, 3]), seed=0, step=0, aspect="squeeze")


FUNCTIONS = {
    "pad-crop": (views.pad_crop, {"padding": 2}),
    "lighting": (views.lighting, {}),
    "scale-crop-flip": (views.scale_crop_flip, {"size": 12}),
    "two taps": (views.scale_crop_flip, {"size": 12, "antialias": False}),
    "stretch": (views.scale_crop_flip, {"size": 12, "aspect": "stretch"}),
    "resized-crop-flip": (views.resized_crop_flip, {"size": 12}),
    "resized, stretched": (views.resized_crop_flip, {"size": 12, "aspect": "stretch"}),
    "random-erasing": (views.random_erasing, {"probability": 0.7}),
    "trivial-augment": (policies.trivial_augment, {}),
    "rand-augment": (policies.rand_augment, {"strength": 9, "fill": (1, 2, 3)}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "encoded"),
    [(name, False) for name in FUNCTIONS]
    + [("scale-crop-flip", True), ("resized-crop-flip", True)],
)
def test_a_view_is_a_function_of_seed_step_and_position(name, encoded):
    """An image has the same view alone, in a batch, in a shard, eagerly and in tf.data."""
    function, options = FUNCTIONS[name]
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 31, 3), np.uint8)
    if encoded:
        images = np.array([tf.io.encode_jpeg(image).numpy() for image in images], object)
    images = tf.constant(images)
    view = partial(function, seed=3, **options)
    batch = view(images, step=7).numpy()
    for i in range(6):
        assert (view(images[i], step=7, position=i).numpy() == batch[i]).all()
    assert (view(images[4:], step=7, position=4).numpy() == batch[4:]).all()
    assert (in_pipeline(view, images, np.int64(7)).numpy() == batch).all()

    singles = tf.data.Dataset.from_tensor_slices(images).enumerate()
    singles = singles.map(lambda i, image: view(image, step=7, position=i))
    assert all((a == b).all() for a, b in zip(singles.as_numpy_iterator(), batch, strict=True))

    assert (view(images, step=8).numpy() != batch).any(), "another step"
    assert (function(images, seed=4, step=7, **options).numpy() != batch).any(), "another seed"
    same = view(tf.stack([images[0]] * 6), step=7).numpy()
    assert len({row.tobytes() for row in same}) > 1, "another position"
